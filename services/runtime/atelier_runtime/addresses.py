"""Addresses to listen on: IPv6 ones with and without brackets."""

from __future__ import annotations

import ipaddress


def bare_host(host: str) -> str:
    """Return a host without the brackets of an IPv6 address, as sockets take it."""
    return host.removeprefix("[").removesuffix("]")


def host_and_port(host: str, port: int) -> str:
    """Return `host:port`, an IPv6 address in brackets, as gRPC takes it."""
    host = bare_host(host)
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def is_loopback(host: str) -> bool:
    """Return whether an address to listen on is reached from this machine only."""
    host = bare_host(host)
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
