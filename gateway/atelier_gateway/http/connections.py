"""The open connections, of which there are no more than a limit allows."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Literal, Protocol, get_args

from atelier_runtime import metrics

Cause = Literal["refused", "evicted", "header_timeout", "header_size", "malformed", "body", "unread"]

_PATIENCE_S = 1.0


@dataclass(frozen=True)
class ConnectionLimits:
    """The limits of all connections, in seconds but for the first and the last."""

    max_connections: int
    header_seconds: float
    stall_seconds: float
    max_discarded_bytes: int
    """Of a body that comes after its request was refused."""


class Connection(Protocol):
    """What takes a place: an HTTP connection, or one in its TLS handshake."""

    def abort(self, cause: Cause) -> None:
        """Close at once, and give the place back."""


class Connections:
    """The open connections.

    At the limit, a new one takes the place of the one that has been idle longest; if none is idle, of one
    whose body does not come on.
    """

    def __init__(self, limits: ConnectionLimits) -> None:
        self.limits = limits
        for cause in get_args(Cause):  # from 0 on: Prometheus sees no increase in a series that starts at 1
            metrics.CONNECTIONS_CLOSED.labels(cause)
        self._open: set[Connection] = set()
        self._idle: dict[Connection, None] = {}  # in the order in which they became idle
        self._reading: dict[Connection, float] = {}  # in the order in which something last came

    def add(self, connection: Connection, *, extra: int = 0) -> bool:
        """Add a new connection; False if there is no place for it, nor among `extra` ones."""
        while len(self._open) >= self.limits.max_connections + extra:
            least_needed = next(iter(self._idle), None) or self._slowest()
            if least_needed is None:
                return False
            least_needed.abort("evicted")
        self._open.add(connection)
        metrics.CONNECTIONS.set(len(self._open))
        return True

    def discard(self, connection: Connection) -> None:
        """Remove a connection; safe to repeat."""
        self._open.discard(connection)
        self._idle.pop(connection, None)
        self._reading.pop(connection, None)
        metrics.CONNECTIONS.set(len(self._open))

    def set_idle(self, connection: Connection, *, is_idle: bool) -> None:
        """Say whether a connection is without a request. One with half of a header is."""
        self._idle.pop(connection, None)
        if is_idle and connection in self._open:
            self._idle[connection] = None

    def set_reading(self, connection: Connection, *, is_reading: bool) -> None:
        """Say whether a connection is in the middle of a body, or that some of one has just come."""
        self._reading.pop(connection, None)
        if is_reading and connection in self._open:
            self._reading[connection] = time.monotonic()

    def _slowest(self) -> Connection | None:
        """Return the connection whose body has not come on for the longest time, if that is long."""
        connection, since = next(iter(self._reading.items()), (None, 0.0))
        return connection if time.monotonic() - since >= _PATIENCE_S else None
