"""Reads a request's body, a JSON object or a form, within the limits of its size, of all bodies and of time.

A body of more than a few megabytes is received into a temporary file and parsed where it lies. Only the image
that is sent on is copied into memory.
"""

from __future__ import annotations

import asyncio
import logging
import mmap
import tempfile
from collections.abc import Callable
from contextlib import aclosing
from functools import partial
from typing import Any

from starlette.requests import ClientDisconnect, Request

from atelier_gateway.http.json_body import parse_json, parse_json_object, to_object
from atelier_gateway.http.long_text import Buffer
from atelier_gateway.http.multipart import parse_form
from atelier_gateway.http.transfer import MIN_BYTES_PER_SECOND, Transfer, transfer_of
from atelier_gateway.http.validation import Validator
from atelier_runtime.errors import (
    BodyTooLarge,
    Cancelled,
    InternalError,
    InvalidRequest,
    MalformedBody,
    RequestTimeout,
    UnsupportedMediaType,
)

logger = logging.getLogger(__name__)

_READ_AS_JSON = ("application/json", "text/plain", "")  # browsers' fetch() sends a string as text/plain
_FORM = "multipart/form-data"
_UTF8 = ("utf-8", "utf8", "us-ascii", "ascii")
FormValues = list[tuple[str, Any]]
"""Names and values of a form, in its order."""

_MEMORY_BYTES = 4 * 2**20


async def read_json_or_form(
    request: Request,
    validator: Validator[Any],
    *,
    max_json_bytes: int,
    max_form_bytes: int,
    max_fields_bytes: int,
    arranged: Callable[[FormValues], FormValues] = list,
) -> dict[str, Any]:
    """Return the body's JSON object, or the fields of a form (multipart/form-data) as JSON would have them.

    `arranged`: puts together what a form has in parts; without it, a name that comes twice is an error.

    Images stay where they are: files of a form as `memoryview`, long strings in JSON as `LongText`. All else
    has at most `max_fields_bytes`.

    Raises:
        UnsupportedMediaType: another content type, charset or content encoding.
        BodyTooLarge: more than one of the limits, announced or received.
        QueueFull: too much is in flight already.
        RequestTimeout: it arrived too slowly.
        MalformedBody: invalid UTF-8, JSON or form, NaN or Infinity, or not an object.
        InvalidRequest: a field is given twice.
        Cancelled: the client disconnected.
    """
    media_type = _media_type(request)
    if media_type not in (*_READ_AS_JSON, _FORM):
        raise UnsupportedMediaType(f"The body must be application/json, text/plain or {_FORM}.")
    _check_encoding(request)
    # Bodies with an image have many megabytes: they are not parsed in the event loop.
    if media_type == _FORM:
        form = await _receive(request, max_form_bytes)
        content_type = request.headers["content-type"]
        return await asyncio.to_thread(
            _form_object, form, content_type, validator, max_fields_bytes, arranged
        )
    body = await _receive(request, max_json_bytes)
    return await asyncio.to_thread(parse_json_object, body, max_bytes=max_fields_bytes)


async def read_json(request: Request, *, max_bytes: int, max_fields_bytes: int) -> dict[str, Any]:
    """Return the body's JSON object, its long strings as `LongText`; all else has at most `max_fields_bytes`.

    Raises what `read_json_or_form` raises.
    """
    if _media_type(request) not in _READ_AS_JSON:
        raise UnsupportedMediaType("The body must be application/json or text/plain.")
    _check_encoding(request)
    body = await _receive(request, max_bytes)
    return await asyncio.to_thread(parse_json_object, body, max_bytes=max_fields_bytes)


def _media_type(request: Request) -> str:
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


def _check_encoding(request: Request) -> None:
    for parameter in request.headers.get("content-type", "").split(";")[1:]:
        name, _, value = parameter.strip().partition("=")
        if name.lower() == "charset" and value.strip('"').lower() not in _UTF8:
            raise UnsupportedMediaType("The body must be UTF-8; other charsets are not supported.")
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise UnsupportedMediaType("The body must not be compressed; Content-Encoding is not supported.")


async def _receive(request: Request, max_bytes: int) -> Buffer:
    announced = request.headers.get("content-length", "")
    size = int(announced[:20]) if announced.isdecimal() else 0
    if size > max_bytes:
        raise _too_large(max_bytes)
    transfer = transfer_of(request.scope)
    transfer.require(size)
    with tempfile.SpooledTemporaryFile(max_size=_MEMORY_BYTES) as file:
        try:
            received = await _fill(file, request, transfer, max_bytes)
            if received <= _MEMORY_BYTES:
                file.seek(0)
                return file.read()
            return await asyncio.to_thread(_map, file)
        except ClientDisconnect:
            raise Cancelled() from None
        except TimeoutError:
            raise RequestTimeout(f"The body arrived too slowly: {transfer.too_slow}.") from None
        except OSError as error:
            logger.error("a request's body cannot be stored", extra={"error": error.strerror})
            raise InternalError("A body cannot be stored in a temporary file.") from None


async def _fill(
    file: tempfile.SpooledTemporaryFile[bytes], request: Request, transfer: Transfer, max_bytes: int
) -> int:
    """Write the body to a file and return its size. Raises `TimeoutError` if it arrives too slowly."""
    loop = asyncio.get_running_loop()
    enough = MIN_BYTES_PER_SECOND * transfer.stall_seconds
    next_goal = enough
    received = 0
    async with asyncio.timeout(transfer.stall_seconds) as limit, aclosing(request.stream()) as chunks:
        with transfer.moving(partial(_end_now, limit)):
            async for chunk in chunks:
                received += len(chunk)
                if received > max_bytes:
                    raise _too_large(max_bytes)
                transfer.require(len(chunk))
                transfer.hold(len(chunk))
                transfer.moved(len(chunk))
                if received <= _MEMORY_BYTES:
                    file.write(chunk)
                else:
                    await asyncio.to_thread(file.write, chunk)
                if received >= next_goal and not transfer.was_given_up:
                    next_goal = received + enough
                    limit.reschedule(loop.time() + transfer.stall_seconds)
    if transfer.was_given_up:  # its last bytes came in the same moment
        raise TimeoutError
    return received


def _too_large(max_bytes: int) -> BodyTooLarge:
    return BodyTooLarge(f"The body is larger than the limit of {max_bytes} bytes.")


def _end_now(limit: asyncio.Timeout) -> None:
    if not limit.expired():
        limit.reschedule(asyncio.get_running_loop().time())


def _map(file: tempfile.SpooledTemporaryFile[bytes]) -> mmap.mmap:
    """Map a file into memory. The mapping outlives the file, and vanishes with the last reference to it."""
    file.flush()
    return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


def _form_object(
    raw: Buffer,
    content_type: str,
    validator: Validator[Any],
    max_fields_bytes: int,
    arranged: Callable[[FormValues], FormValues],
) -> dict[str, Any]:
    values: FormValues = []
    texts_bytes = 0
    for part in parse_form(raw, content_type):
        schema = validator.property(part.name) or {}
        if part.is_unselected and schema:
            values.append((part.name, None))
            continue
        if part.is_file and schema.get("format") == "byte":
            values.append((part.name, part.data))
            continue
        if part.is_file and not schema:  # under a name that is not a field's, which the validator reports
            values.append((part.name, "a file"))
            continue
        if schema.get("format") != "byte":
            texts_bytes += len(part.data)
            if texts_bytes > max_fields_bytes:
                raise BodyTooLarge(
                    f"The form without its images is larger than the limit of {max_fields_bytes} bytes."
                )
        try:
            text = str(part.data, "utf-8")
        except UnicodeDecodeError as error:
            if schema.get("format") == "byte":  # a file that came without a filename
                values.append((part.name, part.data))
                continue
            raise InvalidRequest.of(part.name[:60], f"is not UTF-8 at byte {error.start}") from None
        values.append((part.name, _from_text(text, schema)))
    return to_object(arranged(values))


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
        return parse_json(text)
    except (ValueError, RecursionError, MalformedBody):
        return text
