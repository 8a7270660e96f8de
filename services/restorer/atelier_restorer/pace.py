"""How many calls a client has in flight at once, which adapts to what the restorer accepts."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class Pace:
    """Up to `limit` calls in flight; while the restorer refuses calls, as many as it took.

    A refusal lowers the number to the calls that were in flight besides, at least 1; each round of accepted
    calls raises it by one. Use it in one event loop.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.in_flight = 0
        self._allowed = float(limit)
        self._changed = asyncio.Condition()

    @property
    def allowed(self) -> int:
        """How many calls may be in flight now."""
        return int(self._allowed)

    @asynccontextmanager
    async def slot(self) -> AsyncIterator[None]:
        """Wait until another call may be in flight, and count it as such inside the context."""
        async with self._changed:
            await self._changed.wait_for(lambda: self.in_flight < self.allowed)
            self.in_flight += 1
        try:
            yield
        finally:
            self.in_flight -= 1
            async with self._changed:
                self._changed.notify_all()

    def refused(self) -> None:
        """Note, inside the slot, that the restorer had no room for the call."""
        self._allowed = min(self._allowed, max(1.0, self.in_flight - 1.0))

    def accepted(self) -> None:
        """Note, inside the slot, that the restorer carried the call out."""
        self._allowed = min(float(self.limit), self._allowed + 1 / self._allowed)
