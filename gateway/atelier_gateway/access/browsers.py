"""What browsers are kept from doing for pages of others.

A page of any origin can make a browser send a request here, with a body, before anybody has asked us whether
it may. It cannot read the response, but the work is done. So requests that change something are refused if
the browser says that they come from another origin, as Go's `http.CrossOriginProtection` does it: by
Sec-Fetch-Site, which pages cannot set, else by comparing Origin with Host. Programs that are not browsers
send neither.

And a page can give its own name our address (DNS rebinding), whereupon the browser takes us for its own
origin. So where only this machine is meant to reach us, the Host must be a name of this machine.
"""

from __future__ import annotations

from collections.abc import Collection
from urllib.parse import urlsplit

from starlette.datastructures import Headers

from atelier_runtime.addresses import always_means_us, called_host, is_loopback
from atelier_runtime.errors import Forbidden

_READING = frozenset({"GET", "HEAD", "OPTIONS"})
_ANY = "*"


class BrowserRules:
    """The rules. They apply before anything else, whoever asks."""

    def __init__(self, *, hosts: Collection[str] | None, trusted_origins: Collection[str]) -> None:
        """`hosts`: names by which the gateway may be called, besides localhost and IP addresses; None: any.

        `trusted_origins`: such as `https://app.example.com`, or `*`.
        """
        self._hosts = None if hosts is None else frozenset(host.lower() for host in hosts)
        self._trusted = frozenset(trusted_origins)

    def check(self, method: str, headers: Headers) -> None:
        """Raise `Forbidden` if a request breaks them."""
        host = headers.get("host", "")
        if host and self._hosts is not None and not self._is_ours(called_host(host)):
            raise Forbidden(
                f"The gateway is not called '{host[:80]}' here: ATELIER_GATEWAY_ALLOWED_HOSTS or "
                "ATELIER_GATEWAY_PUBLIC_URL must name that host."
            )
        if method in _READING or _ANY in self._trusted:
            return
        origin = headers.get("origin", "")
        site = headers.get("sec-fetch-site", "").lower()
        by_origin = not origin or _host_in(origin) == host.lower()  # an old browser's, or of none
        is_own = site in ("same-origin", "none") if site else by_origin
        if not is_own and origin not in self._trusted:
            raise Forbidden(
                f"A page of another origin ({origin[:80] or 'unknown'}) may not send this: "
                "ATELIER_GATEWAY_CORS_ORIGINS must name its origin."
            )

    def _is_ours(self, name: str) -> bool:
        assert self._hosts is not None
        return always_means_us(name) or name in self._hosts


def hosts_of(host: str, public_url: str, allowed_hosts: Collection[str]) -> Collection[str] | None:
    """Return the names by which a gateway that listens on a host may be called; None: any.

    They matter where only this machine can reach it, and where they are set.
    """
    if not allowed_hosts and not is_loopback(host):
        return None
    public = urlsplit(public_url).hostname
    return {*allowed_hosts, *([public] if public else [])}


def origin_of(url: str) -> str:
    """Return the origin of a URL, as browsers write it."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}".lower()


def _host_in(origin: str) -> str | None:
    """Return the host and port of an origin; None of what is none."""
    try:
        return urlsplit(origin).netloc.lower() or None
    except ValueError:
        return None
