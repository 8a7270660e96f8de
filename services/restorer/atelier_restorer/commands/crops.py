"""The crops of `--save-crops`. Each says in a PNG text of which image it is: nothing else is ever replaced.

An image is known by its file name; crops of another image of that name are replaced.
"""

from __future__ import annotations

import os
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote_from_bytes

LONGEST_CROP_SUFFIX = "_face999_before.png"

_SIGNATURE_AND_HEADER_BYTES = 33  # of every PNG
_KEYWORD = b"Source\0"


@dataclass(frozen=True, slots=True)
class CropNames:
    """Where the crops of an image go: STEM_face0_before.png and so on, nobody knows how many.

    `source` is the image's file name.
    """

    folder: Path
    stem: str
    source: str

    def path(self, face: int, when: str) -> str:
        """Return the path of a face's crop; `when` is before or after."""
        return os.path.join(self.folder, f"{self.stem}_face{face}_{when}.png")

    def signed(self, crop: bytes) -> bytes:
        """Return a crop, a PNG file, with the text that says of which image it is."""
        head, rest = crop[:_SIGNATURE_AND_HEADER_BYTES], crop[_SIGNATURE_AND_HEADER_BYTES:]
        return head + self._text() + rest

    def is_own(self, path: str) -> bool:
        """Return whether a file is a crop of this image, or of another of that name, from an earlier run."""
        text = self._text()
        try:
            with open(path, "rb") as file:
                return file.read(_SIGNATURE_AND_HEADER_BYTES + len(text)).endswith(text)
        except OSError:
            return False

    def _text(self) -> bytes:
        """Return a tEXt chunk; its text is ASCII, whatever the file is called."""
        content = (
            b"tEXt" + _KEYWORD + f"atelier-restorer {quote_from_bytes(os.fsencode(self.source))}".encode()
        )
        return struct.pack(">I", len(content) - 4) + content + struct.pack(">I", zlib.crc32(content))
