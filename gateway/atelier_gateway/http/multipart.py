"""Parses a multipart/form-data body (RFC 7578) in memory; its size has been checked before."""

from __future__ import annotations

from dataclasses import dataclass, field

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from atelier_runtime.errors import MalformedBody

_MAX_PARTS = 1000
_MAX_PADDING = 1000


@dataclass
class Part:
    """One field of a form. `is_file`: it has a filename, or a content type other than text/plain."""

    name: str = ""
    is_file: bool = False
    data: bytearray = field(default_factory=bytearray)


def parse_form(raw: bytes, content_type: str) -> list[Part]:
    """Return the parts in order.

    Raises:
        MalformedBody: no boundary, invalid or truncated, a part without a name, or more than 1,000 parts.
    """
    boundary = parse_options_header(content_type)[1].get(b"boundary")
    if not boundary:
        raise MalformedBody("The form cannot be read: its Content-Type does not name a boundary.")
    collector = _Collector()
    raw = _without_optional_parts(raw, boundary)
    try:
        parser = MultipartParser(
            boundary,
            {
                "on_part_begin": collector.begin,
                "on_header_field": collector.header_field,
                "on_header_value": collector.header_value,
                "on_header_end": collector.header_end,
                "on_headers_finished": collector.headers_finished,
                "on_part_data": collector.data,
                "on_end": collector.end,
            },
        )
        parser.write(raw)
        parser.finalize()
    except FormParserError:
        raise MalformedBody("The form cannot be read: it is not multipart/form-data.") from None
    if not collector.ended:
        raise MalformedBody("The form is truncated: its last boundary is missing.")
    return collector.parts


def _without_optional_parts(raw: bytes, boundary: bytes) -> bytes:
    """Remove what RFC 2046, 5.1.1 allows and hardly anyone sends: a preamble, and spaces after boundaries."""
    delimiter = b"--" + boundary
    if not raw.startswith(delimiter):
        preamble_end = raw.find(b"\r\n" + delimiter)
        raw = raw[preamble_end + 2 :] if preamble_end >= 0 else raw
    padding: list[tuple[int, int]] = []
    found = 0 if raw.startswith(delimiter) else -1
    while found >= 0 and len(padding) <= _MAX_PARTS:
        end = found + len(delimiter)
        end += 2 if raw.startswith(b"--", end) else 0
        after = raw[end : end + _MAX_PADDING]
        padding.append((end, end + len(after) - len(after.lstrip(b" \t"))))
        found = raw.find(b"\r\n" + delimiter, end)
        found += 2 if found >= 0 else 0
    for start, end in reversed(padding):
        if start < end and (end == len(raw) or raw.startswith(b"\r\n", end)):
            raw = raw[:start] + raw[end:]
    return raw


class _Collector:
    """The parser's callbacks."""

    def __init__(self) -> None:
        self.parts: list[Part] = []
        self.ended = False
        self._name, self._value = bytearray(), bytearray()
        self._headers: dict[bytes, bytes] = {}

    def begin(self) -> None:
        if len(self.parts) == _MAX_PARTS:
            raise MalformedBody(f"The form has more than {_MAX_PARTS} parts.")
        self.parts.append(Part())
        self._headers = {}

    def header_field(self, data: bytes, start: int, end: int) -> None:
        self._name += data[start:end]

    def header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def header_end(self) -> None:
        self._headers[bytes(self._name).lower()] = bytes(self._value)
        self._name, self._value = bytearray(), bytearray()

    def headers_finished(self) -> None:
        options = parse_options_header(self._headers.get(b"content-disposition", b""))[1]
        if b"name" not in options:
            raise MalformedBody("The form cannot be read: a part does not have a name.")
        part = self.parts[-1]
        part.name = options[b"name"].decode("utf-8", "replace")
        media_type = parse_options_header(self._headers.get(b"content-type", b"text/plain"))[0]
        part.is_file = b"filename" in options or media_type.lower() != b"text/plain"

    def data(self, data: bytes, start: int, end: int) -> None:
        self.parts[-1].data += memoryview(data)[start:end]

    def end(self) -> None:
        self.ended = True
