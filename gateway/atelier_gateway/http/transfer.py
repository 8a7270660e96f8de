"""Limits of what the process receives and sends: bytes in flight, and how fast they must move."""

from __future__ import annotations

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from atelier_runtime import metrics
from atelier_runtime.errors import QueueFull

MIN_BYTES_PER_SECOND = 4096
"""Slower than any network that could carry an image before the deadline."""

_MIB = 2**20
_SMALL_BYTES = 64 * 1024
_SLICE_BYTES = 256 * 1024
_STATE_KEY = "transfer"


class Transfers:
    """The bodies of all requests and responses that are in flight."""

    def __init__(self, *, max_bytes: int, stall_seconds: float) -> None:
        """`stall_seconds`: in each such period, `MIN_BYTES_PER_SECOND` must arrive on average."""
        self.max_bytes = max_bytes
        self.stall_seconds = stall_seconds
        self._bytes = 0

    @property
    def bytes(self) -> int:
        """Bytes in flight."""
        return self._bytes

    def count(self, change: int) -> None:
        """Add to the bytes in flight."""
        self._bytes += change
        metrics.BYTES_IN_FLIGHT.set(self._bytes)


class Transfer:
    """One request's share. It is held until the response has been sent."""

    def __init__(self, transfers: Transfers) -> None:
        self._transfers = transfers
        self._bytes = 0

    @property
    def stall_seconds(self) -> float:
        """See `Transfers`."""
        return self._transfers.stall_seconds

    def require(self, count: int) -> None:
        """Raise `QueueFull` if so many more bytes do not fit. A single or a small request always does."""
        others = self._transfers.bytes - self._bytes
        limit = self._transfers.max_bytes
        if others and self._bytes + count > _SMALL_BYTES and self._transfers.bytes + count > limit:
            self.release()  # at once, or the next to ask would be refused for the sake of this one
            raise QueueFull(
                f"There is no room for this request's body: {others / _MIB:.0f} MiB of others are in flight, "
                f"of {limit / _MIB:.0f} MiB allowed."
            )

    def hold(self, count: int) -> None:
        """Count bytes that have been received or will be sent."""
        self._bytes += count
        self._transfers.count(count)

    def release(self) -> None:
        """Let go of everything."""
        self.hold(-self._bytes)


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
            for start in range(0, len(view), _SLICE_BYTES):
                more_body = start + _SLICE_BYTES < len(view) or message.get("more_body", False)
                await send({**message, "body": view[start : start + _SLICE_BYTES], "more_body": more_body})

        try:
            await self._app(scope, receive, send_in_slices)
        finally:
            transfer.release()
