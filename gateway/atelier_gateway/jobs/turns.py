"""Whose job is next."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from sqlalchemy import and_, func, or_, select
from sqlalchemy.ext.asyncio import AsyncConnection

from atelier_gateway.jobs.tables import jobs, owners
from atelier_gateway.jobs.values import MAX_ATTEMPTS, JobStatus, now_ms

QUEUED, IN_PROGRESS = JobStatus.QUEUED, JobStatus.IN_PROGRESS


@dataclass(frozen=True)
class NextJob:
    """A job to begin. In progress: its runner was lost."""

    id: str
    owner: str
    status: JobStatus


async def next_job(connection: AsyncConnection, now: int, at_once_of: Mapping[str, int]) -> NextJob | None:
    """Return the job to begin, its row locked; None: there is none.

    The owner served longest ago comes first, then the highest priority, then the oldest job. `at_once_of`:
    how many jobs of an owner may be in progress at once; one that has as many is passed over.
    """
    waits = and_(jobs.c.status == QUEUED, jobs.c.available_at <= now)
    abandoned = and_(jobs.c.status == IN_PROGRESS, jobs.c.lease_until < now, jobs.c.attempts < MAX_ATTEMPTS)
    following = (
        select(jobs.c.id, jobs.c.owner, jobs.c.status)
        .join(owners, owners.c.owner == jobs.c.owner)
        .where(or_(waits, abandoned))
        .order_by(owners.c.served_at, jobs.c.priority.desc(), jobs.c.id)
        .limit(1)
        .with_for_update(of=jobs, skip_locked=True)  # SQLite has no such clause, and one writer
    )
    if full := await _full(connection, at_once_of):
        following = following.where(jobs.c.owner.not_in(full))
    row = (await connection.execute(following)).first()
    if row is None:
        return None
    found = NextJob(row.id, row.owner, JobStatus(row.status))
    if found.owner in at_once_of:  # another gateway may have taken its last place since
        await connection.execute(
            select(owners.c.owner).where(owners.c.owner == found.owner).with_for_update()
        )
        if found.owner in await _full(connection, at_once_of):
            return None
    return found


async def _full(connection: AsyncConnection, at_once_of: Mapping[str, int]) -> list[str]:
    """Return the owners of which as many jobs are in progress as may be."""
    if not at_once_of:
        return []
    running = (
        select(jobs.c.owner, func.count().label("running"))
        .where(jobs.c.status == IN_PROGRESS, jobs.c.lease_until >= now_ms(), jobs.c.owner.in_(at_once_of))
        .group_by(jobs.c.owner)
    )
    return [row.owner for row in await connection.execute(running) if row.running >= at_once_of[row.owner]]
