"""The rows of jobs: accepted, claimed by one runner at a time, ended, expired.

Every change is one transaction. A job that is in progress belongs to the claim with the highest fence, and
only that may write to it; its lease ends on its own if its runner does.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any, Protocol

from sqlalchemy import and_, case, func, insert, or_, select, text, update
from sqlalchemy.engine import RowMapping
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.sql.elements import ColumnElement

from atelier_gateway.jobs.database import Database
from atelier_gateway.jobs.rows import ended, job_of
from atelier_gateway.jobs.tables import jobs, owners
from atelier_gateway.jobs.turns import AtOnce, next_job
from atelier_gateway.jobs.values import (
    AT_ONCE,
    IDEMPOTENCY_MS,
    Claim,
    Job,
    JobProgress,
    JobStatus,
    JobType,
    Json,
    NewJob,
    Output,
    now_ms,
)

QUEUED, IN_PROGRESS = JobStatus.QUEUED, JobStatus.IN_PROGRESS

_TYPICAL_OF = 20


class Release(Enum):
    """Why a job is given back."""

    UNDONE = auto()
    """Its gateway ends: no attempt."""
    WAITS = auto()
    """A service is full or away: no attempt."""
    FAILED = auto()
    """The attempt failed, and another may not."""


class Events(Protocol):
    """Who is told when a job was begun for the first time, and when it has ended."""

    async def happened(self, connection: AsyncConnection, job: Job) -> None:
        """Take note of it, in the transaction that made it so."""


class IdempotencyConflict(Exception):
    """The key was used before, for another request."""


class TooManyJobs(Exception):
    """As many jobs as may wait are waiting. `of_owner`: those of the owner, not all."""

    def __init__(self, limit: int, *, of_owner: bool) -> None:
        super().__init__(limit)
        self.limit, self.of_owner = limit, of_owner


class LeaseLost(Exception):
    """The job no longer belongs to the claim: its lease has ended, and another runner has it or had it."""


@dataclass(frozen=True)
class Limits:
    """How many jobs may wait, in all and of one owner, and how long a claim lasts that is not renewed."""

    waiting: int
    waiting_of_owner: int
    lease_ms: int = 30_000


@dataclass(frozen=True)
class Change:
    """What a job looks like to those who follow it."""

    job: Job
    previews: tuple[str, ...]
    """JPEG files in base64, one for each image."""
    preview_number: int


class JobStore:
    """The rows."""

    def __init__(
        self,
        database: Database,
        limits: Limits,
        events: Events,
        at_once_of: Callable[[], Sequence[AtOnce]] = list,
    ) -> None:
        """`at_once_of`: returns how many jobs may be in progress at once, of owners with a limit."""
        self._database = database
        self._limits = limits
        self._events = events
        self._at_once_of = at_once_of

    # --- from the outside ---

    async def submit(self, new: NewJob) -> tuple[Job, bool]:
        """Accept a job; return it, and whether it is new rather than the one of its idempotency key.

        Raises `IdempotencyConflict` or `TooManyJobs`.
        """
        try:
            return await self._submit(new)
        except IntegrityError:  # another request with this key was faster
            return await self._submit(new)

    async def _submit(self, new: NewJob) -> tuple[Job, bool]:
        async with self._database.writing() as connection:
            if new.idempotency_key is not None and new.fingerprint is not None:
                existing = await _of_key(connection, new.owner, new.idempotency_key, new.fingerprint)
                if existing is not None:
                    return existing, False
            await self._check_limits(connection, new.owner)
            await connection.execute(
                text("INSERT INTO job_owners (owner, served_at) VALUES (:owner, 0) ON CONFLICT DO NOTHING"),
                {"owner": new.owner},
            )
            now = now_ms()
            values = {
                "id": new.id,
                "type": new.type,
                "status": QUEUED,
                "owner": new.owner,
                "priority": new.priority,
                "input": new.input,
                "ttl_ms": new.ttl_ms,
                "webhook": new.webhook,
                "idempotency_key": new.idempotency_key,
                "fingerprint": new.fingerprint,
                "created_at": now,
                "available_at": AT_ONCE,
                "attempts": 0,
                "waits": 0,
                "fence": 0,
                "cancel_requested": False,
                "progress": 0.0,
                "preview_number": 0,
                "outputs": [],
                "expired": False,
                "version": 1,
            }
            row = await connection.execute(insert(jobs).values(values).returning(*jobs.c))
            return job_of(row.mappings().one()), True

    async def of_key(self, owner: str, key: str, fingerprint: str) -> Job | None:
        """Return the job of an idempotency key. Raises `IdempotencyConflict`."""
        async with self._database.writing() as connection:
            return await _of_key(connection, owner, key, fingerprint)

    async def _check_limits(self, connection: AsyncConnection, owner: str) -> None:
        counts = select(func.count(), func.coalesce(func.sum(_one_if(jobs.c.owner == owner)), 0)).where(
            jobs.c.status == QUEUED
        )
        waiting, of_owner = (await connection.execute(counts)).one()
        if of_owner >= self._limits.waiting_of_owner:
            raise TooManyJobs(self._limits.waiting_of_owner, of_owner=True)
        if waiting >= self._limits.waiting:
            raise TooManyJobs(self._limits.waiting, of_owner=False)

    async def get(self, job_id: str) -> Job | None:
        """Return a job; None if there is none, or it was deleted."""
        async with self._database.reading() as connection:
            row = (await connection.execute(select(jobs).where(jobs.c.id == job_id))).mappings().first()
        return None if row is None else job_of(row)

    async def list_of(
        self, owners: Collection[str] | None, *, before: str | None, limit: int
    ) -> Sequence[Job]:
        """Return the jobs of owners, None: of all, that are not gone, newest first.

        `before`: an ID to go on from.
        """
        wanted = select(jobs).where(jobs.c.expired.is_(False), jobs.c.ttl_ms > 0)
        if owners is not None:
            wanted = wanted.where(jobs.c.owner.in_(owners))
        if before is not None:
            wanted = wanted.where(jobs.c.id < before)
        async with self._database.reading() as connection:
            rows = await connection.execute(wanted.order_by(jobs.c.id.desc()).limit(limit))
            return [job_of(row) for row in rows.mappings()]

    async def waiting_before(self, job: Job) -> int:
        """Return how many of the owner's own jobs will be begun before this one, as things stand."""
        earlier = or_(
            jobs.c.priority > job.priority, and_(jobs.c.priority == job.priority, jobs.c.id < job.id)
        )
        count = select(func.count()).where(jobs.c.status == QUEUED, jobs.c.owner == job.owner, earlier)
        async with self._database.reading() as connection:
            return int((await connection.execute(count)).scalar_one())

    async def cancel(self, job_id: str) -> Job | None:
        """Cancel a job that waits, or ask its runner to; return it as it is then. One that ended stays."""
        now = now_ms()
        waits = and_(jobs.c.id == job_id, jobs.c.status == QUEUED)
        runs = and_(jobs.c.id == job_id, jobs.c.status == IN_PROGRESS, jobs.c.cancel_requested.is_(False))
        async with self._database.writing() as connection:
            end = update(jobs).where(waits).values(**ended(JobStatus.CANCELLED, now)).returning(*jobs.c)
            for canceled in (await connection.execute(end)).mappings():
                await self._events.happened(connection, job_of(canceled))
            await connection.execute(
                update(jobs).where(runs).values(cancel_requested=True, version=jobs.c.version + 1)
            )
            row = (await connection.execute(select(jobs).where(jobs.c.id == job_id))).mappings().first()
        return None if row is None else job_of(row)

    async def expire(self, job_id: str) -> Job | None:
        """Let a job's time end now, or once its work has stopped; return it as it is then.

        One that waits is canceled, one that runs is to be. Its files are still to be deleted, as of any job
        that is due.
        """
        now = now_ms()
        this = select(jobs).where(jobs.c.id == job_id).with_for_update()
        async with self._database.writing() as connection:
            row = (await connection.execute(this)).mappings().first()
            if row is None:
                return None
            if job_of(row).is_gone and row["status"] != QUEUED:
                return job_of(row)
            values: dict[str, Any] = {"version": jobs.c.version + 1, "ttl_ms": 0, "expires_at": now}
            if row["status"] == QUEUED:
                values = ended(JobStatus.CANCELLED, now) | values
            elif row["status"] == IN_PROGRESS:
                values |= {"cancel_requested": True, "expires_at": None}
            change = update(jobs).where(jobs.c.id == job_id).values(values).returning(*jobs.c)
            job = job_of((await connection.execute(change)).mappings().one())
            if row["status"] == QUEUED:
                await self._events.happened(connection, job)
        return job

    async def changes(self, known: Iterable[tuple[str, int]]) -> Sequence[Change]:
        """Return those of the jobs (ID, version) that have another version by now, with their preview."""
        versions = dict(known)
        if not versions:
            return []
        async with self._database.reading() as connection:
            now = await connection.execute(
                select(jobs.c.id, jobs.c.version).where(jobs.c.id.in_(list(versions)))
            )
            changed = [row.id for row in now if row.version != versions[row.id]]
            if not changed:
                return []
            rows = await connection.execute(select(jobs).where(jobs.c.id.in_(changed)))
            return [
                Change(job_of(row), tuple(row["previews"] or ()), row["preview_number"])
                for row in rows.mappings()
            ]

    async def typical_run_ms(self, job_type: JobType) -> int | None:
        """Return the median time that the last jobs of a type took to complete; None: there was none."""
        took = (jobs.c.completed_at - jobs.c.started_at).label("took")
        is_done = and_(jobs.c.type == job_type, jobs.c.status == JobStatus.COMPLETED)
        last = select(took).where(is_done).order_by(jobs.c.id.desc()).limit(_TYPICAL_OF)
        async with self._database.reading() as connection:
            times = sorted((await connection.execute(last)).scalars())
        return times[len(times) // 2] if times else None

    # --- for runners ---

    async def claim(self, runner: str) -> Claim | None:
        """Take the next job; None: there is none. Also one whose runner's lease has ended.

        The owner served longest ago comes first, then the highest priority, then the oldest job. Owners with
        as many jobs in progress as they may have are passed over.
        """
        now = now_ms()
        async with self._database.writing() as connection:
            found = await next_job(connection, now, self._at_once_of())
            if found is None:
                return None
            taken = (
                update(jobs)
                .where(jobs.c.id == found.id)
                .values(
                    status=IN_PROGRESS,
                    runner=runner,
                    lease_until=now + self._limits.lease_ms,
                    attempts=jobs.c.attempts + 1,
                    fence=jobs.c.fence + 1,
                    started_at=func.coalesce(jobs.c.started_at, now),
                    version=jobs.c.version + 1,
                )
                .returning(*jobs.c)
            )
            row = (await connection.execute(taken)).mappings().one()
            if row["fence"] == 1:
                await self._events.happened(connection, job_of(row))
            await connection.execute(
                update(owners).where(owners.c.owner == found.owner).values(served_at=now)
            )
        return Claim(job_of(row), row["fence"], was_lost=found.status == IN_PROGRESS)

    async def report(self, claim: Claim, progress: JobProgress | None = None) -> bool:
        """Renew a claim's lease and record its progress; return whether its job is to be canceled.

        None: as before. Raises `LeaseLost`.
        """
        values: dict[str, Any] = {"lease_until": now_ms() + self._limits.lease_ms}
        if progress is not None:
            values |= {
                "stage": progress.stage,
                "step": progress.step,
                "steps": progress.steps,
                "progress": progress.share,
                "expected_ms": progress.expected_ms,
                "version": jobs.c.version + 1,
            }
            if progress.previews:
                values["previews"] = [base64.b64encode(each).decode() for each in progress.previews]
                values["preview_number"] = jobs.c.preview_number + 1
        return bool((await self._write(claim, values))["cancel_requested"])

    async def complete(self, claim: Claim, result: Json, outputs: Sequence[Output]) -> Job:
        """End a job with its result. Raises `LeaseLost`."""
        stored = [vars(output) for output in outputs]
        values = {"result": result, "outputs": stored, "progress": 1.0, "error": None}
        return await self._end(claim, JobStatus.COMPLETED, values)

    async def keep(self, claim: Claim, outputs: Sequence[Output]) -> None:
        """Record outputs that exist before the job has ended. Raises `LeaseLost`."""
        stored = [vars(output) for output in outputs]
        await self._write(claim, {"outputs": stored, "version": jobs.c.version + 1})

    async def fail(self, claim: Claim, error: Json) -> Job:
        """End a job with an error: `code`, `message`, `fields`. Raises `LeaseLost`."""
        return await self._end(claim, JobStatus.FAILED, {"error": error})

    async def cancelled(self, claim: Claim) -> Job:
        """End a job because its cancellation was asked for. Raises `LeaseLost`."""
        return await self._end(claim, JobStatus.CANCELLED, {})

    async def release(self, claim: Claim, *, after_ms: int = 0, why: Release = Release.UNDONE) -> Job:
        """Give a job back to be claimed again, in `after_ms` at the earliest. Raises `LeaseLost`."""
        available_at = now_ms() + after_ms if after_ms else AT_ONCE
        values: dict[str, Any] = {
            "status": QUEUED,
            "available_at": case((jobs.c.cancel_requested, AT_ONCE), else_=available_at),
            **dict.fromkeys(("runner", "lease_until", "stage", "step", "steps", "previews")),
            "progress": 0.0,
            "version": jobs.c.version + 1,
        }
        if why is not Release.FAILED:
            values["attempts"] = jobs.c.attempts - 1
        if why is Release.WAITS:
            values["waits"] = jobs.c.waits + 1
        return job_of(await self._write(claim, values))

    async def _end(self, claim: Claim, status: JobStatus, values: Json) -> Job:
        row = await self._write(claim, {**ended(status, now_ms()), **values})
        return job_of(row)

    async def _write(self, claim: Claim, values: Json) -> RowMapping:
        owned = and_(jobs.c.id == claim.job.id, jobs.c.fence == claim.fence, jobs.c.status == IN_PROGRESS)
        async with self._database.writing() as connection:
            written = await connection.execute(update(jobs).where(owned).values(**values).returning(*jobs.c))
            row = written.mappings().first()
            if row is not None and JobStatus(row["status"]).is_final:
                await self._events.happened(connection, job_of(row))
        if row is None:
            raise LeaseLost(claim.job.id)
        return row


def _one_if(condition: ColumnElement[bool]) -> ColumnElement[int]:
    return case((condition, 1), else_=0)


async def _of_key(connection: AsyncConnection, owner: str, key: str, fingerprint: str) -> Job | None:
    is_of_key = and_(jobs.c.owner == owner, jobs.c.idempotency_key == key)
    row = (await connection.execute(select(jobs).where(is_of_key))).mappings().first()
    if row is None:
        return None
    if row["created_at"] < now_ms() - IDEMPOTENCY_MS:
        await connection.execute(update(jobs).where(jobs.c.id == row["id"]).values(idempotency_key=None))
        return None
    if row["fingerprint"] != fingerprint:
        raise IdempotencyConflict
    return job_of(row)
