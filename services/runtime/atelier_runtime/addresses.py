"""Addresses to listen on, and what a request calls us: IPv6 ones with and without brackets."""

from __future__ import annotations

import ipaddress


def bare_host(host: str) -> str:
    """Return a host without the brackets of an IPv6 address, as sockets take it."""
    return host.removeprefix("[").removesuffix("]")


def host_and_port(host: str, port: int) -> str:
    """Return `host:port`, an IPv6 address in brackets, as gRPC takes it."""
    host = bare_host(host)
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def called_host(header: str) -> str:
    """Return the name or address in a Host header, in lower case and without the port."""
    if header.startswith("["):
        address = header[1:].partition("]")[0]
        return address if is_address(address) else header
    return header.partition(":")[0].rstrip(".").lower()


def is_address(name: str) -> bool:
    """Return whether a name is an IP address."""
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def always_means_us(name: str) -> bool:
    """Return whether nobody can give a name another address than the one that it stands for.

    So it is for `localhost` and IP addresses. Pages of others can have names that lead here (DNS rebinding).
    """
    return name == "localhost" or name.endswith(".localhost") or is_address(name)


def is_loopback(host: str) -> bool:
    """Return whether an address to listen on is reached from this machine only."""
    host = bare_host(host)
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
