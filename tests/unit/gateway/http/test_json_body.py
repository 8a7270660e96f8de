"""Long strings are cut out of a JSON body and put back, whatever surrounds them."""

from __future__ import annotations

import gc
import json
import mmap
import tempfile
import weakref
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest

from atelier_gateway.http.json_body import parse_json_object
from atelier_gateway.http.long_text import LONG_TEXT_BYTES, Buffer, LongText
from atelier_runtime.errors import AtelierError, BodyTooLarge, InvalidRequest, MalformedBody

LIMIT = 100_000
LONG = "x" * (LONG_TEXT_BYTES + 1)


def in_memory(body: bytes) -> Buffer:
    return body


def in_a_file(body: bytes) -> Buffer:
    with tempfile.TemporaryFile() as file:
        file.write(body)
        file.flush()
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


def text(value: Any) -> Any:
    """Return a parsed value with its long strings as text."""
    if isinstance(value, LongText):
        return b"".join(value.pieces()).decode()
    if isinstance(value, dict):
        return {name: text(item) for name, item in value.items()}
    return [text(item) for item in value] if isinstance(value, list) else value


@pytest.mark.parametrize("buffer", [in_memory, in_a_file])
@pytest.mark.parametrize(
    "value",
    [
        {"image": LONG},
        {"a": LONG, "b": 1, "c": LONG + "y", "d": "z"},
        {"list": ["short", LONG, {"deep": [LONG, None]}], 'q"\\': '"'},
        {"image": LONG + '"' * 10 + "\\" * 11, "b": "\\"},
        {"image": "\N{GRINNING FACE}" * LONG_TEXT_BYTES, "b": "\N{GRINNING FACE}"},
        {"image": "+/\n" * 3_000_000},
    ],
    ids=["one", "several", "nested", "escapes", "not ASCII", "several megabytes"],
)
@pytest.mark.parametrize("ascii_only", [True, False])
def test_the_value_is_that_of_the_whole_body(
    buffer: Callable[[bytes], Buffer], value: Any, ascii_only: bool
) -> None:
    body = json.dumps(value, ensure_ascii=ascii_only).encode()
    assert text(parse_json_object(buffer(body), max_bytes=LIMIT)) == value


def test_escapes_that_only_some_clients_write() -> None:
    body = b'{"image": "' + b"\\u002B\\/" * 400_000 + b'"}'  # .NET and PHP
    assert text(parse_json_object(body, max_bytes=LIMIT)) == {"image": "+/" * 400_000}


def test_only_a_long_string_is_cut_out() -> None:
    shorter = "x" * (LONG_TEXT_BYTES - 1)
    assert parse_json_object(json.dumps({"a": shorter}).encode(), max_bytes=LIMIT) == {"a": shorter}
    assert isinstance(parse_json_object(json.dumps({"a": LONG}).encode(), max_bytes=LIMIT)["a"], LongText)


@pytest.mark.parametrize(
    ("body", "error", "message"),
    [
        (f'{{"a": "{LONG}",\n "b": "{LONG}", }}', MalformedBody, f"line 2, column {len(LONG) + 11}:"),
        (f'{{"a": "{LONG}" "b"}}', MalformedBody, f"line 1, column {len(LONG) + 10}:"),
        (f'{{"a": "{LONG}', MalformedBody, "line 1, column 7: Unterminated string"),
        (f'["{LONG}"]', MalformedBody, "must begin with {"),
        (f'{{"a": "{LONG}", "a": 1}}', InvalidRequest, "a: is given twice"),
        (f'{{"{LONG}": 1}}', InvalidRequest, "is not a field"),
        (f'{{"a": "{LONG}", "b": "{"y" * 60_000}", "c": "{"y" * 60_000}"}}', BodyTooLarge, "100000 bytes"),
        ('{"a": [' + "1," * 60_000 + "1]}", BodyTooLarge, "100000 bytes"),
        ('{"a": "' + '\\"' * 60_000 + '"}', MalformedBody, "more than 1000 quotation marks"),
        ('{"a": "' + "\\" * 70_000 + '"}', MalformedBody, "4096 backslashes in a row"),
        (f'{{"a": "{LONG}", "b": ' + "[" * 20_000, MalformedBody, "nested too deeply"),
        (f'{{"a": "{LONG}", "b": NaN}}', MalformedBody, "NaN is not a JSON number"),
    ],
)
def test_what_is_refused(body: str, error: type[AtelierError], message: str) -> None:
    with pytest.raises(error) as raised:
        parse_json_object(body.encode(), max_bytes=LIMIT)
    assert message in raised.value.message


def test_bytes_that_are_not_utf8_are_found_behind_a_long_string() -> None:
    body = b'{"a": "' + LONG.encode() + b'", "b": "\xff"}'
    with pytest.raises(MalformedBody, match=f"byte {body.index(bytes([0xFF]))}"):
        parse_json_object(body, max_bytes=LIMIT)


REFUSED = {
    "too large": b'{"image": ' + b" " * 500_000 + b"}",
    "too large before a string": b"{" + b" " * 500_000 + b'"image": ""}',
    "not UTF-8": b'{"image": "' + b"x" * 500_000 + b'", "\xff": 1}',
    "not JSON": b'{"image": "' + b"x" * 500_000 + b'"',
    "not an object": b'["' + b"x" * 500_000 + b'"]',
    "a name that long": b'{"' + b"x" * 500_000 + b'": 1}',
    "given twice": b'{"a": 1, "a": 2, "image": "' + b"x" * 500_000 + b'"}',
    "NaN": b'{"a": NaN, "image": "' + b"x" * 500_000 + b'"}',
    "nested": b'{"image": "' + b"x" * 500_000 + b'", "a":' + b"[" * 90_000,
    "backslashes": b'{"a": "' + b"\\" * 500_000,
    "quotation marks": b'{"a": "' + b'\\"' * 500_000,
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_refused_body_is_let_go_of_at_once(name: str) -> None:
    """An error in a variable of its own frame lives until a full collection, and so does the body's file."""
    body = in_a_file(REFUSED[name])
    alive = weakref.ref(body)
    gc.disable()
    try:
        with suppress(AtelierError):
            parse_json_object(body, max_bytes=LIMIT)
            pytest.fail("was accepted")
        del body
        assert alive() is None
    finally:
        gc.enable()
