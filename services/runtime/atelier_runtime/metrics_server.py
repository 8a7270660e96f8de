"""Serves the metrics of a gRPC service over HTTP. The gateway serves its own on its own port."""

from __future__ import annotations

import socket
import threading
from contextlib import suppress
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

import prometheus_client

from atelier_runtime.addresses import bare_host

_MAX_CONNECTIONS = 64


class _Handler(WSGIRequestHandler):
    limit_s = 10.0
    """For a whole connection: each has a thread, which would wait for its request forever."""

    def setup(self) -> None:
        """Begin with a connection."""
        super().setup()
        self._limit = threading.Timer(self.limit_s, self._end)
        self._limit.daemon = True
        self._limit.start()

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
        self._places = threading.BoundedSemaphore(_MAX_CONNECTIONS)
        super().__init__(*args, **options)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Serve a connection, or close it if there are too many."""
        if self._places.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Serve a connection in a thread of its own."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._places.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of clients that go away or send something else."""


class _Ipv6Server(_Server):
    address_family = socket.AF_INET6


class MetricsServer:
    """An HTTP server in threads of its own; it listens from the start."""

    def __init__(self, host: str, port: int, registry: prometheus_client.CollectorRegistry) -> None:
        """`port` 0 takes a free one. Raises `OSError` if it cannot be bound."""
        host = bare_host(host)
        self._server = make_server(
            host,
            port,
            prometheus_client.make_wsgi_app(registry),
            server_class=_Ipv6Server if ":" in host else _Server,
            handler_class=_Handler,
        )
        self.port = self._server.server_port
        threading.Thread(target=self._server.serve_forever, name="metrics", daemon=True).start()

    def close(self) -> None:
        """Stop, and close the port. Blocks for up to half a second."""
        self._server.shutdown()
        self._server.server_close()
