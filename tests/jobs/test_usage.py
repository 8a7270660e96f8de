"""What keys have used of their limits, in real databases."""

from __future__ import annotations

import asyncio
import logging

import pytest
from sqlalchemy import select

from atelier_gateway.access.usage import PERIOD_S, Usage
from atelier_gateway.jobs.tables import usage
from tests.jobs.rows import rows_in

DAY_S = PERIOD_S["pixels"]
NOON = 20_000 * DAY_S + DAY_S / 2


class Clock:
    """The time, in seconds since 1970."""

    def __init__(self) -> None:
        self.now = NOON

    def __call__(self) -> float:
        return self.now


async def allowed(counts: Usage, amount: int = 1, limit: int = 10, key: str = "a") -> bool:
    return (await counts.take(key, "pixels", amount, limit))[0]


async def test_a_limit_holds_for_its_period_and_key(database_url: str) -> None:
    clock = Clock()
    async with rows_in(database_url) as rows:
        for counts in (Usage(rows.database, clock), Usage(None, clock)):
            clock.now = NOON
            assert (await counts.take("a", "pixels", 4, 10))[1].left == 6
            is_allowed, share = await counts.take("a", "pixels", 7, 10)
            assert (is_allowed, share.left, share.reset_s) == (False, 6, DAY_S / 2)
            assert share.policy_header == '"pixels";q=10;w=86400' and share.header == '"pixels";r=6;t=43200'
            assert await allowed(counts, 6), "what was refused is not counted"
            assert not await allowed(counts) and await allowed(counts, key="b")
            assert not await allowed(counts, 11, key="c"), "more than there ever is"
            assert (await counts.take("a", "requests", 1, 10))[0], "each kind by itself"
            clock.now += DAY_S
            _, today = await counts.take("a", "pixels", 10, 10)
            assert today.left == 0
            await counts.give_back("a", "pixels", 4, share.period)  # what was taken before midnight
            assert not await allowed(counts)
            await counts.give_back("a", "pixels", 4, today.period)
            assert await allowed(counts, 4) and not await allowed(counts)


async def test_gateways_count_together(postgres_url: str) -> None:
    clock = Clock()
    async with rows_in(postgres_url) as rows, rows_in(postgres_url) as others:
        gateways = [Usage(rows.database, clock), Usage(others.database, clock)]
        answers = await asyncio.gather(*(allowed(gateways[n % 2], limit=25) for n in range(60)))
        assert sum(answers) == 25


async def test_old_periods_are_forgotten(sqlite_url: str) -> None:
    clock = Clock()
    async with rows_in(sqlite_url) as rows:
        for day in range(4):
            clock.now = NOON + day * DAY_S
            await allowed(Usage(rows.database, clock))
        async with rows.database.reading() as connection:
            periods = [row.period for row in await connection.execute(select(usage).order_by(usage.c.period))]
        assert periods == [20_002, 20_003]


async def test_while_the_database_is_away_a_gateway_counts_by_itself(
    sqlite_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with rows_in(sqlite_url) as rows:
        counts = Usage(rows.database, Clock())
        async with rows.database.writing() as connection:
            await connection.exec_driver_sql("ALTER TABLE key_usage RENAME TO elsewhere")
        with caplog.at_level(logging.WARNING):
            answers = [await allowed(counts, limit=3) for _ in range(5)]
        assert answers == [True, True, True, False, False]
        assert caplog.text.count("counted by this gateway alone") == 1
        await counts.give_back("a", "pixels", 1, int(NOON // DAY_S))
        assert await allowed(counts, limit=3)


async def test_nobody_waits_for_a_database_that_does_not_answer(sqlite_url: str) -> None:
    clock = Clock()
    async with rows_in(sqlite_url) as rows:
        counts = Usage(rows.database, clock)
        async with asyncio.timeout(20), rows.database.writing() as connection:
            await connection.execute(select(usage))  # SQLite has one writer
            assert [await allowed(counts, limit=2) for _ in range(3)] == [True, True, False]
        clock.now += 60
        assert await allowed(counts, limit=1), "and then it counts again"
