"""What is done to the rows of jobs besides serving them: lost ones end, old ones go, all are counted."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import and_, case, delete, func, select, update

from atelier_gateway.jobs.database import Database
from atelier_gateway.jobs.rows import ended, job_of
from atelier_gateway.jobs.store import Events
from atelier_gateway.jobs.tables import identity, jobs
from atelier_gateway.jobs.values import (
    AT_ONCE,
    IDEMPOTENCY_MS,
    MAX_ATTEMPTS,
    Job,
    JobStatus,
    JobType,
    Json,
    now_ms,
)

LOST: Json = {
    "code": "internal",
    "message": f"The job was begun {MAX_ATTEMPTS} times, and each time the process that ran it ended.",
    "fields": [],
}
"""The error of a job whose runners have all been lost."""


class Upkeep:
    """Statements that any gateway may run at any time."""

    def __init__(self, database: Database, events: Events) -> None:
        self._database = database
        self._events = events

    async def end_leases(self) -> None:
        """End all leases: nobody else has had this database, so whoever took those jobs is gone."""
        running = jobs.c.status == JobStatus.IN_PROGRESS
        async with self._database.writing() as connection:
            await connection.execute(update(jobs).where(running).values(lease_until=0))

    async def fail_lost(self) -> Sequence[Job]:
        """Fail the jobs that have been begun as often as they may, and were lost each time."""
        lost = and_(
            jobs.c.status == JobStatus.IN_PROGRESS,
            jobs.c.lease_until < now_ms(),
            jobs.c.attempts >= MAX_ATTEMPTS,
        )
        values = {**ended(JobStatus.FAILED, now_ms()), "error": LOST}
        async with self._database.writing() as connection:
            rows = await connection.execute(update(jobs).where(lost).values(**values).returning(*jobs.c))
            failed = [job_of(row) for row in rows.mappings()]
            for job in failed:
                await self._events.happened(connection, job)
            return failed

    async def database_id(self) -> str:
        """Return which database this is."""
        async with self._database.reading() as connection:
            return str((await connection.execute(select(identity.c.id))).scalar_one())

    async def due(self, excluding: Sequence[str] = (), limit: int = 100) -> Sequence[Job]:
        """Return jobs whose files are to be deleted, other than some."""
        is_due = and_(jobs.c.expires_at <= now_ms(), jobs.c.expired.is_(False))
        is_due = and_(is_due, jobs.c.id.not_in(excluding))
        async with self._database.reading() as connection:
            rows = await connection.execute(
                select(jobs).where(is_due).order_by(jobs.c.expires_at).limit(limit)
            )
            return [job_of(row) for row in rows.mappings()]

    async def expire(self, job_ids: Sequence[str]) -> None:
        """Clear what jobs have made, after their files were deleted. Their rows stay, to tell of them."""
        values = {
            "expired": True,
            "input": {},
            "outputs": [],
            "result": None,
            "webhook": None,
            "previews": None,
            "version": jobs.c.version + 1,
        }
        async with self._database.writing() as connection:
            await connection.execute(update(jobs).where(jobs.c.id.in_(job_ids)).values(**values))

    async def delete_old(self) -> int:
        """Delete the rows of expired jobs whose idempotency key is no longer kept; return how many."""
        is_old = and_(jobs.c.expired.is_(True), jobs.c.created_at < now_ms() - IDEMPOTENCY_MS)
        async with self._database.writing() as connection:
            return (await connection.execute(delete(jobs).where(is_old))).rowcount

    async def existing(self, job_ids: Sequence[str]) -> set[str]:
        """Return those of the IDs that have a row whose files are not to be deleted."""
        wanted = select(jobs.c.id).where(jobs.c.id.in_(job_ids), jobs.c.expired.is_(False))
        async with self._database.reading() as connection:
            return set((await connection.execute(wanted)).scalars())

    async def oldest_waiting_ms(self) -> int:
        """Return for how long the job waits that could have been begun first; 0: none could."""
        could_be_begun = case((jobs.c.available_at == AT_ONCE, jobs.c.created_at), else_=jobs.c.available_at)
        first = select(func.min(could_be_begun)).where(jobs.c.status == JobStatus.QUEUED)
        async with self._database.reading() as connection:
            since = (await connection.execute(first)).scalar_one()
        return 0 if since is None else max(0, now_ms() - since)

    async def counts(self) -> dict[tuple[JobType, JobStatus], int]:
        """Return how many jobs there are of each type and status."""
        counted = (
            select(jobs.c.type, jobs.c.status, func.count())
            .where(jobs.c.expired.is_(False))
            .group_by(jobs.c.type, jobs.c.status)
        )
        async with self._database.reading() as connection:
            rows = await connection.execute(counted)
            return {(JobType(kind), JobStatus(status)): count for kind, status, count in rows}
