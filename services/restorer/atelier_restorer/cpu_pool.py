"""CPU-bound work other than decoding and encoding, such as aligning and pasting: in a few threads."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from contextvars import ContextVar
from typing import Any, TypeVar

from atelier_runtime import metrics
from atelier_runtime.errors import Cancelled
from atelier_runtime.processors import usable_processors

T = TypeVar("T")
Item = TypeVar("Item")


_CALLER_IS_GONE: ContextVar[threading.Event | None] = ContextVar("_CALLER_IS_GONE", default=None)


def check() -> None:
    """Raise `Cancelled` if this runs in a pool and nobody is waiting for the result any longer."""
    caller_is_gone = _CALLER_IS_GONE.get()
    if caller_is_gone is not None and caller_is_gone.is_set():
        raise Cancelled


class CpuPool:
    """Runs functions in threads, at most one per CPU, so that the event loop stays free.

    The limit also keeps a burst of large images from filling the memory with decoded pixels.
    """

    def __init__(self, size: int | None = None) -> None:
        """`size`: functions at a time; None: one for each CPU."""
        self._semaphore = asyncio.Semaphore(size or usable_processors())

    async def run(self, function: Callable[[], T]) -> T:
        """Run a function when a thread is free; a canceled caller does not start it.

        A running function cannot be interrupted: if its caller is canceled, its next `check` raises, and it
        keeps its thread until it ends.
        """
        await self._semaphore.acquire()
        metrics.CPU_POOL_BUSY.inc()
        caller_is_gone = threading.Event()
        token = _CALLER_IS_GONE.set(caller_is_gone)
        running = asyncio.ensure_future(asyncio.to_thread(function))  # in a copy of this context
        _CALLER_IS_GONE.reset(token)
        running.add_done_callback(self._free_thread)
        try:
            return await asyncio.shield(running)
        except asyncio.CancelledError:
            caller_is_gone.set()
            raise

    async def run_each(
        self, function: Callable[[Item], T], items: Iterable[Item], stage: AbstractContextManager[None]
    ) -> list[T]:
        """Run a function for each item, in one thread.

        `stage` times all of them, without the wait for a thread.
        """

        def run_one(item: Item) -> T:
            check()
            return function(item)

        def run_all() -> list[T]:
            with stage:
                return [run_one(item) for item in items]

        return await self.run(run_all)

    def _free_thread(self, ended: asyncio.Future[Any]) -> None:
        self._semaphore.release()
        metrics.CPU_POOL_BUSY.dec()
        if not ended.cancelled():
            ended.exception()  # retrieved, or asyncio would log it if the caller is gone
