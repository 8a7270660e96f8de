"""Clocks that are set back, of the machine or of one gateway of several, hold no job up."""

from __future__ import annotations

from sqlalchemy import update

from atelier_gateway.jobs.store import Release
from atelier_gateway.jobs.tables import jobs
from atelier_gateway.jobs.values import now_ms
from tests.jobs.rows import Rows, new_job, rows_in

HOUR_MS = 3600 * 1000


async def move(rows: Rows, **times: int) -> None:
    """Let the only job have other times than the clock gave it."""
    async with rows.database.writing() as connection:
        await connection.execute(update(jobs).values(**times))


async def test_a_clock_that_is_set_back_holds_nothing_up(database_url: str) -> None:
    async with rows_in(database_url) as rows:
        job, _ = await rows.store.submit(new_job())
        await move(rows, created_at=now_ms() + HOUR_MS)
        claim = await rows.store.claim("a")
        assert claim is not None and claim.job.id == job.id
        await rows.store.release(claim, after_ms=5000, why=Release.WAITS)
        assert await rows.store.claim("a") is None
        await move(rows, available_at=now_ms() + HOUR_MS)
        again = await rows.store.claim("a")
        assert again is not None and again.job.id == job.id
