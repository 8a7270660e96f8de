"""Options of a gRPC channel to our services, which the gateway or a command line opens; of servers too.

A connection may die without a word: a machine or a router is gone, and nothing refuses what is sent to it.
Only a ping that is not answered tells. It is found to be dead after `PING_INTERVAL_S` and
`PING_TIMEOUT_MS`, 15 seconds, whether calls wait on it or nobody does.
"""

from __future__ import annotations

from atelier_runtime import defaults

CONNECT_TIMEOUT_MS = 5_000
PING_TIMEOUT_MS = 10_000
"""Long enough for what is in the kernel's buffers, which goes before a ping, on a network of 10 Mbit/s."""

NO_LIMIT = -1


def channel_options(*, max_receive_bytes: int, max_send_bytes: int) -> list[tuple[str, int]]:
    """Return the options for messages up to those sizes; `NO_LIMIT` leaves the limit to the service."""
    return [
        ("grpc.max_receive_message_length", max_receive_bytes),
        ("grpc.max_send_message_length", max_send_bytes),
        # An address that drops packets, or a process that hangs, is given up long before the deadline.
        ("grpc.min_reconnect_backoff_ms", CONNECT_TIMEOUT_MS),
        ("grpc.keepalive_time_ms", int(defaults.PING_INTERVAL_S * 1000)),
        ("grpc.keepalive_timeout_ms", PING_TIMEOUT_MS),  # of TCP, for what is sent and not acknowledged
        ("grpc.http2.ping_timeout_ms", PING_TIMEOUT_MS),  # of a ping; gRPC's own: 60 s
        # or gRPC would send two pings while a call waits for its response, and then hardly any
        ("grpc.http2.max_pings_without_data", 0),
        # The channel of status calls is idle between them. Its next calls would all wait in vain.
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.enable_http_proxy", 0),
    ]


def server_ping_options() -> list[tuple[str, int]]:
    """Return the options by which a server allows those pings; it would disconnect who pings so often."""
    return [
        ("grpc.http2.min_ping_interval_without_data_ms", int(defaults.PING_INTERVAL_S * 500)),
        ("grpc.keepalive_permit_without_calls", 1),
    ]
