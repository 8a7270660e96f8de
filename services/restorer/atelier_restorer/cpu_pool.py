"""CPU-bound work: decoding, aligning, pasting, encoding; in threads, a few at a time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, TypeVar

from atelier_runtime.processors import usable_processors

T = TypeVar("T")


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

    def _free_thread(self, ended: asyncio.Future[Any]) -> None:
        self._semaphore.release()
        if not ended.cancelled():
            ended.exception()  # retrieved, or asyncio would log it if the caller is gone
