"""Reads the JSON object in a request's body, and nothing larger or other than that."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

from starlette.requests import ClientDisconnect, Request

from atelier_runtime.errors import (
    BodyTooLarge,
    Cancelled,
    FieldViolation,
    InvalidRequest,
    MalformedBody,
    UnsupportedMediaType,
)

_READ_AS_JSON = ("application/json", "text/plain", "")  # browsers' fetch() with a string sends text/plain
_UTF8 = ("utf-8", "utf8", "us-ascii", "ascii")


async def read_json_object(request: Request, *, max_bytes: int) -> dict[str, Any]:
    """Return the body's JSON object.

    Raises:
        UnsupportedMediaType: another content type, charset or content encoding.
        BodyTooLarge: more than `max_bytes`, by its header or while it arrives.
        MalformedBody: broken UTF-8 or JSON, NaN or Infinity, or no object.
        InvalidRequest: a field is given twice.
        Cancelled: the client hung up.
    """
    _check_type(request)
    raw = await _read(request, max_bytes)
    try:
        text = raw.decode("utf-8-sig")  # some clients begin with a byte order mark
    except UnicodeDecodeError as error:
        raise MalformedBody(f"The body is not UTF-8 at byte {error.start}.") from None
    try:
        value = json.loads(text, object_pairs_hook=_object, parse_constant=_refuse_constant)
    except json.JSONDecodeError as error:
        raise MalformedBody(
            f"The body is not JSON at line {error.lineno}, column {error.colno}: {error.msg}."
        ) from None
    except RecursionError:
        raise MalformedBody("The body is not read: its lists or objects are nested too deeply.") from None
    except ValueError:  # an integer of thousands of digits
        raise MalformedBody("The body is not read: a number has too many digits.") from None
    if not isinstance(value, dict):
        raise MalformedBody("The body is JSON, but no object; it must begin with {.")
    return value


def _check_type(request: Request) -> None:
    media_type, _, parameters = request.headers.get("content-type", "").partition(";")
    if media_type.strip().lower() not in _READ_AS_JSON:
        raise UnsupportedMediaType()
    for parameter in parameters.split(";"):
        name, _, value = parameter.strip().partition("=")
        if name.lower() == "charset" and value.strip('"').lower() not in _UTF8:
            raise UnsupportedMediaType("The body must be UTF-8; no other charset is read.")
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise UnsupportedMediaType("The body must be sent uncompressed; no Content-Encoding is read.")


async def _read(request: Request, max_bytes: int) -> bytes:
    too_large = BodyTooLarge(f"The body is larger than the limit of {max_bytes} bytes.")
    announced = request.headers.get("content-length", "")
    if announced.isdecimal() and int(announced[:20]) > max_bytes:
        raise too_large
    raw = bytearray()
    try:
        async for chunk in request.stream():
            raw += chunk
            if len(raw) > max_bytes:
                raise too_large
    except ClientDisconnect:
        raise Cancelled() from None
    return bytes(raw)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        twice = [name for name, count in Counter(name for name, _ in pairs).items() if count > 1]
        shown = [name[:60].encode("ascii", "replace").decode() for name in twice[:20]]
        raise InvalidRequest([FieldViolation(name, "is given twice") for name in shown])
    return result


def _refuse_constant(name: str) -> None:
    raise MalformedBody(f"The body is not JSON: {name} is no JSON number.")
