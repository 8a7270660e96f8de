"""A queue in which callers take turns. See docs/decisions/fair-queues.md."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, Generic, TypeVar

T = TypeVar("T")

_REMEMBERED = 1000
"""Callers whose last turn is known, beside those that wait."""


def _any(item: Any) -> bool:
    return True


class FairQueue(Generic[T]):
    """Items of callers. One of each caller is taken in turn; of one caller, first come, first served.

    The caller whose last turn is longest ago comes first; whoever comes anew, as if it had just had one. So
    one with a single item at a time, that comes back at once, has as many turns as one with many. Items are
    told apart by identity.
    """

    def __init__(self) -> None:
        self._items: dict[str, deque[T]] = {}  # of each caller that waits
        self._last_turns: dict[str, int] = {}  # of those that were here lately, the latest last
        self._turn = 0

    def __len__(self) -> int:
        """Return how many items wait."""
        return sum(len(items) for items in self._items.values())

    def __iter__(self) -> Iterator[T]:
        """Iterate over the items, caller by caller, in the order of their turns."""
        for caller in self._in_turn():
            yield from self._items[caller]

    def _in_turn(self) -> list[str]:
        return sorted(self._items, key=self._last_turns.__getitem__)

    def __contains__(self, item: object) -> bool:
        """Return whether an item waits."""
        return any(each is item for each in self)

    def append(self, caller: str, item: T) -> None:
        """Add the last item of a caller."""
        self._items.setdefault(caller, deque()).append(item)
        self._last_turns.setdefault(caller, self._turn)

    def take(self, fits: Callable[[T], bool] = _any) -> T | None:
        """Remove and return the first item that fits, of the first caller that has one; None without any.

        Its caller's turn is then over. Those that have nothing that fits keep theirs.
        """
        for caller in self._in_turn():
            for item in self._items[caller]:
                if fits(item):
                    self.remove(item)
                    self._end_turn(caller)
                    return item
        return None

    def _end_turn(self, caller: str) -> None:
        self._turn += 1
        self._last_turns.pop(caller, None)
        self._last_turns[caller] = self._turn
        if len(self._last_turns) > _REMEMBERED:
            forgotten = next((name for name in self._last_turns if name not in self._items), None)
            if forgotten is not None:
                del self._last_turns[forgotten]

    def remove(self, item: T) -> bool:
        """Remove an item; return whether it was there. Nobody's turn changes."""
        for caller, items in self._items.items():
            for position, each in enumerate(items):
                if each is item:
                    del items[position]
                    if not items:
                        del self._items[caller]
                    return True
        return False
