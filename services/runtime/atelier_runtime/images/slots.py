"""Who may use an image worker next: results are encoded before further files are decoded."""

from __future__ import annotations

import asyncio
from typing import Literal

from atelier_runtime.caller import caller
from atelier_runtime.fair_queue import FairQueue

Work = Literal["decode", "encode"]


class Slots:
    """Places for calls that run at the same time; for one event loop.

    There are `size`, and one more for encoding while all of them are taken by decoding.
    """

    def __init__(self, size: int) -> None:
        """`size`: at least 1."""
        self._size = size
        self._running: dict[Work, int] = {"decode": 0, "encode": 0}
        self._waiting: dict[Work, FairQueue[asyncio.Future[None]]] = {
            "encode": FairQueue(),
            "decode": FairQueue(),
        }

    def waiting(self, work: Work) -> int:
        """Return how many calls wait for a place."""
        return len(self._waiting[work])

    async def acquire(self, work: Work) -> None:
        """Wait for a place; `release` it afterward. Among calls of one kind, callers take turns."""
        place = asyncio.get_running_loop().create_future()
        self._waiting[work].append(caller.get(), place)
        self._fill()
        try:
            await place
        except asyncio.CancelledError:
            if not place.cancelled():  # it was given in the same moment
                self.release(work)
            else:
                self._waiting[work].remove(place)
            raise

    def release(self, work: Work) -> None:
        """Give a place back."""
        self._running[work] -= 1
        self._fill()

    def _fill(self) -> None:
        for work, waiting in self._waiting.items():  # encoding first
            while self._is_free_for(work) and (place := waiting.take()):
                if not place.done():  # else it has been canceled
                    self._running[work] += 1
                    place.set_result(None)

    def _is_free_for(self, work: Work) -> bool:
        if sum(self._running.values()) < self._size:
            return True
        return work == "encode" and self._running["encode"] == 0
