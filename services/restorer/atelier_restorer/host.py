"""Work for the processor: decoding, aligning, pasting, encoding; in threads, a few at a time."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


class HostWork:
    """Runs functions in threads, at most one for each core, so that the event loop stays free.

    The limit also keeps a burst of large pictures from filling the memory with decoded pixels.
    """

    def __init__(self, width: int | None = None) -> None:
        """`width`: functions at a time; None: one for each core."""
        self._turns = asyncio.Semaphore(width or os.cpu_count() or 1)

    async def run(self, function: Callable[[], T]) -> T:
        """Run a function when its turn comes; a cancelled caller does not begin it."""
        async with self._turns:
            return await asyncio.to_thread(function)
