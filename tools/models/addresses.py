"""Addresses: what of them may be shown, and the one of the model hub."""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import urlsplit, urlunsplit

HUB = "https://huggingface.co"


def public(url: str) -> str:
    """Return an address as it may be printed and stored: a password or a signature in it may not.

    User, password, query and fragment are left out.
    """
    try:
        parts = urlsplit(url)
    except ValueError:
        return "(not an address)"
    return urlunsplit((parts.scheme, host_of(url), parts.path, "", ""))


def host_of(url: str) -> str:
    """Return the host of an address with its port, without user and password."""
    return urlsplit(url).netloc.rpartition("@")[2]


def hub(environment: Mapping[str, str]) -> str:
    """Return the address of the model hub: HF_ENDPOINT, or Hugging Face's own."""
    return environment.get("HF_ENDPOINT", "").strip().rstrip("/") or HUB


def is_address(url: str) -> bool:
    """Return whether this is an http(s) address with a host."""
    try:
        parts = urlsplit(url)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:  # a port that is no number, half an IPv6 address
        return False
