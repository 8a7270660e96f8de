"""Parses a JSON body. Long strings, which hold images, stay where they are instead of becoming text."""

from __future__ import annotations

import json
import secrets
from collections import Counter
from typing import Any

from atelier_gateway.http.long_text import LONG_TEXT_BYTES, Buffer, LongText
from atelier_gateway.http.schemas import printable
from atelier_runtime.errors import BodyTooLarge, FieldViolation, InvalidRequest, MalformedBody

_MAX_ESCAPED_QUOTES = 1000
_MAX_BACKSLASHES = 4096
_MAX_SHOWN_NAMES = 20


def parse_json_object(raw: Buffer, *, max_bytes: int) -> dict[str, Any]:
    """Return the body's JSON object, its long strings as `LongText`.

    Raises:
        BodyTooLarge: more than `max_bytes` without the long strings.
        MalformedBody: invalid UTF-8 or JSON, NaN or Infinity, or not an object.
        InvalidRequest: a field is given twice.
    """
    short, long_texts, cuts = _cut_out_long_texts(raw, max_bytes)
    try:
        text = short.decode("utf-8-sig")  # some clients send a byte order mark
    except UnicodeDecodeError as error:
        at = error.start + sum(length for position, length in cuts if position <= error.start)
        raise MalformedBody(f"The body is not UTF-8 at byte {at}.") from None
    try:
        value = parse_json(text)
        if long_texts:
            value = _put_back(value, long_texts)
    except json.JSONDecodeError as error:
        line_start = error.pos - error.colno + 1
        column = error.colno + sum(length for at, length in cuts if line_start <= at < error.pos)
        raise MalformedBody(
            f"The body is not JSON at line {error.lineno}, column {column}: {error.msg}."
        ) from None
    except RecursionError:
        raise MalformedBody("The body cannot be read: it is nested too deeply.") from None
    except ValueError:  # an integer of thousands of digits
        raise MalformedBody("The body cannot be read: a number has too many digits.") from None
    if not isinstance(value, dict):
        raise MalformedBody("The body is JSON but not an object; it must begin with {.")
    return value


def parse_json(text: str) -> Any:
    """Return the value of a JSON text. Raises `ValueError`, or ours: a name twice, NaN, Infinity."""
    return json.loads(text, object_pairs_hook=to_object, parse_constant=_refuse_constant)


def to_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return the object of names and values. Raises `InvalidRequest` if a name is given twice."""
    result = dict(pairs)
    if len(result) != len(pairs):
        twice = [name for name, count in Counter(name for name, _ in pairs).items() if count > 1]
        shown = [name[:60].encode("ascii", "replace").decode() for name in twice[:_MAX_SHOWN_NAMES]]
        raise InvalidRequest([FieldViolation(name, "is given twice") for name in shown])
    return result


def _cut_out_long_texts(
    raw: Buffer, max_bytes: int
) -> tuple[bytes, dict[str, LongText], list[tuple[int, int]]]:
    """Return the body with a placeholder for each long string, the strings, and what was cut out where."""
    if len(raw) <= LONG_TEXT_BYTES:
        return raw[:], {}, []
    secret = secrets.token_hex(16)  # or a client could write a placeholder itself
    view = memoryview(raw)
    kept = bytearray()
    long_texts: dict[str, LongText] = {}
    cuts: list[tuple[int, int]] = []
    done = 0
    opening = raw.find(b'"')
    while opening >= 0:
        closing = _closing_quote(raw, opening + 1)
        if closing < 0:  # the parser will say so
            break
        if closing - opening > LONG_TEXT_BYTES:
            placeholder = f"{secret}{len(long_texts)}"
            long_texts[placeholder] = LongText(view[opening + 1 : closing])
            kept += view[done : opening + 1]
            cuts.append((len(kept), closing - opening - 1 - len(placeholder)))
            kept += placeholder.encode()
            done = closing
        if opening - done + len(kept) > max_bytes:
            raise _too_large(max_bytes)
        opening = raw.find(b'"', closing + 1)
    if len(raw) - done + len(kept) > max_bytes:
        raise _too_large(max_bytes)
    return bytes(kept + view[done:]), long_texts, cuts


def _too_large(max_bytes: int) -> BodyTooLarge:
    """Return the error. In a variable of the frame that raises it, it would keep that frame's body alive."""
    return BodyTooLarge(f"The body without its images is larger than the limit of {max_bytes} bytes.")


def _closing_quote(raw: Buffer, start: int) -> int:
    """Return where the string ends that begins at `start`, -1 if it does not."""
    for _ in range(_MAX_ESCAPED_QUOTES):
        quote = raw.find(b'"', start)
        if quote < 0:
            return quote
        before = raw[max(start, quote - _MAX_BACKSLASHES) : quote]
        backslashes = len(before) - len(before.rstrip(b"\\"))
        if backslashes == _MAX_BACKSLASHES:
            raise MalformedBody(f"The body has {_MAX_BACKSLASHES} backslashes in a row.")
        if backslashes % 2 == 0:
            return quote
        start = quote + 1
    raise MalformedBody(f"The body has a string with more than {_MAX_ESCAPED_QUOTES} quotation marks.")


def _put_back(value: Any, long_texts: dict[str, LongText]) -> Any:
    if isinstance(value, str):
        return long_texts.get(value, value)
    if isinstance(value, list):
        return [_put_back(item, long_texts) for item in value]
    if isinstance(value, dict):
        for name in value:
            if name in long_texts:
                start = bytes(long_texts[name].raw[:40]).decode(errors="replace")
                raise InvalidRequest.of(printable(start), "is not a field of this request")
        return {name: _put_back(item, long_texts) for name, item in value.items()}
    return value


def _refuse_constant(name: str) -> None:
    raise MalformedBody(f"The body is not JSON: {name} is not a JSON number.")
