"""CPU-bound work other than decoding and encoding, such as aligning and pasting: in a few threads."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from typing import Any, TypeVar

from atelier_runtime.processors import usable_processors

T = TypeVar("T")
Item = TypeVar("Item")


class CpuPool:
    """Runs functions in threads, at most one per CPU, so that the event loop stays free.

    The limit also keeps a burst of large images from filling the memory with decoded pixels.
    """

    def __init__(self, size: int | None = None) -> None:
        """`size`: functions at a time; None: one for each CPU."""
        self._semaphore = asyncio.Semaphore(size or usable_processors())

    async def run(self, function: Callable[[], T]) -> T:
        """Run a function when a thread is free; a canceled caller does not start it.

        A running function cannot be interrupted; if its caller is canceled, it keeps its thread to the end.
        """
        await self._semaphore.acquire()
        running = asyncio.ensure_future(asyncio.to_thread(function))
        running.add_done_callback(self._free_thread)
        return await asyncio.shield(running)

    async def run_each(
        self, function: Callable[[Item], T], items: Iterable[Item], stage: AbstractContextManager[None]
    ) -> list[T]:
        """Run a function for each item, in one thread; a cancelled caller does not begin the next item.

        `stage` times all of them, without the wait for a thread.
        """
        stopped = threading.Event()

        def run_all() -> list[T]:
            with stage:
                return [function(item) for item in items if not stopped.is_set()]

        try:
            return await self.run(run_all)
        finally:
            stopped.set()

    def _free_thread(self, ended: asyncio.Future[Any]) -> None:
        self._semaphore.release()
        if not ended.cancelled():
            ended.exception()  # retrieved, or asyncio would log it if the caller is gone
