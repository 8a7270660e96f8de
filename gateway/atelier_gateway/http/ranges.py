"""Which part of a file a request wants (RFC 9110, section 14): one range of bytes, or all of it."""

from __future__ import annotations

import re
from dataclasses import dataclass

_RANGE = re.compile(r"bytes=\s*(\d{0,18})-(\d{0,18})\s*")


@dataclass(frozen=True)
class Part:
    """Bytes from `start` up to `end`, without it, of a file of `size` bytes."""

    start: int
    end: int
    size: int

    @property
    def is_all(self) -> bool:
        """Whether it is the whole file."""
        return self.end - self.start == self.size

    @property
    def content_range(self) -> str:
        """The header of a response that has only this part."""
        return f"bytes {self.start}-{self.end - 1}/{self.size}"


def requested_part(header: str | None, size: int) -> Part | None:
    """Return what a Range header asks for; None: nothing that the file has (416).

    A header that cannot be read, or wants several ranges, is ignored, as the RFC allows.
    """
    whole = Part(0, size, size)
    found = _RANGE.fullmatch(header or "")
    if found is None or not (found[1] or found[2]):
        return whole
    if not found[1]:  # the last so many bytes
        length = min(int(found[2]), size)
        return Part(size - length, size, size) if length else None
    start = int(found[1])
    end = min(int(found[2]) + 1, size) if found[2] else size
    if found[2] and int(found[2]) < start:
        return whole
    return Part(start, end, size) if start < size else None


def is_unchanged(if_none_match: str | None, etag: str) -> bool:
    """Return whether a client has the file of this ETag already."""
    given = [each.strip().removeprefix("W/") for each in (if_none_match or "").split(",")]
    return etag in given or "*" in given
