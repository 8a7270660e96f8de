"""TLS handshakes that take a place among the connections.

asyncio tells a protocol of a connection once its handshake is done. Clients that begin none would be counted
nowhere, and use up the files that the process may open.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable

from atelier_gateway.http.connections import Cause, Connections
from atelier_runtime import metrics

_EXTRA = 16
"""Handshakes for which there is no place, so that clients can be told so over TLS."""


class Handshake(asyncio.Protocol):
    """A connection until its handshake is done; then, the protocol that `serve` returns has it.

    It counts as idle, so at the limit the oldest one makes room.
    """

    def __init__(
        self, connections: Connections, context: ssl.SSLContext, serve: Callable[[], asyncio.Protocol]
    ) -> None:
        self._connections = connections
        self._context = context
        self._serve = serve
        self._transport: asyncio.Transport
        self._task: asyncio.Task[None]
        self._received: list[bytes] = []
        self._is_lost = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take a place, or close."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        if not self._connections.add(self, extra=_EXTRA):
            self.abort("refused")
            return
        self._connections.set_idle(self, is_idle=True)
        transport.pause_reading()  # what comes first is for TLS
        self._task = asyncio.get_running_loop().create_task(self._shake_hands())

    def data_received(self, data: bytes) -> None:
        """Keep what came with the end of the handshake."""
        self._received.append(data)

    def connection_lost(self, exc: Exception | None) -> None:
        """Give the place back."""
        self._is_lost = True
        self._connections.discard(self)

    def abort(self, cause: Cause) -> None:
        """Close at once."""
        metrics.CONNECTIONS_CLOSED.labels(cause).inc()
        self._connections.discard(self)
        self._transport.abort()

    async def _shake_hands(self) -> None:
        if self._transport.is_closing():
            return
        try:
            secure = await asyncio.get_running_loop().start_tls(
                self._transport,
                self,
                self._context,
                server_side=True,
                ssl_handshake_timeout=self._connections.limits.header_seconds,
            )
        except OSError:  # of TLS, too, and of a handshake that takes too long
            return
        finally:
            self._connections.discard(self)  # in whose place the next one follows
        if secure is None or self._is_lost:  # closed meanwhile
            return
        protocol = self._serve()
        secure.set_protocol(protocol)
        protocol.connection_made(secure)
        for data in self._received:
            protocol.data_received(data)
