"""How many images may be on their way to a restorer that is full, and whose they are.

While calls wait for the restorer, it is the slower stage: each further image that is drawn makes those that
come after it wait longer, and holds memory. So requests are refused before anything is drawn for them.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from atelier_runtime.caller import caller
from atelier_runtime.errors import DEFAULT_RETRY_AFTER_S, QueueFull

ROOM = 8
"""Images that may be drawn, or wait, while the restorer is full."""

MOST = 2 * ROOM
"""The same, where some come from callers that have fewer of them than another one has."""


class WaitingRoom:
    """Counts the images that are drawn for requests that go on to the restorer, by caller."""

    def __init__(self, waiting: Callable[[], Mapping[str, int]]) -> None:
        """`waiting`: calls that wait because the restorer is full, by caller."""
        self._waiting = waiting
        self._drawing = Counter[str]()

    @contextmanager
    def enter(self, images: int) -> Iterator[Callable[[], None]]:
        """Take room for images of the current caller; yields what to call when one is drawn.

        Raises `QueueFull` if there is none. Where there is no more room for all, there is for a caller that
        has at least two images fewer than the caller with the most.
        """
        name = caller.get()
        if waiting := self._waiting():
            here = Counter(waiting) + self._drawing
            fits = here.total() + images <= ROOM
            has_less = max(here.values()) >= here[name] + images + 1
            if not fits and not (has_less and here.total() + images <= MOST):
                raise QueueFull(
                    f"The restorer's queue is full, and {here.total()} images are drawn or wait for it.",
                    retry_after_s=random.uniform(1.0, 2 * DEFAULT_RETRY_AFTER_S - 1.0),  # not all at once
                )
        left = images
        self._drawing[name] += images

        def leave(number: int = 1) -> None:
            nonlocal left
            number = min(number, left)
            left -= number
            self._drawing[name] -= number
            if not self._drawing[name]:
                del self._drawing[name]

        try:
            yield leave
        finally:
            leave(left)
