"""PNG: chunks, what they contain, and their checksums; `png_pixels` and `png_writer` are about pixels."""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass, field

from isal import isal_zlib

from atelier_runtime.images import attachments, text
from atelier_runtime.images.picture import ImageFault

SIGNATURE = b"\x89PNG\r\n\x1a\n"
COLOR_CHUNKS = {b"cICP": 4, b"mDCV": 24, b"cLLI": 8, b"sRGB": 1, b"gAMA": 4, b"cHRM": 32}
"""Those that describe the color space besides an ICC profile, and how many bytes they have."""
XMP_KEYWORD = b"XML:com.adobe.xmp"
LARGEST_16_BIT_SIDE_PX = 1_000_000
"""libpng's own limit; OpenCV's is a little above."""

_KEPT = frozenset({b"IHDR", b"PLTE", b"IDAT", b"tRNS", b"eXIf", b"iCCP", b"pHYs", b"IEND", *COLOR_CHUNKS})
_ABOUT_THE_OLD_FILE = frozenset(  # its encoding, background, time of writing; fcTL: that of its only frame
    {b"sBIT", b"bKGD", b"hIST", b"sPLT", b"tIME", b"acTL", b"fcTL", b"iDOT", b"vpAg"}
)
_CRITICAL = frozenset({b"IHDR", b"PLTE", b"IDAT", b"IEND"})
_HEADER_BYTES = 13
_HEADER_START = struct.pack(">I4s", _HEADER_BYTES, b"IHDR")
_ANCILLARY = 0x20  # of a type's first byte: decoders can do without
_NAMED_FAULTS = 5
_KEY_BYTES = {0: (2,), 2: (6,), 3: range(1, 257)}  # of tRNS, by color type


@dataclass
class Chunks:
    """What a file contains besides its pixels.

    `first`: the first chunk of each type that is kept or needed. `texts`: all text chunks but XMP.
    `faults`: chunks with wrong checksums, as sentences. `dropped`: names of what is not kept. `trailer`: what
    follows the image.
    """

    first: dict[bytes, bytes] = field(default_factory=dict)
    texts: list[tuple[bytes, bytes]] = field(default_factory=list)
    xmp: bytes | None = None
    is_animated: bool = False
    faults: list[str] = field(default_factory=list)
    dropped: list[str] = field(default_factory=list)
    trailer: bytes = b""

    @property
    def depth(self) -> int:
        """Bits per sample."""
        return self.first[b"IHDR"][8]

    @property
    def color_type(self) -> int:
        """0 gray, 2 RGB, 3 palette; 4 and 6: gray and RGB with alpha."""
        return self.first[b"IHDR"][9]

    @property
    def is_interlaced(self) -> bool:
        """Whether the pixels are in seven passes over the image (Adam7), or of an unknown order."""
        return self.first[b"IHDR"][12] != 0

    @property
    def color(self) -> tuple[tuple[bytes, bytes], ...]:
        """The chunks that define the color space, except for the ICC profile."""
        return tuple(
            (kind, self.first[kind])
            for kind, length in COLOR_CHUNKS.items()
            if len(self.first.get(kind, b"")) == length
        )

    @property
    def profile(self) -> bytes | None:
        """The ICC profile; None if there is none or it is corrupt."""
        _, separator, rest = self.first.get(b"iCCP", b"").partition(b"\0")
        return text.inflate(rest[1:]) if separator else None

    @property
    def resolution(self) -> tuple[float, float] | None:
        """The resolution in dpi; None if it has no unit."""
        data = self.first.get(b"pHYs", b"")
        if len(data) != 9 or data[8] != 1:
            return None
        x, y = struct.unpack_from(">II", data)
        return x * 0.0254, y * 0.0254

    @property
    def pixel_shape(self) -> tuple[int, int]:
        """Width and height of a pixel, as far as their ratio goes."""
        data = self.first.get(b"pHYs", b"")
        x, y = struct.unpack_from(">II", data) if len(data) == 9 and data[8] == 0 else (1, 1)
        return y, x


def size(data: bytes) -> tuple[int, int]:
    """Return width and height in px as the header says. Raises `ImageFault` if there is none."""
    start = len(SIGNATURE)
    if len(data) < start + 8 + _HEADER_BYTES:
        raise ImageFault("cannot be decoded: the PNG file is cut short (truncated) within its header")
    if not data.startswith(_HEADER_START, start):
        if data.startswith(b"CgBI", start + 4):
            raise ImageFault("is a PNG as only Apple's devices read it (CgBI); save it as a standard PNG")
        raise ImageFault("cannot be decoded: the PNG file is corrupt, it does not start with its header")
    width, height = struct.unpack_from(">II", data, start + 8)
    return width, height


def read_chunks(data: bytes) -> Chunks:
    """Collect a file's chunks, wherever they are, and verify every checksum.

    A chunk that no decoder needs, and whose checksum is wrong, is left out, as browsers do. Raises
    `ImageFault` if another one's is wrong, or if the end is missing.
    """
    chunks = Chunks()
    kind, end, wrong = b"", 0, 0
    view = memoryview(data)
    for kind, start, end in iterate_chunks(data):
        name = _name(kind)
        is_ancillary = bool(kind[0] & _ANCILLARY)
        if isal_zlib.crc32(view[start - 4 : end]) != int.from_bytes(data[end : end + 4]):
            if not is_ancillary and kind != b"IEND":
                raise ImageFault(f"is damaged: the checksum of its {name} chunk is wrong")
            wrong += 1
            if wrong <= _NAMED_FAULTS:
                left_out = " It was left out." if is_ancillary else ""
                problem = f"the checksum of its {name} chunk is wrong."
                chunks.faults.append(f"The PNG file is damaged: {problem}{left_out}")
            continue
        if not is_ancillary and kind not in _CRITICAL:
            raise ImageFault(f"is a PNG that needs a chunk that is not known, {name}")
        _add_chunk(chunks, kind, data[start:end] if kind != b"IDAT" else b"")
    if wrong > _NAMED_FAULTS:
        chunks.faults.append(f"The checksums of {wrong - _NAMED_FAULTS} further chunks are wrong.")
    if kind != b"IEND":
        raise ImageFault("cannot be decoded: the PNG file is cut short (truncated), its end is missing")
    if b"IDAT" not in chunks.first:
        raise ImageFault("cannot be decoded: the PNG file is corrupt, it has no pixels")
    if b"tRNS" in chunks.first and len(chunks.first[b"tRNS"]) not in _KEY_BYTES.get(chunks.color_type, ()):
        del chunks.first[b"tRNS"]
        chunks.faults.append("The PNG file is damaged: its tRNS chunk has a wrong length. It was left out.")
    chunks.trailer = data[end + 4 :]
    return chunks


def _add_chunk(chunks: Chunks, kind: bytes, content: bytes) -> None:
    if kind in text.KINDS:
        if not text.keyword(content) or b"\0" not in content:
            chunks.dropped.append("a text without a keyword")
        elif text.keyword(content) != XMP_KEYWORD:
            chunks.texts.append((kind, content))
        elif b"XMP" not in chunks.first:
            chunks.first[b"XMP"] = b""  # readable or not: there may be a bomb in each of many
            chunks.xmp = text.content(kind, content)
            if chunks.xmp is None:
                chunks.dropped.append("an XMP packet that cannot be unpacked")
        else:
            chunks.dropped.append("a second XMP packet")
    elif kind == b"acTL" and len(content) == 8:
        chunks.is_animated = chunks.is_animated or struct.unpack(">I", content[:4])[0] > 1
    elif kind == b"fdAT":
        chunks.is_animated = True
    elif kind in _KEPT:
        chunks.first.setdefault(kind, content)
    elif kind == b"caBX":
        chunks.dropped.append(attachments.CREDENTIALS)
    elif kind not in _ABOUT_THE_OLD_FILE:
        chunks.dropped.append(f"the chunk {_name(kind)}")


def _name(kind: bytes) -> str:
    return kind.decode() if kind.isalpha() else f"0x{kind.hex()}"


def without_metadata(data: bytes, chunks: Chunks, *, palette: bool = True) -> bytes:
    """Return the file for a decoder: pixels and, if wanted, palette and transparency, but nothing else."""
    view = memoryview(data)
    pieces: list[bytes | memoryview] = [SIGNATURE]
    for kind, start, end in iterate_chunks(data):
        wanted = kind in (b"IHDR", b"IDAT")
        if palette and kind in (b"PLTE", b"tRNS"):
            wanted = chunks.first.get(kind) == data[start:end]  # else its checksum is wrong
        if wanted:
            pieces.append(view[start - 8 : end + 4])
    return b"".join([*pieces, *chunk(b"IEND", b"")])


def iterate_chunks(data: bytes) -> Iterable[tuple[bytes, int, int]]:
    """Iterate over a file's chunks: the type, and where the data starts and ends."""
    start = len(SIGNATURE)
    while start + 12 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, start)
        end = start + 8 + length
        if end + 4 > len(data):
            return
        yield kind, start + 8, end
        if kind == b"IEND":  # what follows is not part of the image
            return
        start = end + 4


def chunk(kind: bytes, data: bytes) -> tuple[bytes, ...]:
    """Return the pieces of a chunk: length, type, data and checksum."""
    checksum = isal_zlib.crc32(data, isal_zlib.crc32(kind))
    return struct.pack(">I", len(data)), kind, data, struct.pack(">I", checksum)
