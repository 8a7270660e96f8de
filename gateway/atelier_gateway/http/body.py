"""Reads a request's body, a JSON object or a form, within a size limit."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from typing import Any

from starlette.requests import ClientDisconnect, Request

from atelier_gateway.http.multipart import parse_form
from atelier_gateway.http.validation import Validator
from atelier_runtime.errors import (
    BodyTooLarge,
    Cancelled,
    FieldViolation,
    InvalidRequest,
    MalformedBody,
    UnsupportedMediaType,
)

_READ_AS_JSON = ("application/json", "text/plain", "")  # browsers' fetch() sends a string as text/plain
_FORM = "multipart/form-data"
_UTF8 = ("utf-8", "utf8", "us-ascii", "ascii")


async def read_json_object(request: Request, *, max_bytes: int) -> dict[str, Any]:
    """Return the body's JSON object.

    Raises:
        UnsupportedMediaType: another content type, charset or content encoding.
        BodyTooLarge: more than `max_bytes`, announced or received.
        MalformedBody: invalid UTF-8 or JSON, NaN or Infinity, or not an object.
        InvalidRequest: a field is given twice.
        Cancelled: the client disconnected.
    """
    if _media_type(request) not in _READ_AS_JSON:
        raise UnsupportedMediaType()
    _check_encoding(request)
    return _json_object(await _read(request, max_bytes))


async def read_json_or_form(
    request: Request, validator: Validator[Any], *, max_json_bytes: int, max_form_bytes: int
) -> dict[str, Any]:
    """Return the body's JSON object, or the fields of a form (multipart/form-data) as JSON would have them.

    Files of a form stay bytes. Raises like `read_json_object`.
    """
    media_type = _media_type(request)
    if media_type not in (*_READ_AS_JSON, _FORM):
        raise UnsupportedMediaType(f"The body must be application/json, text/plain or {_FORM}.")
    _check_encoding(request)
    # Bodies with an image have many megabytes: they are not parsed in the event loop.
    if media_type == _FORM:
        form = await _read(request, max_form_bytes)
        return await asyncio.to_thread(_form_object, form, request.headers["content-type"], validator)
    return await asyncio.to_thread(_json_object, await _read(request, max_json_bytes))


def _media_type(request: Request) -> str:
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


def _check_encoding(request: Request) -> None:
    for parameter in request.headers.get("content-type", "").split(";")[1:]:
        name, _, value = parameter.strip().partition("=")
        if name.lower() == "charset" and value.strip('"').lower() not in _UTF8:
            raise UnsupportedMediaType("The body must be UTF-8; other charsets are not supported.")
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise UnsupportedMediaType("The body must not be compressed; Content-Encoding is not supported.")


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


def _json_object(raw: bytes) -> dict[str, Any]:
    try:
        text = raw.decode("utf-8-sig")  # some clients send a byte order mark
    except UnicodeDecodeError as error:
        raise MalformedBody(f"The body is not UTF-8 at byte {error.start}.") from None
    try:
        value = _json(text)
    except json.JSONDecodeError as error:
        raise MalformedBody(
            f"The body is not JSON at line {error.lineno}, column {error.colno}: {error.msg}."
        ) from None
    except RecursionError:
        raise MalformedBody("The body cannot be read: it is nested too deeply.") from None
    except ValueError:  # an integer of thousands of digits
        raise MalformedBody("The body cannot be read: a number has too many digits.") from None
    if not isinstance(value, dict):
        raise MalformedBody("The body is JSON but not an object; it must begin with {.")
    return value


def _form_object(raw: bytes, content_type: str, validator: Validator[Any]) -> dict[str, Any]:
    values: list[tuple[str, Any]] = []
    for part in parse_form(raw, content_type):
        schema = validator.property(part.name) or {}
        if part.is_file and schema.get("format") == "byte":
            values.append((part.name, bytes(part.data)))
            continue
        if part.is_file and not schema:  # under a name that is not a field's, which the validator reports
            values.append((part.name, "a file"))
            continue
        try:
            text = part.data.decode()
        except UnicodeDecodeError as error:
            raise InvalidRequest.of(part.name[:60], f"is not UTF-8 at byte {error.start}") from None
        values.append((part.name, _from_text(text, schema)))
    return _object(values)


def _from_text(text: str, schema: dict[str, Any]) -> Any:
    """Return the JSON value that a form's text stands for; one that cannot be read is left to the validator.

    A string is taken as it is, everything else is JSON. An empty field, which browsers send, is null.
    """
    if not text:
        return None
    if schema.get("type") == "string":
        return text
    if schema.get("type") == "boolean":
        return {"true": True, "false": False}.get(text.lower(), text)  # Python's str() writes True
    try:
        return _json(text)
    except (ValueError, RecursionError, MalformedBody):
        return text


def _json(text: str) -> Any:
    return json.loads(text, object_pairs_hook=_object, parse_constant=_refuse_constant)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        twice = [name for name, count in Counter(name for name, _ in pairs).items() if count > 1]
        shown = [name[:60].encode("ascii", "replace").decode() for name in twice[:20]]
        raise InvalidRequest([FieldViolation(name, "is given twice") for name in shown])
    return result


def _refuse_constant(name: str) -> None:
    raise MalformedBody(f"The body is not JSON: {name} is not a JSON number.")
