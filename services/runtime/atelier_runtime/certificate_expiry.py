"""When certificates expire, with the standard library, which tells only of those of peers and CAs."""

from __future__ import annotations

import re
import ssl
from contextlib import suppress
from datetime import UTC, datetime

_BLOCK = re.compile(rb"-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----", re.DOTALL)
_VERSION, _UTC_TIME = 0xA0, 0x17
_FIELDS_BEFORE_VALIDITY = 3  # serial number, algorithm, issuer


def expiries(pem: bytes) -> list[datetime]:
    """Return when each certificate expires, in their order; those that cannot be read are left out."""
    found = []
    for block in _BLOCK.findall(pem):
        with suppress(ValueError, IndexError):
            found.append(_expiry(ssl.PEM_cert_to_DER_cert(block.decode("ascii"))))
    return found


def _expiry(der: bytes) -> datetime:
    """Read `notAfter` (RFC 5280, section 4.1)."""
    certificate, _ = _content(der, 0)
    at, _ = _content(der, certificate)  # of the part that is signed
    if der[at] == _VERSION:
        _, at = _content(der, at)
    for _ in range(_FIELDS_BEFORE_VALIDITY):
        _, at = _content(der, at)
    validity, _ = _content(der, at)
    _, at = _content(der, validity)  # past notBefore
    start, end = _content(der, at)
    text = der[start:end].decode("ascii")
    if der[at] == _UTC_TIME:
        text = ("19" if text >= "50" else "20") + text
    return datetime.strptime(text, "%Y%m%d%H%M%SZ").replace(tzinfo=UTC)


def _content(der: bytes, at: int) -> tuple[int, int]:
    """Return where the content of the element that begins at `at` begins and ends."""
    length, start = der[at + 1], at + 2
    if length & 0x80:
        size = length & 0x7F
        length = int.from_bytes(der[start : start + size], "big")
        start += size
    return start, start + length
