"""The room of jobs, put together from the settings."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from pathlib import Path

from atelier_gateway.jobs.blobs import BlobStore
from atelier_gateway.jobs.database import Database
from atelier_gateway.jobs.runner import JobRunner
from atelier_gateway.jobs.service import Jobs
from atelier_gateway.jobs.store import JobStore, Limits
from atelier_gateway.jobs.values import JobType
from atelier_gateway.jobs.work import JobWork
from atelier_gateway.settings import GatewaySettings

_DRIVERS = {"sqlite": "sqlite+aiosqlite", "postgresql": "postgresql+psycopg", "postgres": "postgresql+psycopg"}


def create_jobs(settings: GatewaySettings, works: Mapping[JobType, JobWork]) -> Jobs:
    """Build it; nothing is opened yet."""
    scheme, _, rest = settings.jobs_database.partition(":")
    if scheme == "sqlite":
        Path(rest.removeprefix("///")).parent.mkdir(parents=True, exist_ok=True)
    database = Database(f"{_DRIVERS.get(scheme, scheme)}:{rest}")
    store = JobStore(database, Limits(settings.jobs_waiting, settings.jobs_waiting_per_key))
    blobs = BlobStore(settings.jobs_files)
    runner = JobRunner(
        store,
        blobs,
        works,
        name=f"{socket.gethostname()}-{os.getpid()}",
        at_once=settings.jobs_at_once,
        deadline_s=settings.deadline_seconds,
        max_pixels=settings.max_pixels,
    )
    return Jobs(database, store, blobs, works, runner)
