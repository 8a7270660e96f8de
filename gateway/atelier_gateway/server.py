"""The HTTP server: where it listens, how many connections it takes, and how it ends."""

from __future__ import annotations

import asyncio
import resource
import signal
import socket
from collections.abc import Callable
from types import FrameType
from typing import Any

import uvicorn

from atelier_gateway.api.native.request import BodyLimits
from atelier_gateway.http.connection import ConnectionLimits, Connections, HttpConnection, ServerConfig
from atelier_gateway.settings import GatewaySettings
from atelier_gateway.tls import http_context
from atelier_runtime.addresses import bare_host
from atelier_runtime.shutdown import EXIT_GRACE_SECONDS, exit_after

_KEEP_ALIVE_S = 75  # longer than the 60 s of common proxies, so that they close idle connections, not we
_ACCEPTED_AT_ONCE = 16  # before one of them can be counted
_BACKLOG = 2048  # connections that the kernel keeps until they are accepted
_RESERVED_FILES = 256  # for bodies in temporary files and everything else


class Server(uvicorn.Server):
    """A server whose process ends, whatever holds it up."""

    def __init__(self, app: Any, settings: GatewaySettings) -> None:
        """Raises `StartupError` if the certificate cannot be used."""
        context = http_context(settings)
        limits = ConnectionLimits(
            max_connections=min(settings.max_connections, _connections_that_fit(settings.max_connections)),
            header_seconds=settings.header_seconds,
            stall_seconds=settings.stall_seconds,
            max_discarded_bytes=BodyLimits.of(settings).json,
        )
        self._http_config = ServerConfig(
            app,
            Connections(limits),
            log_config=None,
            access_log=False,
            server_header=False,
            forwarded_allow_ips=list(settings.trusted_proxies),
            backlog=_ACCEPTED_AT_ONCE,
            timeout_keep_alive=_KEEP_ALIVE_S,
            timeout_graceful_shutdown=int(settings.drain_seconds),
            ssl_context_factory=None if context is None else lambda *_: context,
        )
        super().__init__(self._http_config)
        self._drain: Callable[[], None] = app.state.drain
        self._handshake_s = settings.header_seconds
        self._hard_end_s = int(settings.drain_seconds) + EXIT_GRACE_SECONDS

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to accept connections."""
        if not self._http_config.is_ssl:
            await super().startup(sockets)
        else:
            await super().startup([])  # its own servers would wait a minute for each handshake
            for listener in sockets or ():
                await self._accept_with_tls(listener)
        for listener in sockets or ():
            listener.listen(_BACKLOG)  # asyncio accepts as many at once as it lets the kernel keep

    async def _accept_with_tls(self, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()

        def connection() -> asyncio.Protocol:
            return HttpConnection(self._http_config, self.server_state, self.lifespan.state, loop)

        server = await loop.create_server(
            connection,
            sock=listener,
            ssl=self._http_config.ssl,
            backlog=_ACCEPTED_AT_ONCE,
            ssl_handshake_timeout=self._handshake_s,
        )
        self.servers.append(server)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Drain: whoever follows a job is let go, so that only work holds the process up."""
        self._drain()
        await super().shutdown(sockets)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin to drain."""
        exit_after(self._hard_end_s)
        super().handle_exit(sig, frame)


def ignore_signals_after_drain() -> None:
    """Let the process end normally after a signal.

    uvicorn drains at these signals, then raises them again for the handlers that were set before its own.
    """
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)


def listen(host: str, port: int) -> socket.socket:
    """Return a listening socket; port 0 takes a free one. `::` listens on IPv4 too.

    Raises `OSError` if it cannot be bound.
    """
    host = bare_host(host)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    both = host == "::" and socket.has_dualstack_ipv6()
    listener = socket.create_server((host, port), family=family, backlog=_BACKLOG, dualstack_ipv6=both)
    # Accepted connections inherit it. asyncio does not set it for sockets that it did not create, and without
    # it a small response waits 40 ms for the client's delayed acknowledgment of its header.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener


def _connections_that_fit(wanted: int) -> int:
    """Return how many connections the limit of open files allows, after raising it as far as we may."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = wanted + _RESERVED_FILES
    if soft != resource.RLIM_INFINITY and soft < needed:
        soft = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    if soft == resource.RLIM_INFINITY:
        return wanted
    return max(soft - _RESERVED_FILES, soft // 4)
