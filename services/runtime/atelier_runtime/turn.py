"""A request's wait for a slot: until its caller's turn comes, see `DeviceWorker.reserve_slot`."""

from __future__ import annotations

import asyncio
import contextlib
import time

from atelier_runtime.caller import caller
from atelier_runtime.errors import AtelierError
from atelier_runtime.places import Place


class Turn:
    """The wait of a request that is to have a slot, for the moment in which it may begin."""

    def __init__(self) -> None:
        """Called on the event loop, for the current caller."""
        self.caller = caller.get()
        self.asked = time.monotonic()
        self._loop = asyncio.get_running_loop()
        self.begun: asyncio.Future[None] = self._loop.create_future()
        self.place: Place
        self.has_slot = False

    def end(self, error: AtelierError | None = None) -> None:
        """Let it begin, or fail; from any thread."""
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any longer
            self._loop.call_soon_threadsafe(self._end, error)

    def _end(self, error: AtelierError | None) -> None:
        if self.begun.done():
            return
        if error is None:
            self.begun.set_result(None)
        else:
            self.begun.set_exception(error)
