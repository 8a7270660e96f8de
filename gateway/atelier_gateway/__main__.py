"""The command `atelier-gateway`: `serve`, or `openapi` to print the OpenAPI document."""

from __future__ import annotations

import argparse
import json
import logging
import os
import signal
import socket
import sys
from types import FrameType

import uvicorn

from atelier_gateway.app import create_app
from atelier_gateway.settings import GatewaySettings
from atelier_runtime.log import configure_logging
from atelier_runtime.settings import help_text, load
from atelier_runtime.shutdown import EXIT_GRACE_SECONDS, exit_after

logger = logging.getLogger(__name__)

_KEEP_ALIVE_S = 75  # longer than the 60 s of common proxies, so that they close idle connections, not we


def main() -> int:
    """Run the command, and return the exit code."""
    parser = argparse.ArgumentParser(prog="atelier-gateway", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser(
        "serve",
        help="serve HTTP until SIGTERM",
        description="Serve HTTP until SIGTERM.",
        epilog=help_text(GatewaySettings),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands.add_parser("openapi", help="print the OpenAPI document")
    command = parser.parse_args().command
    settings = load(GatewaySettings)
    if command == "openapi":
        print(json.dumps(create_app(settings).openapi(), indent=2))
        return 0
    return serve(settings)


def serve(settings: GatewaySettings) -> int:
    """Serve until SIGTERM or SIGINT; accepted requests have `drain_seconds` to finish."""
    configure_logging(settings.log_level)
    logging.getLogger("uvicorn.error").setLevel(logging.WARNING)
    try:
        listener = listen(settings.host, settings.port)
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else "address not available"
        print(
            f"ATELIER_GATEWAY_HOST={settings.host} ATELIER_GATEWAY_PORT={settings.port}: {reason}",
            file=sys.stderr,
        )
        return 1
    config = uvicorn.Config(
        create_app(settings),
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_keep_alive=_KEEP_ALIVE_S,
        timeout_graceful_shutdown=int(settings.drain_seconds),
    )
    server = _Server(config, hard_end_s=int(settings.drain_seconds) + EXIT_GRACE_SECONDS)
    for number in (signal.SIGTERM, signal.SIGINT):
        # uvicorn drains at these, then raises them again for the handlers that were set before its own
        signal.signal(number, lambda *_: None)
    logger.info("listening", extra={"port": listener.getsockname()[1], "pid": os.getpid()})
    server.run(sockets=[listener])
    logger.info("stopped")
    return 0 if server.started else 1


class _Server(uvicorn.Server):
    """A server whose process ends, whatever holds it up."""

    def __init__(self, config: uvicorn.Config, *, hard_end_s: float) -> None:
        super().__init__(config)
        self._hard_end_s = hard_end_s

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin to drain."""
        exit_after(self._hard_end_s)
        super().handle_exit(sig, frame)


def listen(host: str, port: int) -> socket.socket:
    """Return a listening socket; port 0 takes a free one. Raises `OSError` if it cannot be bound."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.create_server((host, port), family=family, backlog=2048)
    # Accepted connections inherit it. asyncio does not set it for sockets that it did not create, and without
    # it a small response waits 40 ms for the client's delayed acknowledgment of its header.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener


if __name__ == "__main__":
    sys.exit(main())
