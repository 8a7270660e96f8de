"""The API key that a request presents, however its client does it."""

from __future__ import annotations

import base64

from starlette.datastructures import Headers


def presented_key(headers: Headers) -> str | None:
    """Return the key that a request presents, None if there is none.

    It is what `X-API-Key` has; else `Authorization: Bearer`, as OpenAI's clients send it; else the password
    of `Authorization: Basic`, as AUTOMATIC1111's clients send it, or the name where there is no password.
    Schemes without anything behind them, as some clients send them, are no key.
    """
    if key := headers.get("x-api-key", "").strip():
        return key
    scheme, _, rest = headers.get("authorization", "").strip().partition(" ")
    credentials = rest.strip()
    if scheme.lower() == "basic":
        return _password(credentials)
    if scheme.lower() == "bearer":
        return credentials or None
    return scheme or None  # the key alone; anything else behind it belongs to a scheme that we do not know


def _password(credentials: str) -> str | None:
    try:
        decoded = base64.b64decode(credentials, validate=True).decode()
    except ValueError:  # of base64 or of UTF-8
        return credentials or None  # no key that there is: it is refused as one
    name, _, password = decoded.partition(":")
    return password or name or None
