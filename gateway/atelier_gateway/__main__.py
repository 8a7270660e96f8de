"""The command `atelier-gateway`: `serve`, `openapi` to print the OpenAPI document, `keys` for API keys."""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys

from prometheus_client import CollectorRegistry

from atelier_gateway import keys_command
from atelier_gateway.app import create_app
from atelier_gateway.server import Server, ignore_signals_after_drain, listen
from atelier_gateway.settings import GatewaySettings
from atelier_runtime.log import configure_logging
from atelier_runtime.metrics_server import MetricsServer, Probes
from atelier_runtime.settings import StartupError, help_text, load
from atelier_runtime.tracing_setup import begin_tracing, end_tracing

logger = logging.getLogger(__name__)


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
    keys_command.add_to(commands)
    arguments = parser.parse_args()
    command = arguments.command
    settings = load(GatewaySettings)
    try:
        if command == "keys":
            return keys_command.run(arguments, settings.api_keys)
        if command == "openapi":
            print(json.dumps(create_app(settings).openapi(), indent=2))
            return 0
        return serve(settings)
    except StartupError as error:
        print(error, file=sys.stderr)
        return 2


def serve(settings: GatewaySettings) -> int:
    """Serve until SIGTERM or SIGINT; accepted requests have `drain_seconds` to finish."""
    configure_logging(settings.log_level)
    begin_tracing("gateway")
    logging.getLogger("uvicorn.error").setLevel(logging.ERROR)  # its warnings are of clients' making
    try:
        listener = listen(settings.host, settings.port)
    except OSError as error:
        reason = error.strerror or "address not available"
        print(
            f"ATELIER_GATEWAY_HOST={settings.host} ATELIER_GATEWAY_PORT={settings.port}: {reason}",
            file=sys.stderr,
        )
        return 1
    # What prevents the start is said below, in a line; uvicorn would show a traceback.
    logging.getLogger("uvicorn.error").addFilter(lambda record: not _is_of_startup(record))
    app = create_app(settings)
    warn_if_open(settings)
    server = Server(app, settings)
    ignore_signals_after_drain()
    try:
        metrics_server = _metrics_server(settings, app.state.metrics_registry, app.state.probes)
    except OSError as error:
        print(f"ATELIER_GATEWAY_METRICS_PORT={settings.metrics_port}: {error.strerror}", file=sys.stderr)
        return 1
    ports = {"port": listener.getsockname()[1]}
    if metrics_server is not None:
        ports["metrics_port"] = metrics_server.port
    logger.info("listening", extra={**ports, "pid": os.getpid()})
    try:
        server.run(sockets=[listener])
    finally:  # uvicorn exits where the start fails
        if metrics_server is not None:
            metrics_server.close()
        end_tracing()
        if app.state.startup_problem is not None:
            print(app.state.startup_problem, file=sys.stderr)
    logger.info("stopped")
    return 0 if server.started else 1


def warn_if_open(settings: GatewaySettings) -> None:
    """Say in the log if whoever reaches the port may use the gateway, and that may be others."""
    if not settings.warns_of_anonymous:
        return
    logger.warning(
        "whoever can reach this port may use the gateway: callers need no API key",
        extra={
            "host": settings.host,
            "port": settings.port,
            "help": "set ATELIER_GATEWAY_API_KEYS, or ATELIER_GATEWAY_ANONYMOUS=allow if that is meant",
        },
    )


def _metrics_server(
    settings: GatewaySettings, registry: CollectorRegistry, probes: Probes
) -> MetricsServer | None:
    """Serve /metrics and probes on a port of their own, if there is one.

    Raises `OSError` if it cannot be bound.
    """
    if settings.metrics_port is None:
        return None
    return MetricsServer(settings.host, settings.metrics_port, registry, probes)


def _is_of_startup(record: logging.LogRecord) -> bool:
    message = record.getMessage()
    return StartupError.__name__ in message or message.startswith("Application startup failed")


if __name__ == "__main__":
    sys.exit(main())
