"""Work for the processor: decoding, aligning, pasting, encoding; in threads, a few at a time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVar

from atelier_runtime.processors import usable_processors

T = TypeVar("T")


class CpuPool:
    """Runs functions in threads, at most one for each core, so that the event loop stays free.

    The limit also keeps a burst of large pictures from filling the memory with decoded pixels.
    """

    def __init__(self, width: int | None = None) -> None:
        """`width`: functions at a time; None: one for each processor."""
        self._turns = asyncio.Semaphore(width or usable_processors())

    async def run(self, function: Callable[[], T]) -> T:
        """Run a function when its turn comes; a cancelled caller does not begin it."""
        async with self._turns:
            return await asyncio.to_thread(function)
