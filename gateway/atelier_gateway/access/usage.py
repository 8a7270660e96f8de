"""How much of its limits a key has used: in the jobs' database, so that several gateways count together.

The periods are minutes and days of the clock, UTC: at most so much in each. Without a database, or while it
is away, each gateway counts by itself.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from sqlalchemy import delete, func, update
from sqlalchemy.dialects import postgresql, sqlite

from atelier_gateway.jobs.database import Database
from atelier_gateway.jobs.tables import usage
from atelier_runtime.errors import ServiceUnavailable

logger = logging.getLogger(__name__)

Kind = Literal["requests", "pixels"]
PERIOD_S: dict[Kind, int] = {"requests": 60, "pixels": 86_400}
_TIDY_S = 3600.0


@dataclass(frozen=True)
class Share:
    """What a key may have of something in the current period, and what is left of it."""

    kind: Kind
    limit: int
    left: int
    reset_s: float

    @property
    def policy_header(self) -> str:
        """An item of RateLimit-Policy, as draft-ietf-httpapi-ratelimit-headers has it."""
        return f'"{self.kind}";q={self.limit};w={PERIOD_S[self.kind]}'

    @property
    def header(self) -> str:
        """An item of RateLimit."""
        return f'"{self.kind}";r={self.left};t={max(1, round(self.reset_s))}'


class Usage:
    """The counts. `clock`: seconds since 1970."""

    def __init__(self, database: Database | None, clock: Callable[[], float] = time.time) -> None:
        self._database = database
        self._clock = clock
        self._own: dict[tuple[str, Kind], tuple[int, int]] = {}
        self._tidy_at = 0.0
        self._is_away = False

    async def take(self, key: str, kind: Kind, amount: int, limit: int) -> tuple[bool, Share]:
        """Count an amount, unless the limit does not allow it; return whether it does, and what is left."""
        now = self._clock()
        period = int(now // PERIOD_S[kind])
        used: int | None = None
        if self._database is None:
            used = self._take_own(key, kind, period, amount, limit)
        else:
            try:
                used = await self._take(self._database, key, kind, period, amount, limit)
                self._is_away = False
            except ServiceUnavailable as error:
                if not self._is_away:
                    self._is_away = True
                    logger.warning("limits of keys are counted by this gateway alone", extra=error.for_log())
                used = self._take_own(key, kind, period, amount, limit)
        reset_s = (period + 1) * PERIOD_S[kind] - now
        return used is not None, Share(kind, limit, 0 if used is None else limit - used, reset_s)

    async def give_back(self, key: str, kind: Kind, amount: int) -> None:
        """Take an amount off the current period's count: what it was for has failed."""
        period = int(self._clock() // PERIOD_S[kind])
        own = self._own.get((key, kind))
        if own is not None and own[0] == period:
            self._own[key, kind] = period, max(0, own[1] - amount)
        if self._database is None:
            return
        row = (usage.c.key == key) & (usage.c.kind == kind) & (usage.c.period == period)
        less = usage.c.used - amount
        try:
            async with self._database.writing() as connection:
                await connection.execute(update(usage).where(row, less >= 0).values(used=less))
        except ServiceUnavailable as error:
            logger.warning("a key's usage was not given back", extra={**error.for_log(), "key": key})

    def _take_own(self, key: str, kind: Kind, period: int, amount: int, limit: int) -> int | None:
        of_period, used = self._own.get((key, kind), (period, 0))
        used = amount if of_period != period else used + amount
        if used > limit:
            return None
        self._own[key, kind] = period, used
        return used

    async def _take(
        self, database: Database, key: str, kind: Kind, period: int, amount: int, limit: int
    ) -> int | None:
        if amount > limit:
            return None
        dialect = sqlite if database.is_sqlite else postgresql
        row = {"key": key, "kind": kind, "period": period}
        more = usage.c.used + amount
        statement = (
            dialect.insert(usage)
            .values(**row, used=amount)
            .on_conflict_do_update(index_elements=list(row), set_={"used": more}, where=more <= limit)
            .returning(usage.c.used)
        )
        async with database.writing() as connection:
            used: int | None = (await connection.execute(statement)).scalar()
            if self._clock() >= self._tidy_at:
                self._tidy_at = self._clock() + _TIDY_S
                for each, seconds in PERIOD_S.items():
                    last = int(self._clock() // seconds) - 1
                    await connection.execute(delete(usage).where(usage.c.kind == each, usage.c.period < last))
        return used

    async def used(self, key: str, kind: Kind) -> int:
        """Return the current period's count. Raises `ServiceUnavailable`."""
        period = int(self._clock() // PERIOD_S[kind])
        if self._database is None:
            of_period, used = self._own.get((key, kind), (period, 0))
            return used if of_period == period else 0
        row = (usage.c.key == key) & (usage.c.kind == kind) & (usage.c.period == period)
        async with self._database.reading() as connection:
            found = await connection.execute(func.coalesce(func.sum(usage.c.used), 0).select().where(row))
            return int(found.scalar_one())
