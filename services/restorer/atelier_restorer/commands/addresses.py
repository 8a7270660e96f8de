"""The two kinds of addresses that --server takes: a restorer's HOST:PORT and a gateway's URL."""

from __future__ import annotations

from urllib.parse import urlsplit


def is_gateway(server: str | None) -> bool:
    """Return whether this is meant to be a gateway's URL."""
    return server is not None and "://" in server


def is_url(server: str) -> bool:
    """Return whether this is the URL of an HTTP server, without query or fragment."""
    try:
        parts = urlsplit(server)
        is_valid = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False
    return is_valid and server.isprintable() and not set(server) & set(" ?#")
