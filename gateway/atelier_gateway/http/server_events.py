"""Server-sent events (WHATWG HTML, section 9.2), written as a response's body."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import orjson
from starlette.responses import StreamingResponse

HEARTBEAT = b": \n\n"
"""A comment. Proxies close connections on which nothing moves."""

EVENT_HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
"""Of a response that is sent as it comes, and kept by nobody."""


@dataclass(frozen=True)
class ServerEvent:
    """One event. `id`: what a client that reconnects sends as Last-Event-ID."""

    name: str
    data: Any
    id: int

    def encoded(self) -> bytes:
        """Return it as it is sent; JSON has no line ends."""
        return b"event: %b\nid: %d\ndata: %b\n\n" % (self.name.encode(), self.id, orjson.dumps(self.data))


def event_response(events: AsyncIterator[bytes]) -> StreamingResponse:
    """Respond with events until the iterator ends."""
    return StreamingResponse(events, media_type="text/event-stream", headers=EVENT_HEADERS)
