"""Limits of what the process receives and sends: bytes in flight, and how fast they must move."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Protocol

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from atelier_runtime import metrics
from atelier_runtime.errors import QueueFull

MIN_BYTES_PER_SECOND = 4096
"""Slower than any network that could carry an image before the deadline."""

CONNECTION = "connection"
"""Key in a scope's state: a weak reference to the `Connection` of a request."""

_MIB = 2**20
_SMALL_BYTES = 64 * 1024
_SLICE_BYTES = 256 * 1024
_STATE_KEY = "transfer"

_MIN_BYTES_PER_SECOND_WHEN_FULL = 64 * 1024
"""While others find no room, a body that moves more slowly gives up its own."""


class Connection(Protocol):
    """What is asked of the connection that a response leaves by."""

    def close_unread(self) -> None:
        """Close it, because the client does not read the response."""

    def unread_bytes(self) -> int:
        """Return how many bytes have left that the client has not received."""


def _nothing() -> None:
    """Stop a body that does not move."""


def _none() -> int:
    """Return how much is unread where the network does not say."""
    return 0


class Transfers:
    """The bodies of all requests and responses that are in flight."""

    def __init__(
        self, *, max_bytes: int, stall_seconds: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """`stall_seconds`: in each such period, `MIN_BYTES_PER_SECOND` must arrive on average.

        `clock`: seconds that never run backwards.
        """
        self.max_bytes = max_bytes
        self.stall_seconds = stall_seconds
        self.pace_seconds = stall_seconds / 4
        self.clock = clock
        self.moving: set[Transfer] = set()
        self._bytes = 0

    @property
    def bytes(self) -> int:
        """Bytes in flight."""
        return self._bytes

    def count(self, change: int) -> None:
        """Add to the bytes in flight."""
        self._bytes += change
        metrics.BYTES_IN_FLIGHT.set(self._bytes)

    def make_room(self, count: int, asking: Transfer) -> None:
        """End slow bodies, the slowest first, until so many more bytes fit; none if that would not do."""
        paces = {other: other.take_pace() for other in self.moving if other is not asking}
        slow = [
            other
            for other, pace in sorted(paces.items(), key=lambda item: item[1])
            if pace < _MIN_BYTES_PER_SECOND_WHEN_FULL and other.bytes > _SMALL_BYTES
        ]
        remaining = self._bytes - sum(other.bytes for other in slow)
        if remaining != asking.bytes and remaining + count > self.max_bytes:
            return
        for other in slow:
            if asking.fits(count):
                return
            other.give_up()


class Transfer:
    """One request's share. It is held until the response has been sent."""

    def __init__(self, transfers: Transfers) -> None:
        self._transfers = transfers
        self._bytes = 0
        self._moved = 0  # of the body, up to now
        self._moved_before, self._since = 0, 0.0  # up to when its pace was last taken
        self._pace = float("inf")
        self._stop: Callable[[], None] = _nothing
        self._unread: Callable[[], int] = _none
        self.was_given_up = False

    @property
    def bytes(self) -> int:
        """Bytes that are held."""
        return self._bytes

    @property
    def stall_seconds(self) -> float:
        """See `Transfers`."""
        return self._transfers.stall_seconds

    @property
    def too_slow(self) -> str:
        """What to tell a client whose body was ended."""
        if self.was_given_up:
            limit = _MIN_BYTES_PER_SECOND_WHEN_FULL
            return f"less than {limit} bytes per second while others waited for its room"
        return f"less than {MIN_BYTES_PER_SECOND} bytes per second in {self.stall_seconds:g} s"

    def take_pace(self) -> float:
        """Return the bytes per second of the last period; infinite until there has been one."""
        now = self._transfers.clock()
        elapsed = now - self._since
        if elapsed >= self._transfers.pace_seconds:
            moved = self._moved - self._unread()
            self._pace = (moved - self._moved_before) / elapsed
            self._moved_before, self._since = moved, now
        return self._pace

    def require(self, count: int) -> None:
        """Raise `QueueFull` if so many more bytes do not fit. A single or a small request always does.

        Bodies that hardly move make room for it, see `Transfers.make_room`.
        """
        if self._bytes + count <= _SMALL_BYTES or self.fits(count):
            return
        self._transfers.make_room(count, self)
        if self.fits(count):
            return
        self.release()  # at once, or the next to ask would be refused for the sake of this one
        others, limit = self._transfers.bytes / _MIB, self._transfers.max_bytes / _MIB
        raise QueueFull(
            f"There is no room for this request's body: {others:.0f} MiB of others are in flight, "
            f"of {limit:.0f} MiB allowed."
        )

    def fits(self, count: int) -> bool:
        """Return whether so many more bytes fit, by themselves if nothing else is in flight."""
        in_flight = self._transfers.bytes
        return in_flight == self._bytes or in_flight + count <= self._transfers.max_bytes

    def hold(self, count: int) -> None:
        """Count bytes that have been received or will be sent."""
        self._bytes += count
        self._transfers.count(count)

    def release(self) -> None:
        """Let go of everything."""
        self.hold(-self._bytes)

    @contextmanager
    def moving(self, stop: Callable[[], None], unread: Callable[[], int] = _none) -> Iterator[None]:
        """Within this context the body moves over the network, as `moved` says.

        `stop` ends it early. `unread` returns how many of the bytes that have left have not been received.
        """
        self._moved = self._moved_before = 0
        self._since, self._pace = self._transfers.clock(), float("inf")
        self._stop, self._unread = stop, unread
        self._transfers.moving.add(self)
        try:
            yield
        finally:
            self._transfers.moving.discard(self)
            self._stop, self._unread = _nothing, _none

    def moved(self, count: int) -> None:
        """Say that so many bytes have arrived or left."""
        self._moved += count
        self.take_pace()  # in every period, so that a fast beginning is soon forgotten

    def give_up(self) -> None:
        """End the body and let go of it."""
        self.was_given_up = True
        self._transfers.moving.discard(self)
        self._stop()
        self.release()


def _watched(transfer: Transfer, scope: Scope) -> AbstractContextManager[None]:
    """Return the context in which a response moves; a server with other connections cannot end it."""
    reference = scope["state"].get(CONNECTION)
    connection: Connection | None = reference and reference()
    if connection is None:
        return nullcontext()
    return transfer.moving(connection.close_unread, connection.unread_bytes)


def transfer_of(scope: Scope) -> Transfer:
    """Return the request's share, which the middleware has opened."""
    transfer = scope["state"][_STATE_KEY]
    assert isinstance(transfer, Transfer)
    return transfer


class TransferMiddleware:
    """Opens a `Transfer` for each request, and sends large responses in slices.

    A slice is handed to the server when the one before it has left, so that a response is held once, here,
    and not a second time in the connection's buffer. A client that stops reading is the connection's concern.
    """

    def __init__(self, app: ASGIApp, *, transfers: Transfers) -> None:
        self._app = app
        self._transfers = transfers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        transfer = Transfer(self._transfers)
        scope.setdefault("state", {})[_STATE_KEY] = transfer

        async def send_in_slices(message: Message) -> None:
            body = message.get("body", b"")
            transfer.hold(len(body))
            if len(body) <= _SLICE_BYTES:
                await send(message)
                return
            view = memoryview(body)
            with _watched(transfer, scope):
                for start in range(0, len(view), _SLICE_BYTES):
                    piece = view[start : start + _SLICE_BYTES]
                    more_body = start + len(piece) < len(view) or message.get("more_body", False)
                    await send({**message, "body": piece, "more_body": more_body})
                    transfer.moved(len(piece))

        try:
            await self._app(scope, receive, send_in_slices)
        finally:
            transfer.release()
