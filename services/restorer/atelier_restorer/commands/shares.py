"""A share of a folder: what one of several machines restores."""

from __future__ import annotations

import os
import re
import zlib
from dataclasses import dataclass

_PATTERN = re.compile(r"([0-9]{1,6})/([0-9]{1,6})")


@dataclass(frozen=True, slots=True)
class Share:
    """The share `index`, from 0, of `count` shares, which together are the whole folder.

    Which one an image belongs to follows from its path in the folder alone: images that are added or removed
    move no other.
    """

    index: int
    count: int

    @classmethod
    def parse(cls, text: str) -> Share | None:
        """Read I/N; None: it is no such thing."""
        match = _PATTERN.fullmatch(text)
        share = cls(int(match[1]), int(match[2])) if match else None
        return share if share is not None and share.index < share.count else None

    def __str__(self) -> str:
        return f"{self.index}-of-{self.count}"

    def has(self, path: str) -> bool:
        """Return whether an image belongs to this share, by its path in the folder."""
        return zlib.crc32(os.fsencode(path)) % self.count == self.index
