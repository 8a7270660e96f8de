"""How much of its limits a key has used: in the jobs' database, so that several gateways count together.

The periods are minutes and days of the clock, UTC: at most so much in each. Without a database, or while it
is away, each gateway counts by itself.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from sqlalchemy import Executable, delete, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.sql.elements import ColumnElement

from atelier_gateway.jobs.database import Database
from atelier_gateway.jobs.tables import usage
from atelier_runtime.errors import ServiceUnavailable

logger = logging.getLogger(__name__)

T = TypeVar("T")
Kind = Literal["requests", "pixels"]
PERIOD_S: dict[Kind, int] = {"requests": 60, "pixels": 86_400}
_TIDY_S = 3600.0
_SILENCE_S = 1.0
"""The database is alive, but does not answer: whoever asks for work does not wait longer to be counted."""
_AWAY_S = 10.0
"""After which it is asked again."""


@dataclass(frozen=True)
class Share:
    """What a key may have of something in the current period, and what is left of it."""

    kind: Kind
    limit: int
    left: int
    reset_s: float
    period: int
    """The number of the period, from 1970."""

    @property
    def policy_header(self) -> str:
        """An item of RateLimit-Policy, as draft-ietf-httpapi-ratelimit-headers has it."""
        return f'"{self.kind}";q={self.limit};w={PERIOD_S[self.kind]}'

    @property
    def header(self) -> str:
        """An item of RateLimit."""
        return f'"{self.kind}";r={self.left};t={max(1, round(self.reset_s))}'


async def _execute(database: Database, statement: Executable) -> None:
    async with database.writing() as connection:
        await connection.execute(statement)


@dataclass(frozen=True)
class _Row:
    key: str
    kind: Kind
    period: int

    @property
    def matches(self) -> ColumnElement[bool]:
        return (usage.c.key == self.key) & (usage.c.kind == self.kind) & (usage.c.period == self.period)


class Usage:
    """The counts. `clock`: seconds since 1970."""

    def __init__(self, database: Database | None, clock: Callable[[], float] = time.time) -> None:
        self._database = database
        self._clock = clock
        self._own: dict[tuple[str, Kind], tuple[int, int]] = {}
        self._tidy_at = 0.0
        self._away_until = 0.0
        self._working: set[asyncio.Task[Any]] = set()

    async def take(self, key: str, kind: Kind, amount: int, limit: int) -> tuple[bool, Share]:
        """Count an amount, unless the limit does not allow it; return whether it does, and what is left."""
        now = self._clock()
        period = int(now // PERIOD_S[kind])
        allowed, used = await self._count(_Row(key, kind, period), amount, limit)
        reset_s = (period + 1) * PERIOD_S[kind] - now
        return allowed, Share(kind, limit, max(0, limit - used), reset_s, period)

    async def _count(self, row: _Row, amount: int, limit: int) -> tuple[bool, int]:
        """Count an amount if it is allowed; return whether it is, and what is used then."""
        if self._database is not None and self._clock() >= self._away_until:
            try:
                return await self._soon(self._take(self._database, row, amount, limit))
            except (ServiceUnavailable, TimeoutError) as error:
                self._away_until = self._clock() + _AWAY_S
                why = error.for_log() if isinstance(error, ServiceUnavailable) else {"error": "no answer"}
                logger.warning("limits of keys are counted by this gateway alone", extra=why)
        return self._take_own(row, amount, limit)

    async def give_back(self, key: str, kind: Kind, amount: int, period: int) -> None:
        """Take an amount off the period's count: what it was for has failed."""
        own = self._own.get((key, kind))
        if own is not None and own[0] == period:
            self._own[key, kind] = period, max(0, own[1] - amount)
        if self._database is None or self._clock() < self._away_until:
            return
        less = usage.c.used - amount
        statement = update(usage).where(_Row(key, kind, period).matches, less >= 0).values(used=less)
        try:
            await self._soon(_execute(self._database, statement))
        except (ServiceUnavailable, TimeoutError):
            logger.warning("a key's usage was not given back", extra={"key": key})

    async def _soon(self, work: Coroutine[Any, Any, T]) -> T:
        """Await work with the database. Raises `TimeoutError` if it takes long; it then goes on by itself.

        It is not canceled: SQLite's thread would have to be waited for, which is what takes long.
        """
        task = asyncio.create_task(work)
        self._working.add(task)
        task.add_done_callback(self._done)
        await asyncio.wait({task}, timeout=_SILENCE_S)
        if not task.done():
            raise TimeoutError
        return task.result()

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._working.discard(task)
        if not task.cancelled():
            task.exception()  # which nobody may wait for any longer

    def _take_own(self, row: _Row, amount: int, limit: int) -> tuple[bool, int]:
        of_period, used = self._own.get((row.key, row.kind), (row.period, 0))
        used = used if of_period == row.period else 0
        if used + amount > limit:
            return False, used
        self._own[row.key, row.kind] = row.period, used + amount
        return True, used + amount

    async def _take(self, database: Database, row: _Row, amount: int, limit: int) -> tuple[bool, int]:
        dialect = sqlite if database.is_sqlite else postgresql
        names = {"key": row.key, "kind": row.kind, "period": row.period}
        more = usage.c.used + amount
        statement = (
            dialect.insert(usage)
            .values(**names, used=amount)
            .on_conflict_do_update(index_elements=list(names), set_={"used": more}, where=more <= limit)
            .returning(usage.c.used)
        )
        async with database.writing() as connection:
            used = None if amount > limit else (await connection.execute(statement)).scalar()
            if used is None:
                present = await connection.execute(select(usage.c.used).where(row.matches))
                return False, int(present.scalar() or 0)
            if self._clock() >= self._tidy_at:
                self._tidy_at = self._clock() + _TIDY_S
                for each, seconds in PERIOD_S.items():
                    last = int(self._clock() // seconds) - 1
                    await connection.execute(delete(usage).where(usage.c.kind == each, usage.c.period < last))
        return True, int(used)
