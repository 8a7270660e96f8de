"""The room of jobs, put together from the settings."""

from __future__ import annotations

import os
import secrets
import socket
from collections.abc import Callable, Mapping, Sequence

from atelier_gateway.jobs.blobs import BlobStore
from atelier_gateway.jobs.database import Database
from atelier_gateway.jobs.outbox import Outbox
from atelier_gateway.jobs.runner import JobRunner, RunnerLimits
from atelier_gateway.jobs.service import Jobs
from atelier_gateway.jobs.store import JobStore, Limits
from atelier_gateway.jobs.turns import AtOnce
from atelier_gateway.jobs.upkeep import Upkeep
from atelier_gateway.jobs.values import Job, JobType, Json
from atelier_gateway.jobs.webhooks import Webhooks
from atelier_gateway.jobs.work import JobWork
from atelier_gateway.settings import NO_JOBS, GatewaySettings


def create_database(settings: GatewaySettings) -> Database | None:
    """Return the jobs' database, not opened yet; None: there are no jobs, on purpose."""
    return None if settings.jobs_database == NO_JOBS else Database(settings.jobs_database)


def create_jobs(
    settings: GatewaySettings,
    database: Database | None,
    works: Mapping[JobType, JobWork],
    describe: Callable[[Job], Json],
    at_once_of: Callable[[], Sequence[AtOnce]],
) -> Jobs | None:
    """Build it; nothing is opened yet. None without a database: there are no jobs.

    `describe`: what webhooks say of a job. `at_once_of`: see `JobStore`.
    """
    if database is None:
        return None
    outbox = Outbox(database, describe)
    lease_s = settings.jobs_lease_seconds
    limits = Limits(settings.jobs_waiting, settings.jobs_waiting_per_key, int(1000 * lease_s))
    store = JobStore(database, limits, outbox, at_once_of)
    blobs = BlobStore(settings.jobs_files)
    runner_limits = RunnerLimits(
        at_once=settings.jobs_at_once,
        deadline_s=settings.deadline_seconds,
        patience_s=settings.jobs_patience_seconds,
        lease_s=lease_s,
        max_pixels=settings.max_pixels,
        max_result_bytes=settings.jobs_max_result_bytes,
    )
    name = f"{socket.gethostname()[:32]}-{os.getpid()}-{secrets.token_hex(4)}"
    webhooks = None
    if settings.webhook_secrets:
        private = settings.webhook_private_addresses
        webhooks = Webhooks(outbox, settings.webhook_secrets, private_addresses=private)
    return Jobs(
        database,
        store,
        blobs,
        works,
        JobRunner(store, blobs, works, runner_limits, name=name),
        webhooks,
        Upkeep(database, outbox),
        at_once=settings.jobs_at_once,
        max_result_bytes=settings.jobs_max_result_bytes,
    )
