"""A queue in which callers take turns. See docs/decisions/fair-queues.md."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, Generic, TypeVar

T = TypeVar("T")


def _any(item: Any) -> bool:
    return True


class FairQueue(Generic[T]):
    """Items of callers. One of each caller is taken in turn; of one caller, first come, first served.

    Whoever comes anew waits until all that wait have had their turn. Items are told apart by identity.
    """

    def __init__(self) -> None:
        self._items: dict[str, deque[T]] = {}  # of each caller that waits, in the order of their turns

    def __len__(self) -> int:
        """Return how many items wait."""
        return sum(len(items) for items in self._items.values())

    def __iter__(self) -> Iterator[T]:
        """Iterate over the items, caller by caller, in the order of their turns."""
        for items in self._items.values():
            yield from items

    def __contains__(self, item: object) -> bool:
        """Return whether an item waits."""
        return any(each is item for each in self)

    def append(self, caller: str, item: T) -> None:
        """Add the last item of a caller."""
        self._items.setdefault(caller, deque()).append(item)

    def take(self, fits: Callable[[T], bool] = _any) -> T | None:
        """Remove and return the first item that fits, of the first caller that has one; None without any.

        Its caller's turn is then over. Those that have nothing that fits keep theirs.
        """
        for caller, items in self._items.items():
            for item in items:
                if fits(item):
                    self.remove(item)
                    if items:
                        self._items[caller] = self._items.pop(caller)
                    return item
        return None

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
