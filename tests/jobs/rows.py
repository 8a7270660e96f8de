"""A store of jobs on a real database, for tests."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from atelier_gateway.jobs.database import Database
from atelier_gateway.jobs.migrations import upgrade
from atelier_gateway.jobs.outbox import Outbox
from atelier_gateway.jobs.store import JobStore, Limits
from atelier_gateway.jobs.turns import AtOnce
from atelier_gateway.jobs.upkeep import Upkeep
from atelier_gateway.jobs.values import Job, JobType, Json, NewJob, new_id

MANY = Limits(100_000, 100_000)


@dataclass(frozen=True)
class Rows:
    """All that is done to the rows."""

    database: Database
    store: JobStore
    upkeep: Upkeep
    outbox: Outbox


def describe(job: Job) -> Json:
    return {"id": job.id, "status": job.status}


@asynccontextmanager
async def rows_in(
    url: str, limits: Limits = MANY, at_once_of: Callable[[], Sequence[AtOnce]] = list
) -> AsyncIterator[Rows]:
    """Open a database; of SQLite, only one at a time may."""
    database = Database(url)
    database.open()
    try:
        await upgrade(database)
        outbox = Outbox(database, describe)
        store = JobStore(database, limits, outbox, at_once_of)
        yield Rows(database, store, Upkeep(database, outbox), outbox)
    finally:
        await database.close()


def new_job(**values: Any) -> NewJob:
    given: dict[str, Any] = {"type": JobType.DETECT, "input": {"fields": {}, "files": {}}, **values}
    return NewJob(id=new_id(), **given)
