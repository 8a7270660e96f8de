"""Options of a gRPC channel that a client of our services opens: the gateway, or a command line."""

from __future__ import annotations

from atelier_runtime import defaults

CONNECT_TIMEOUT_MS = 5_000
PING_TIMEOUT_MS = 10_000

NO_LIMIT = -1


def channel_options(*, max_receive_bytes: int, max_send_bytes: int) -> list[tuple[str, int]]:
    """Return the options for messages up to those sizes; `NO_LIMIT` leaves the limit to the service."""
    return [
        ("grpc.max_receive_message_length", max_receive_bytes),
        ("grpc.max_send_message_length", max_send_bytes),
        # An address that drops packets, or a process that hangs, is given up long before the deadline.
        ("grpc.min_reconnect_backoff_ms", CONNECT_TIMEOUT_MS),
        ("grpc.keepalive_time_ms", int(defaults.PING_INTERVAL_S * 1000)),
        ("grpc.keepalive_timeout_ms", PING_TIMEOUT_MS),
        ("grpc.enable_http_proxy", 0),
    ]
