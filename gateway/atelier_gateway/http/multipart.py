"""Splits a multipart/form-data body (RFC 7578, RFC 2046 5.1.1) into its parts, without copying them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from python_multipart.multipart import parse_options_header

from atelier_gateway.http.long_text import Buffer
from atelier_runtime.errors import MalformedBody

_MAX_PARTS = 1000
_MAX_HEADER_BYTES = 8192
_MAX_PADDING = 1000
_FOLD = re.compile(rb"\r\n[ \t]+")  # a header that goes on in the next line (RFC 5322, 2.2.3)
_QUOTED = re.compile(rb'"(?:\\.|[^"\\])*+(?:"|\Z)', re.DOTALL)  # possessive: in linear time
_EXTENDED_FILENAME = re.compile(rb";\s*filename\*", re.IGNORECASE)  # RFC 8187, which the library leaves out
_UNENCODED = (b"binary", b"8bit", b"7bit")
_TRUNCATED = "The form is truncated: its last boundary is missing."
_MALFORMED = "The form cannot be read: it is not multipart/form-data."


@dataclass(frozen=True)
class Part:
    """One field of a form. `is_file`: it has a filename, or a content type other than text/plain."""

    name: str
    is_file: bool
    data: memoryview
    is_unselected: bool = False
    """No file was chosen: the filename is empty, and so is the part."""


def parse_form(raw: Buffer, content_type: str) -> list[Part]:
    """Return the parts in order.

    Raises:
        MalformedBody: no boundary, invalid or truncated, a part without a name or in a transfer encoding, or
            more than 1,000 parts.
    """
    boundary = parse_options_header(content_type)[1].get(b"boundary")
    if not boundary:
        raise MalformedBody("The form cannot be read: its Content-Type does not name a boundary.")
    view = memoryview(raw)
    parts: list[Part] = []
    for start, end in _bodies(raw, boundary):
        if len(parts) == _MAX_PARTS:
            raise MalformedBody(f"The form has more than {_MAX_PARTS} parts.")
        headers, data_start = _headers(raw, start, end)
        parts.append(_part(headers, view[data_start:end]))
    return parts


def _bodies(raw: Buffer, boundary: bytes) -> Iterator[tuple[int, int]]:
    """Yield where each part begins, with its headers, and ends."""
    delimiter = b"\r\n--" + boundary
    if raw[: len(delimiter) - 2] == delimiter[2:]:
        at = len(delimiter) - 2
    else:  # what comes before the first boundary is to be ignored
        found = raw.find(delimiter)
        if found < 0:
            raise MalformedBody(_MALFORMED)
        at = found + len(delimiter)
    while raw[at : at + 2] != b"--":
        padding = raw[at : at + _MAX_PADDING]
        at += len(padding) - len(padding.lstrip(b" \t"))
        if raw[at : at + 2] != b"\r\n":
            raise MalformedBody(_TRUNCATED if at + 2 > len(raw) else _MALFORMED)
        end = raw.find(delimiter, at)
        if end < 0:
            raise MalformedBody(_TRUNCATED)
        yield at, end
        at = end + len(delimiter)


def _headers(raw: Buffer, start: int, end: int) -> tuple[dict[bytes, bytes], int]:
    """Return a part's headers, their names in lower case, and where its data begins."""
    stop = raw.find(b"\r\n\r\n", start, min(end, start + _MAX_HEADER_BYTES) + 2)
    if stop < 0:
        raise MalformedBody(_MALFORMED)
    headers = {}
    unfolded = _FOLD.sub(b" ", raw[start:stop])
    for line in unfolded.split(b"\r\n")[1:]:
        name, colon, value = line.partition(b":")
        if not colon or not name.strip():
            raise MalformedBody(_MALFORMED)
        headers[name.strip().lower()] = value.strip()
    if headers.get(b"content-transfer-encoding", b"binary").lower() not in _UNENCODED:
        raise MalformedBody("The form cannot be read: its parts must be binary, not in a transfer encoding.")
    return headers, stop + 4


def _part(headers: dict[bytes, bytes], data: memoryview) -> Part:
    disposition = headers.get(b"content-disposition", b"")
    options = parse_options_header(disposition)[1]
    if b"name" not in options:
        raise MalformedBody("The form cannot be read: a part does not have a name.")
    media_type = parse_options_header(headers.get(b"content-type", b"text/plain"))[0]
    has_filename = b"filename" in options or _EXTENDED_FILENAME.search(_QUOTED.sub(b"", disposition))
    is_file = bool(has_filename) or media_type.lower() != b"text/plain"
    is_unselected = options.get(b"filename") == b"" and not data
    return Part(options[b"name"].decode("utf-8", "replace"), is_file, data, is_unselected)
