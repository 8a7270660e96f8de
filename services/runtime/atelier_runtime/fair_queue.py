"""A queue in which callers take turns. See docs/decisions/fair-queues.md."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, Generic, NamedTuple, TypeVar

T = TypeVar("T")

_REMEMBERED = 1000
"""Callers whose last turn is known, beside those that wait."""


def _any(item: Any) -> bool:
    return True


class _Entry(NamedTuple, Generic[T]):
    """An item, the number of turns before it came, and its number among all items."""

    item: T
    turn: int
    number: int


class FairQueue(Generic[T]):
    """Items of callers: first come, first served, but who has had a turn lets each of the others have one.

    A caller's next item is placed as if it had come one round after the caller's last turn, if it has come
    earlier; a round has as many turns as there are callers that wait. So one with a single item at a time,
    that comes back at once, has as many turns as one with many, and nobody is overtaken by those that come
    later, except once by each that has waited its round. Items are told apart by identity.
    """

    def __init__(self) -> None:
        self._items: dict[str, deque[_Entry[T]]] = {}  # of each caller that waits
        self._last_turns: dict[str, int] = {}  # of those that had one lately, the latest last
        self._turn = 0
        self._number = 0

    def __len__(self) -> int:
        """Return how many items wait."""
        return sum(len(items) for items in self._items.values())

    def __iter__(self) -> Iterator[T]:
        """Iterate over the items, caller by caller, in the order of their turns."""
        for caller in self._in_turn():
            yield from (entry.item for entry in self._items[caller])

    def _in_turn(self) -> list[str]:
        return sorted(self._items, key=self._place)

    def _place(self, caller: str) -> tuple[int, int]:
        """Return by what callers are ordered: the turn in which theirs is due, and who came first."""
        first = self._items[caller][0]
        if (last := self._last_turns.get(caller)) is None:
            return first.turn, first.number
        return max(first.turn, last + len(self._items)), first.number

    def __contains__(self, item: object) -> bool:
        """Return whether an item waits."""
        return any(each is item for each in self)

    def append(self, caller: str, item: T) -> None:
        """Add the last item of a caller."""
        self._items.setdefault(caller, deque()).append(_Entry(item, self._turn, self._number))
        self._number += 1

    def take(self, fits: Callable[[T], bool] = _any) -> T | None:
        """Remove and return the first item that fits, of the first caller that has one; None without any.

        Its caller's turn is then over. Those that have nothing that fits keep theirs.
        """
        for caller in self._in_turn():
            for entry in self._items[caller]:
                if fits(entry.item):
                    self.remove(entry.item)
                    self._end_turn(caller)
                    return entry.item
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
            for position, entry in enumerate(items):
                if entry.item is item:
                    del items[position]
                    if not items:
                        del self._items[caller]
                    return True
        return False
