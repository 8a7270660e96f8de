"""Calls that wait for a slot in a full queue: a line for each caller, of which only the first asks again."""

from __future__ import annotations

import asyncio
import heapq
import random
import time
from itertools import count
from typing import Self
from weakref import WeakValueDictionary

from atelier_runtime.caller import caller

_ASKED_PER_SECOND = 10.0
"""By the first of all lines together: each time an image is sent."""

_REFUSED_WITHIN_S = 0.1
"""What has not been refused by then may have been accepted: the next in line asks too."""


class _Line:
    """Lets one call at a time be the first; then the oldest of those that wait."""

    def __init__(self) -> None:
        self.has_first = False
        self.waiting = 0
        """Calls in it, the first included."""
        self._waiting: list[tuple[int, asyncio.Future[None]]] = []  # a heap

    async def become_first(self, number: int) -> None:
        """Wait until nobody else is the first; the lowest number comes next."""
        if not self.has_first:
            self.has_first = True
            return
        turn = asyncio.get_running_loop().create_future()
        heapq.heappush(self._waiting, (number, turn))
        try:
            await turn
        except asyncio.CancelledError:
            if not turn.cancelled():  # it became the first in the same moment
                self.leave()
            raise

    def leave(self) -> None:
        """Let the next one be the first."""
        while self._waiting:
            _, turn = heapq.heappop(self._waiting)
            if not turn.done():  # else it has been canceled
                turn.set_result(None)
                return
        self.has_first = False


class Lines:
    """The lines of all callers, for one backend."""

    def __init__(self) -> None:
        self.waiting = 0
        """Calls in a line."""
        self._lines: WeakValueDictionary[str, _Line] = WeakValueDictionary()
        self._numbers = count()

    def enter(self) -> InLine:
        """Return the way of a new call of the current caller."""
        line = self._lines.get(caller.get())
        if line is None:
            line = self._lines[caller.get()] = _Line()
        return InLine(self, line, next(self._numbers))

    def by_caller(self) -> dict[str, int]:
        """Return how many calls each caller has in line, if any."""
        return {name: line.waiting for name, line in self._lines.items() if line.waiting}

    def pause_s(self) -> float:
        """Return after which time the first of a line asks again."""
        lines = sum(line.waiting > 0 for line in self._lines.values())
        return random.uniform(0.5, 1.5) * max(1, lines) / _ASKED_PER_SECOND


class InLine:
    """One call's way through its line, as a context manager. Who has not been refused need not be in it."""

    def __init__(self, lines: Lines, line: _Line, number: int) -> None:
        self._lines = lines
        self._line = line
        self._number = number
        self._is_first = False
        self._is_waiting = False
        self._timer: asyncio.TimerHandle | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._leave()
        self._set_waiting(False)

    async def may_ask(self, deadline: float, *, was_refused: bool) -> None:
        """Wait until it is this call's turn to ask, at most until the deadline.

        At once if the call has not been refused and nobody is in line; if the first has just been refused,
        after a while.
        """
        self._stop_timer()
        if not was_refused and not self._line.has_first:
            return
        self._set_waiting(True)
        seconds_left = deadline - time.monotonic()
        if self._is_first or not self._line.has_first:
            await self._become_first(seconds_left)
            await asyncio.sleep(min(self._lines.pause_s(), seconds_left))
        else:
            await self._become_first(seconds_left)
        self._timer = asyncio.get_running_loop().call_later(_REFUSED_WITHIN_S, self._accepted)

    def _accepted(self) -> None:
        """Let the next in line ask; this call waits no more, unless it is refused after all."""
        self._leave()
        self._set_waiting(False)

    def _set_waiting(self, is_waiting: bool) -> None:
        change = is_waiting - self._is_waiting
        self._lines.waiting += change
        self._line.waiting += change
        self._is_waiting = is_waiting

    async def _become_first(self, seconds: float) -> None:
        if self._is_first:
            return
        try:
            await asyncio.wait_for(self._line.become_first(self._number), seconds)
        except TimeoutError:
            return
        self._is_first = True

    def _leave(self) -> None:
        """Let the next in line ask."""
        self._stop_timer()
        if self._is_first:
            self._is_first = False
            self._line.leave()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
