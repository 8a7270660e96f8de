"""An HTTP/1.1 connection with limits of time and size, on top of uvicorn's.

uvicorn bounds the time between two requests and nothing else. Here a header must be complete in time and not
too large, a body must not be all framing, the rest of a refused one is discarded but not forever, a response
must be read, and the number of connections is limited. How fast a body must arrive is checked where it is
read, see `body`, which can answer in the format of its dialect.
"""

from __future__ import annotations

import asyncio
import re
import weakref
from typing import Any, Literal

import httptools
import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from atelier_gateway.http.connections import Cause, Connections
from atelier_gateway.http.lingering import LingeringTransport, LingerLimits
from atelier_gateway.http.transfer import CONNECTION, MIN_BYTES_PER_SECOND
from atelier_runtime import metrics

_MAX_HEADER_BYTES = 64 * 1024
_MAX_FRAMING_BYTES = 64 * 1024
_BYTES_PER_FRAMING_BYTE = 8
_ABSOLUTE_WITHOUT_PATH = re.compile(rb"[a-zA-Z]+://[^/?#]+")
_CONTENT_TOO_SMALL = "The body's chunks are too small, or its trailers too large."


class ServerConfig(uvicorn.Config):
    """uvicorn's configuration, and the connections that all its protocols share."""

    def __init__(self, app: Any, connections: Connections, **options: Any) -> None:
        super().__init__(app, http=HttpConnection, ws="none", **options)
        self.connections = connections


class HttpConnection(HttpToolsProtocol):
    """One connection of a client."""

    def __init__(
        self,
        config: ServerConfig,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        """As uvicorn calls it."""
        # Weak, or each scope would keep its connection, and so itself, until a full collection.
        state = app_state | {CONNECTION: weakref.ref(self)}
        super().__init__(config, server_state, state, _loop)
        self._connections = config.connections
        self._limits = config.connections.limits
        self._lingering: LingeringTransport  # uvicorn's `transport`, from `connection_made` on
        self._is_counted = False
        self._timer: asyncio.TimerHandle | None = None  # of a header, or of a body that nobody reads
        self._write_timer: asyncio.TimerHandle | None = None
        self._in_header = True
        self._header_has_begun = False
        self._header_is_known = False
        self._header_bytes = 0
        self._received_bytes = 0
        self._body_bytes = 0

    # --- the connection ---

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take a place, or refuse."""
        assert isinstance(transport, asyncio.Transport)
        self._lingering = LingeringTransport(
            transport,
            LingerLimits(self._limits.header_seconds, self._limits.max_discarded_bytes),
            is_sending=lambda: not self._in_header,
            on_linger=self._has_begun_to_linger,
            give_up=lambda: self.abort("body"),
        )
        super().connection_made(self._lingering)
        # every byte that the client has not taken is seen
        self._lingering.set_write_buffer_limits(high=0, low=0)
        if not self._connections.add(self):
            self._refuse(503, "Too many connections.", "refused")
            return
        self._connections.set_idle(self, is_idle=True)
        self._start_timer("header_timeout")

    def connection_lost(self, exc: Exception | None) -> None:
        """Give the place back."""
        self._stop_timer()
        self._stop_write_timer()
        self._lingering.forget()
        self._connections.discard(self)
        super().connection_lost(exc)

    def abort(self, cause: Cause) -> None:
        """Close at once, whatever has not been sent."""
        if not self._is_counted:
            metrics.CONNECTIONS_CLOSED.labels(cause).inc()
        self._connections.discard(self)
        self.transport.abort()

    def close_unread(self) -> None:
        """Close, because the client does not read its response."""
        self.abort("unread")

    def timeout_keep_alive_handler(self) -> None:
        """Close an idle connection, even one whose client has not read the last response."""
        if self.transport.get_write_buffer_size():
            self.abort("unread")
        else:
            super().timeout_keep_alive_handler()

    def _refuse(self, status: int, message: str, cause: Cause) -> None:
        if self.transport.is_closing():
            return
        if self._owes_response():  # in whose place or middle the refusal would be taken for it
            self.abort(cause)
            return
        metrics.CONNECTIONS_CLOSED.labels(cause).inc()
        self._is_counted = True
        body = message.encode()
        self.transport.write(
            b"HTTP/1.1 %d \r\ncontent-type: text/plain; charset=utf-8\r\ncontent-length: %d\r\n"
            b"connection: close\r\n\r\n%s" % (status, len(body), body)
        )
        if cause == "refused":  # there is no place to linger
            self.transport.close()
        else:
            self._lingering.linger()

    def _has_begun_to_linger(self) -> None:
        """Make room for others first. A request that is not answered by now has lost its client."""
        self._stop_timer()
        self._connections.set_reading(self, is_reading=False)
        self._connections.set_idle(self, is_idle=True)
        if self.cycle is not None and not self.cycle.response_complete:
            self.cycle.disconnected = True
            self.cycle.message_event.set()

    def _owes_response(self) -> bool:
        """Return whether an earlier request has no response yet, or one that has begun."""
        if self.pipeline or self.cycle is None or self.cycle.response_complete:
            return bool(self.pipeline)
        return self._in_header or self.cycle.response_started

    # --- what is received ---

    def data_received(self, data: bytes) -> None:
        """Parse what came."""
        if self._lingering.lingers:
            self._lingering.discard(len(data))
            return
        if not self._in_header:
            self._received_bytes += len(data)
            self._connections.set_reading(self, is_reading=True)
        elif self._timer is None:
            self._start_timer("header_timeout")
        self._header_bytes += len(data)
        self._unset_keepalive_if_required()
        try:
            self._parse(data)
        except httptools.HttpParserError:
            self._refuse(400, "Invalid HTTP request received.", "malformed")
        if self.transport.is_closing():
            return
        if self._in_header:
            if self._header_bytes > _MAX_HEADER_BYTES:
                self._refuse_header()
        elif self._framing_bytes() > _MAX_FRAMING_BYTES + self._body_bytes // _BYTES_PER_FRAMING_BYTE:
            self._refuse(400, _CONTENT_TOO_SMALL, "malformed")

    def _parse(self, data: bytes) -> None:
        while True:
            try:
                self.parser.feed_data(data)
            except httptools.HttpParserUpgrade as upgrade:
                self._decline_upgrade()
                data = data[upgrade.args[0] :]
            else:
                return

    def _decline_upgrade(self) -> None:
        """Serve a request that offers another protocol, such as HTTP/2, as if it did not.

        To the parser such a request ends with its header. A new parser reads the same header without the
        offer, and then the body.
        """
        framing = (b"content-length", b"transfer-encoding")
        header = b"".join(b"%s: %s\r\n" % field for field in self.headers if field[0] in framing)
        self.parser = httptools.HttpRequestParser(self)
        self._header_is_known = True
        self.parser.feed_data(b"POST / HTTP/1.1\r\n%s\r\n" % header)
        self._header_is_known = False

    def _framing_bytes(self) -> int:
        return self._received_bytes - self._body_bytes

    def _refuse_header(self) -> None:
        self._refuse(431, f"The header is larger than {_MAX_HEADER_BYTES} bytes.", "header_size")

    # --- the parser's callbacks ---

    def on_message_begin(self) -> None:
        """Begin with a header."""
        if self._header_is_known:
            return
        self._header_has_begun = True
        super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        """Keep the target, or a part of it."""
        if not self._header_is_known:
            super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Keep a header; trailers, which come after a body in chunks, are ignored."""
        if self._in_header and not self._header_is_known:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Begin with the request."""
        if self._header_is_known:
            return
        size = len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)
        if size > _MAX_HEADER_BYTES:
            self._refuse_header()
            raise ValueError("ends parsing")
        hosts = sum(name == b"host" for name, _ in self.headers)
        if hosts > 1 or (hosts == 0 and self.parser.get_http_version() == "1.1"):
            raise ValueError("a request has one Host (RFC 9112, 3.2)")
        if _ABSOLUTE_WITHOUT_PATH.fullmatch(self.url):
            self.url += b"/"
        self._in_header = self._header_has_begun = False
        self._header_bytes = self._received_bytes = self._body_bytes = 0
        self._stop_timer()
        self._connections.set_idle(self, is_idle=False)
        self._connections.set_reading(self, is_reading=True)
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Hand on a part of the body."""
        self._body_bytes += len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        """Wait for the next request once this one has its response."""
        if self.parser.should_upgrade():  # the body is still to come
            return
        self._in_header = True
        self._header_bytes = 0
        self._stop_timer()
        self._connections.set_reading(self, is_reading=False)
        super().on_message_complete()
        if self.cycle.response_complete:  # it did not wait for the body
            self._wait_for_request()

    def on_response_complete(self) -> None:
        """Wait for the next request. The rest of a body that was not read is discarded for a while."""
        super().on_response_complete()
        if self.pipeline or not self.cycle.response_complete or self._lingering.lingers:
            return
        if self._in_header:
            self._wait_for_request()
        else:
            self._start_timer("body")

    # --- what is sent ---

    def pause_writing(self) -> None:
        """Watch whether the client reads."""
        super().pause_writing()
        self._watch_writing(self.unread_bytes())

    def resume_writing(self) -> None:
        """The client has read everything."""
        self._stop_write_timer()
        super().resume_writing()

    def _watch_writing(self, unsent: int) -> None:
        def check() -> None:
            left = self.unread_bytes()
            if unsent - left < MIN_BYTES_PER_SECOND * self._limits.stall_seconds:
                self.abort("unread")
            else:
                self._watch_writing(left)

        self._write_timer = self.loop.call_later(self._limits.stall_seconds, check)

    def unread_bytes(self) -> int:
        """Return the bytes that the client has not received."""
        return self._lingering.unread_bytes()

    # --- timers ---

    def _wait_for_request(self) -> None:
        self._connections.set_idle(self, is_idle=True)
        if self._header_has_begun or self.timeout_keep_alive_task is None:
            self._start_timer("header_timeout")

    def _start_timer(self, cause: Literal["header_timeout", "body"]) -> None:
        self._stop_timer()
        self._timer = self.loop.call_later(self._limits.header_seconds, self._time_is_up, cause)

    def _time_is_up(self, cause: Literal["header_timeout", "body"]) -> None:
        self._timer = None
        if self.cycle is not None and not self.cycle.response_complete:
            return  # the next request may wait for this one
        if cause == "body":
            self._lingering.linger()
        else:
            self.abort(cause)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _stop_write_timer(self) -> None:
        if self._write_timer is not None:
            self._write_timer.cancel()
            self._write_timer = None
