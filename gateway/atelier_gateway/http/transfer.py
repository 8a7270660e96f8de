"""Limits of what the process receives and sends: bytes in flight, and how fast they must move."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from atelier_runtime import metrics
from atelier_runtime.errors import QueueFull

MIN_BYTES_PER_SECOND = 4096
"""Slower than any network that could carry an image before the deadline."""

CLOSE_UNREAD = "close_unread"
"""Key in a scope's state: a function that closes the connection, whose client does not read the response."""

_MIB = 2**20
_SMALL_BYTES = 64 * 1024
_SLICE_BYTES = 256 * 1024
_STATE_KEY = "transfer"

_BUSY_BYTES_PER_SECOND = 64 * 1024
"""While others find no room, a body that moves more slowly gives up its own."""


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
        """Give up slow bodies, the slowest first, until so many more bytes fit or no slow one is left."""
        slow = [other for other in self.moving if other is not asking and other.pace < _BUSY_BYTES_PER_SECOND]
        for other in sorted(slow, key=lambda other: other.pace):
            if self._bytes + count <= self.max_bytes:
                return
            other.give_up()


class Transfer:
    """One request's share. It is held until the response has been sent."""

    def __init__(self, transfers: Transfers) -> None:
        self._transfers = transfers
        self._bytes = 0
        self._moved = 0
        self._since = self._last_moved = 0.0
        self._pace = float("inf")
        self._stop: Callable[[], None] = _nothing
        self.was_given_up = False

    @property
    def stall_seconds(self) -> float:
        """See `Transfers`."""
        return self._transfers.stall_seconds

    @property
    def too_slow(self) -> str:
        """What to tell a client whose body was ended."""
        if self.was_given_up:
            return f"less than {_BUSY_BYTES_PER_SECOND} bytes per second while others waited for its room"
        return f"less than {MIN_BYTES_PER_SECOND} bytes per second in {self.stall_seconds:g} s"

    @property
    def pace(self) -> float:
        """Bytes per second over the last seconds; infinite until there have been that many."""
        stands_still = self._transfers.clock() - self._last_moved >= self._transfers.pace_seconds
        return 0.0 if stands_still else self._pace

    def require(self, count: int) -> None:
        """Raise `QueueFull` if so many more bytes do not fit. A single or a small request always does.

        Bodies that hardly move make room for it, see `Transfers.make_room`.
        """
        if self._bytes + count <= _SMALL_BYTES or self._fits(count):
            return
        self._transfers.make_room(count, self)
        if self._fits(count):
            return
        self.release()  # at once, or the next to ask would be refused for the sake of this one
        others, limit = self._transfers.bytes / _MIB, self._transfers.max_bytes / _MIB
        raise QueueFull(
            f"There is no room for this request's body: {others:.0f} MiB of others are in flight, "
            f"of {limit:.0f} MiB allowed."
        )

    def _fits(self, count: int) -> bool:
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
    def moving(self, stop: Callable[[], None]) -> Iterator[None]:
        """Within this context the body moves over the network, as `moved` says; `stop` ends it early."""
        self._moved, self._pace = 0, float("inf")
        self._since = self._last_moved = self._transfers.clock()
        self._stop = stop
        self._transfers.moving.add(self)
        try:
            yield
        finally:
            self._transfers.moving.discard(self)
            self._stop = _nothing

    def moved(self, count: int) -> None:
        """Say that so many bytes have arrived or left."""
        self._moved += count
        self._last_moved = now = self._transfers.clock()
        if now - self._since >= self._transfers.pace_seconds:
            self._pace = self._moved / (now - self._since)
            self._moved, self._since = 0, now

    def give_up(self) -> None:
        """End the body and let go of it."""
        self.was_given_up = True
        self._transfers.moving.discard(self)
        self._stop()
        self.release()


def _nothing() -> None:
    """Stop a body that does not move."""


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
            with transfer.moving(scope["state"][CLOSE_UNREAD]):
                for start in range(0, len(view), _SLICE_BYTES):
                    piece = view[start : start + _SLICE_BYTES]
                    more_body = start + len(piece) < len(view) or message.get("more_body", False)
                    await send({**message, "body": piece, "more_body": more_body})
                    transfer.moved(len(piece))

        try:
            await self._app(scope, receive, send_in_slices)
        finally:
            transfer.release()
