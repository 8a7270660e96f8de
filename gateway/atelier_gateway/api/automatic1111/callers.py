"""Who a request comes from: options, progress and interruptions are a caller's own."""

from __future__ import annotations

import base64
import hashlib

from starlette.requests import Request

from atelier_gateway.access.caller import caller_of as known_caller

_EMPTY_BASIC = ("", ":")
_SCHEMES = ("basic", "bearer")


def caller_of(request: Request) -> str:
    """Return a name for the caller: of its key if it has one, otherwise of its address.

    Where there are no keys, what it sends as one still tells it apart from others of its address: what
    Authorization (Basic, Bearer, or the key alone) or X-API-Key contain; of it only a hash is kept. Clients
    behind one proxy that send no key are one caller.
    """
    caller = known_caller(request)
    if caller.key is not None:
        return caller.name
    key = request.headers.get("x-api-key", "").strip() or _credentials(
        request.headers.get("authorization", "")
    )
    if key:
        return f"key {hashlib.sha256(key.encode()).hexdigest()}"
    return caller.name


def _credentials(authorization: str) -> str:
    """Return what a header says beyond its scheme; without a scheme, all of it is the key.

    Some clients send a scheme alone, or Basic without a name and a password.
    """
    scheme, *rest = authorization.split(maxsplit=1)[:2] or ("",)
    credentials = rest[0].strip() if rest else ""
    if not credentials:
        return "" if scheme.lower() in _SCHEMES else scheme
    if scheme.lower() != "basic":
        return credentials
    try:
        decoded = base64.b64decode(credentials).decode("utf-8", "replace")
    except ValueError:
        decoded = credentials
    return "" if decoded in _EMPTY_BASIC else credentials
