"""A received body and the strings in it that are too long to become text."""

from __future__ import annotations

import json
import mmap
from collections.abc import Iterator
from dataclasses import dataclass

Buffer = bytes | mmap.mmap
"""A received body: in memory if it is small, otherwise in a temporary file."""

LONG_TEXT_BYTES = 2**16

_PIECE_BYTES = 2**20
_LONGEST_ESCAPE = 6  # \u002b


@dataclass(frozen=True, eq=False)
class LongText:
    """A string of more than `LONG_TEXT_BYTES`, as it stands in the body, between its quotes."""

    raw: memoryview

    def __len__(self) -> int:
        return len(self.raw)

    def pieces(self) -> Iterator[bytes]:
        """Yield its UTF-8 text, escapes resolved, a megabyte at a time. Raises `ValueError`."""
        rest = b""
        for start in range(0, len(self.raw), _PIECE_BYTES):
            piece = rest + bytes(self.raw[start : start + _PIECE_BYTES])
            end = len(piece)
            if start + _PIECE_BYTES < len(self.raw):
                escape = piece.rfind(b"\\", end - _LONGEST_ESCAPE)  # it may go on in the next piece
                end = end if escape < 0 else escape
            rest = piece[end:]
            yield json.loads(b'"' + piece[:end] + b'"').encode() if b"\\" in piece[:end] else piece[:end]
