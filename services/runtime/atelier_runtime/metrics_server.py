"""Serves metrics and probes over plain HTTP, on a port that is not for clients.

The kubelet's gRPC probes do not speak TLS, and its HTTP probes present no certificate. So a process that
requires either is asked here.
"""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Awaitable, Callable, Iterable
from concurrent.futures import CancelledError
from contextlib import suppress
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

import prometheus_client

from atelier_runtime.addresses import always_means_us, bare_host, called_host, is_loopback

_MAX_CONNECTIONS = 64
_TURN_S = 4.0  # shorter than the timeout of the probes in k8s, which then show the reason


class Probes:
    """What `/livez` and `/readyz` respond.

    Both are answered in the event loop that does the work, so a loop that stands still fails them.
    """

    def __init__(self, not_ready: Callable[[], Awaitable[str]]) -> None:
        """`not_ready` returns in a few words why the process is not ready; empty: it is."""
        self._not_ready = not_ready
        self._loop: asyncio.AbstractEventLoop | None = None
        self._is_draining = False

    def attach(self) -> None:
        """Answer in the running event loop from now on; before, nothing is ready."""
        self._loop = asyncio.get_running_loop()

    def set_draining(self) -> None:
        """Report that no new work is accepted; cannot be undone."""
        self._is_draining = True

    def live(self) -> str:
        """Return why the process is not alive; empty: it is."""
        return self._ask(_nothing) if self._loop is not None else ""

    def ready(self) -> str:
        """Return why the process is not ready; empty: it is."""
        return "draining" if self._is_draining else self._ask(self._not_ready)

    def _ask(self, question: Callable[[], Awaitable[str]]) -> str:
        async def answer() -> str:
            return await question()

        if self._loop is None:
            return "starting"
        if self._loop.is_closed():
            return "stopped"
        asked = asyncio.run_coroutine_threadsafe(answer(), self._loop)
        try:
            return asked.result(_TURN_S)
        except CancelledError:
            return "stopping"
        except TimeoutError:
            asked.cancel()
            return f"no answer within {_TURN_S:g} s"


async def _nothing() -> str:
    return ""


_Start = Callable[[str, list[tuple[str, str]]], object]
_Application = Callable[[dict[str, Any], _Start], Iterable[bytes]]


def _application(
    registry: prometheus_client.CollectorRegistry, probes: Probes | None, *, of_this_machine: bool
) -> _Application:
    metrics: _Application = prometheus_client.make_wsgi_app(registry)
    questions = {} if probes is None else {"/livez": probes.live, "/readyz": probes.ready}

    def answer(environ: dict[str, Any], start: _Start) -> Iterable[bytes]:
        path, host = environ["PATH_INFO"], called_host(environ.get("HTTP_HOST", ""))
        is_called_otherwise = of_this_machine and host and not always_means_us(host)
        if is_called_otherwise:  # by a page whose name leads here
            status, reason = "403 Forbidden", "only as localhost or by an IP address"
        elif path in ("/", "/metrics"):
            return metrics(environ, start)
        elif path in questions:
            reason = questions[path]()
            status = "503 Service Unavailable" if reason else "200 OK"
        else:
            status, reason = "404 Not Found", " ".join(("only", "/metrics", *questions))
        body = f"{reason or 'ok'}\n".encode()
        headers = [("Content-Type", "text/plain; charset=utf-8"), ("Content-Length", str(len(body)))]
        start(status, headers)
        return [body]

    return answer


class _Handler(WSGIRequestHandler):
    limit_s = 10.0
    """For a whole connection: each has a thread, which would wait for its request forever."""

    server: _Server

    def setup(self) -> None:
        """Begin with a connection."""
        super().setup()
        self._limit = threading.Timer(self.limit_s, self._end)
        self._limit.daemon = True
        self._limit.start()

    def parse_request(self) -> bool:
        """Read a request's header. Until it is complete, a newer connection may take the place."""
        return super().parse_request() and self.server.begin_request(self.connection)

    def finish(self) -> None:
        """End a connection."""
        self._limit.cancel()
        super().finish()

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""

    def _end(self) -> None:
        with suppress(OSError):  # it has ended by itself
            self.connection.shutdown(socket.SHUT_RDWR)


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, *args: Any, **options: Any) -> None:
        self._lock = threading.Lock()
        self._waiting: dict[socket.socket, None] = {}  # for a request, from the oldest to the newest
        self._asking: set[socket.socket] = set()
        super().__init__(*args, **options)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Serve a connection; at the limit, in the place of the oldest that has sent no request."""
        with self._lock:
            if len(self._waiting) + len(self._asking) >= _MAX_CONNECTIONS and self._waiting:
                oldest = next(iter(self._waiting))
                del self._waiting[oldest]
                with suppress(OSError):  # it has ended by itself
                    oldest.shutdown(socket.SHUT_RDWR)
            has_place = len(self._waiting) + len(self._asking) < _MAX_CONNECTIONS
            if has_place:
                self._waiting[request] = None
        if has_place:
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def begin_request(self, connection: socket.socket) -> bool:
        """Say that a connection has sent a request; False if it has lost its place."""
        with self._lock:
            if connection not in self._waiting:
                return False
            del self._waiting[connection]
            self._asking.add(connection)
            return True

    def shutdown_request(self, request: Any) -> None:
        """Close a connection."""
        with self._lock:
            self._waiting.pop(request, None)
            self._asking.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of clients that go away or send something else."""


class _Ipv6Server(_Server):
    address_family = socket.AF_INET6


class MetricsServer:
    """An HTTP server in threads of its own; it listens from the start."""

    def __init__(
        self,
        host: str,
        port: int,
        registry: prometheus_client.CollectorRegistry,
        probes: Probes | None = None,
    ) -> None:
        """Listen. Raises `OSError` if the port cannot be bound.

        Args:
            host: The address to listen on. On one that only this machine reaches, requests must call it
                localhost or by an IP address: no web page of another name can read the metrics.
            port: 0 takes a free one.
            registry: The metrics.
            probes: What `/livez` and `/readyz` respond; None: 404, as at any other path. Metrics are at
                `/metrics` and `/`.
        """
        host = bare_host(host)
        self._server = make_server(
            host,
            port,
            _application(registry, probes, of_this_machine=is_loopback(host)),
            server_class=_Ipv6Server if ":" in host else _Server,
            handler_class=_Handler,
        )
        self.port = self._server.server_port
        threading.Thread(target=self._server.serve_forever, name="metrics", daemon=True).start()

    def close(self) -> None:
        """Stop, and close the port. Blocks for up to half a second."""
        self._server.shutdown()
        self._server.server_close()
