"""Serves the metrics of a gRPC service over HTTP. The gateway serves its own on its own port."""

from __future__ import annotations

import socket
import threading
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

import prometheus_client

from atelier_runtime.addresses import bare_host


class _Handler(WSGIRequestHandler):
    timeout = 10.0  # each connection has a thread, which would wait for its request forever

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True


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
