"""Addresses that this machine can listen on."""

from __future__ import annotations

import socket


def _has_ipv6() -> bool:
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6):
            return True
    except OSError:
        return False


HOSTS = {"127.0.0.1": ["127.0.0.1"]}
"""What a HOST setting may be -> the addresses that then answer."""

if _has_ipv6():
    HOSTS |= {"::1": ["[::1]"], "[::1]": ["[::1]"], "::": ["[::1]", "127.0.0.1"]}
