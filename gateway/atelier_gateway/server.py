"""The HTTP server: where it listens, how many connections it takes, and how it ends."""

from __future__ import annotations

import asyncio
import errno
import logging
import resource
import signal
import socket
import ssl
from collections.abc import Callable
from types import FrameType
from typing import Any

import uvicorn

from atelier_gateway.api.native.request import BodyLimits
from atelier_gateway.http.connection import HttpConnection, ServerConfig
from atelier_gateway.http.connections import ConnectionLimits, Connections
from atelier_gateway.http.handshake import Handshake
from atelier_gateway.settings import GatewaySettings
from atelier_gateway.tls import http_context
from atelier_runtime.addresses import bare_host
from atelier_runtime.shutdown import EXIT_GRACE_SECONDS, exit_after

logger = logging.getLogger(__name__)

_KEEP_ALIVE_S = 75  # longer than the 60 s of common proxies, so that they close idle connections, not we
_ACCEPTED_AT_ONCE = 16  # before one of them can be counted
_BACKLOG = 2048  # connections that the kernel keeps until they are accepted
_SAY_AGAIN_S = 60.0
_RESERVED_FILES = 256  # for bodies in temporary files and everything else


class _TooManyFiles:
    """Handles errors of the event loop: one of a lack of files, once a minute and without a traceback.

    asyncio reports it for each connection that it cannot accept, and tries again after a second.
    """

    def __init__(self) -> None:
        self._said_at: float | None = None

    def __call__(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        if not isinstance(error, OSError) or error.errno not in (errno.EMFILE, errno.ENFILE):
            loop.default_exception_handler(context)
        elif self._said_at is None or loop.time() - self._said_at >= _SAY_AGAIN_S:
            self._said_at = loop.time()
            logger.error("connections cannot be accepted", extra={"error": error.strerror})


class Server(uvicorn.Server):
    """A server whose process ends, whatever holds it up."""

    def __init__(self, app: Any, settings: GatewaySettings) -> None:
        """Raises `StartupError` if the certificate cannot be used."""
        self._context = http_context(settings)
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
        )
        super().__init__(self._http_config)
        self._drain: Callable[[], None] = app.state.drain
        self._hard_end_s = int(settings.drain_seconds) + EXIT_GRACE_SECONDS

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to accept connections."""
        asyncio.get_running_loop().set_exception_handler(_TooManyFiles())
        if self._context is None:
            await super().startup(sockets)
        else:
            await super().startup([])  # its own servers would not count connections in their handshake
            for listener in sockets or ():
                await self._accept_with_tls(listener, self._context)
        for listener in sockets or ():
            listener.listen(_BACKLOG)  # asyncio accepts as many at once as it lets the kernel keep

    async def _accept_with_tls(self, listener: socket.socket, context: ssl.SSLContext) -> None:
        loop = asyncio.get_running_loop()
        config, state = self._http_config, self.server_state

        def handshake() -> asyncio.Protocol:
            return Handshake(
                config.connections,
                context,
                lambda: HttpConnection(config, state, self.lifespan.state, loop),
            )

        self.servers.append(await loop.create_server(handshake, sock=listener, backlog=_ACCEPTED_AT_ONCE))

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
