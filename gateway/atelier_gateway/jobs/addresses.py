"""Which addresses webhooks may be posted to: public ones, so that nobody reaches what only we can reach.

A name is resolved once, all its addresses are checked, and one of these is connected to: a name that resolves
to another address a moment later gains nothing.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Iterable
from typing import Any

import httpcore

_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")  # RFC 6052: an IPv4 address in the last 32 bits
_RELAYS = ipaddress.IPv4Network("192.88.99.0/24")  # RFC 7526: anycast of 6to4, deprecated
_IPV4_BITS = 2**32 - 1


class BlockedAddress(Exception):
    """A webhook's address is not public."""


def is_public(address: str) -> bool:
    """Return whether an IP address is of the public internet, and so is one that it carries within it."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        inner = ip.ipv4_mapped or ip.sixtofour
        if ip in _NAT64:
            inner = ipaddress.IPv4Address(int(ip) & _IPV4_BITS)
        if inner is not None:
            ip = inner
    if isinstance(ip, ipaddress.IPv6Address) and ip.is_site_local:  # deprecated, but routed by some
        return False
    return ip.is_global and not ip.is_multicast and not ip.is_reserved and ip not in _RELAYS


def is_blocked_literal(host: str) -> bool:
    """Return whether a URL's host is an IP address, rather than a name, and not a public one."""
    try:
        return not is_public(host.strip("[]"))
    except ValueError:
        return False


class PublicBackend(httpcore.AsyncNetworkBackend):
    """Connects to public addresses only."""

    def __init__(self) -> None:
        self._inner = httpcore.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """Resolve a host, check all its addresses, and connect to the first that answers.

        Raises `BlockedAddress`, or `httpcore.ConnectError`.
        """
        loop = asyncio.get_running_loop()
        try:
            found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except OSError as error:
            raise httpcore.ConnectError(f"{host}: {error.strerror}") from error
        addresses = list(dict.fromkeys(str(each[4][0]) for each in found))
        if blocked := [address for address in addresses if not is_public(address)]:
            raise BlockedAddress(f"{host} is {', '.join(blocked)}, which is not a public address")
        for address in addresses[:-1]:
            try:
                return await self._inner.connect_tcp(address, port, timeout, local_address, socket_options)
            except (httpcore.ConnectError, httpcore.ConnectTimeout):
                continue
        return await self._inner.connect_tcp(addresses[-1], port, timeout, local_address, socket_options)

    async def sleep(self, seconds: float) -> None:
        """Sleep."""
        await self._inner.sleep(seconds)
