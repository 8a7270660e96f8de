"""Whose job is next."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import and_, func, or_, select
from sqlalchemy.ext.asyncio import AsyncConnection

from atelier_gateway.jobs.tables import jobs, owners
from atelier_gateway.jobs.values import LONGEST_WAIT_MS, MAX_ATTEMPTS, JobStatus, now_ms

QUEUED, IN_PROGRESS = JobStatus.QUEUED, JobStatus.IN_PROGRESS


@dataclass(frozen=True)
class AtOnce:
    """How many jobs some owners together may have in progress at once."""

    owners: tuple[str, ...]
    limit: int


@dataclass(frozen=True)
class NextJob:
    """A job to begin. In progress: its runner was lost."""

    id: str
    owner: str
    status: JobStatus


async def next_job(connection: AsyncConnection, now: int, limits: Sequence[AtOnce]) -> NextJob | None:
    """Return the job to begin, its row locked; None: there is none.

    The owner served longest ago comes first, then the highest priority, then the oldest job. Owners that have
    as many jobs in progress as they may are passed over.
    """
    far_ahead = jobs.c.available_at > now + LONGEST_WAIT_MS  # the clock has been set back since
    waits = and_(jobs.c.status == QUEUED, or_(jobs.c.available_at <= now, far_ahead))
    abandoned = and_(jobs.c.status == IN_PROGRESS, jobs.c.lease_until < now, jobs.c.attempts < MAX_ATTEMPTS)
    following = (
        select(jobs.c.id, jobs.c.owner, jobs.c.status)
        .join(owners, owners.c.owner == jobs.c.owner)
        .where(or_(waits, abandoned))
        .order_by(owners.c.served_at, jobs.c.priority.desc(), jobs.c.id)
        .limit(1)
        .with_for_update(of=jobs, skip_locked=True)  # SQLite has no such clause, and one writer
    )
    if full := await _full(connection, limits):
        following = following.where(jobs.c.owner.not_in(full))
    row = (await connection.execute(following)).first()
    if row is None:
        return None
    found = NextJob(row.id, row.owner, JobStatus(row.status))
    own = next((limit for limit in limits if found.owner in limit.owners), None)
    if own is not None:  # another gateway may have taken its last place since
        rows = select(owners.c.owner).where(owners.c.owner.in_(own.owners)).order_by(owners.c.owner)
        await connection.execute(rows.with_for_update())
        if found.owner in await _full(connection, [own]):
            return None
    return found


async def _full(connection: AsyncConnection, limits: Sequence[AtOnce]) -> list[str]:
    """Return the owners that have as many jobs in progress as they may."""
    named = [owner for limit in limits for owner in limit.owners]
    if not named:
        return []
    running = (
        select(jobs.c.owner, func.count().label("running"))
        .where(jobs.c.status == IN_PROGRESS, jobs.c.lease_until >= now_ms(), jobs.c.owner.in_(named))
        .group_by(jobs.c.owner)
    )
    counts = {row.owner: row.running for row in await connection.execute(running)}
    full = [limit for limit in limits if sum(counts.get(owner, 0) for owner in limit.owners) >= limit.limit]
    return [owner for limit in full for owner in limit.owners]
