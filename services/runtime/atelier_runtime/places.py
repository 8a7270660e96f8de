"""Who may have a place in a full queue: no caller keeps another out, whatever its number of connections."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from atelier_runtime.errors import AtelierError

_GRACE_S = 10.0
"""How much later than it was told a refused caller may come again without losing its turn."""


@dataclass(eq=False)
class Place:
    """The place of one request, from its admission to its end.

    `since`: when its caller, having no other place, first asked for one. `refuse`: ends the request with an
    error; None if it has begun.
    """

    caller: str
    since: float
    refuse: Callable[[AtelierError], None] | None = None


class Places:
    """The places that are taken, and who was refused one lately."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """`clock`: seconds that never run backwards."""
        self._clock = clock
        self._taken: list[Place] = []  # the newest last
        self._refused: dict[str, tuple[float, float]] = {}  # since when, and until when it counts

    def __len__(self) -> int:
        """Return how many places are taken."""
        return len(self._taken)

    def take(self, caller: str, refuse: Callable[[AtelierError], None] | None = None) -> Place:
        """Give a caller a place."""
        place = Place(caller, self._since(caller), refuse)
        self._refused.pop(caller, None)
        self._taken.append(place)
        return place

    def leave(self, place: Place) -> None:
        """Give a place back. Safe to repeat."""
        place.refuse = None  # it leads back to the request
        if place in self._taken:
            self._taken.remove(place)

    def to_give_up(self, caller: str) -> Place | None:
        """Return the place that its holder must give up for a caller's new request; None if there is none.

        It is the newest that has not begun of the caller with the most places, if these are at least two more
        than the newcomer's. For a caller without any place, it is also the newest that was asked for after
        that caller had been refused.
        """
        held: dict[str, int] = {}
        for place in self._taken:
            held[place.caller] = held.get(place.caller, 0) + 1
        own, since = held.get(caller, 0), self._since(caller)
        waiting = [place for place in reversed(self._taken) if place.refuse is not None]
        most = max((place for place in waiting), key=lambda place: held[place.caller], default=None)
        if most is not None and held[most.caller] >= own + 2:
            return most
        if own == 0:
            newest = max(waiting, key=lambda place: place.since, default=None)
            if newest is not None and newest.since > since:
                return newest
        return None

    def was_refused(self, caller: str, retry_after_s: float, since: float | None = None) -> None:
        """Note that a caller was refused and told when to come again; `since`: when it first asked."""
        now = self._clock()
        self._refused = {name: entry for name, entry in self._refused.items() if entry[1] > now}
        if all(place.caller != caller for place in self._taken):
            first = self._since(caller) if since is None else since
            self._refused[caller] = (first, now + retry_after_s + _GRACE_S)

    def _since(self, caller: str) -> float:
        now = self._clock()
        since, until = self._refused.get(caller, (now, now))
        return since if until > now else now
