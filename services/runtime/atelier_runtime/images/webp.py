"""WebP: chunks, the size before anything is decoded, and whether pixels are missing."""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field

from PIL import Image

from atelier_runtime.images import attachments
from atelier_runtime.images.picture import ImageFault
from atelier_runtime.sizes import Size

_HEADER_BYTES = 12
_HEAD_BYTES = 10
_FRAME_HEADER_BYTES = 16
_LOSSY, _LOSSLESS, _EXTENDED = b"VP8 ", b"VP8L", b"VP8X"
_KNOWN = frozenset({_LOSSY, _LOSSLESS, _EXTENDED, b"ALPH", b"ANIM", b"ANMF", b"ICCP", b"EXIF", b"XMP "})
_LOSSY_START = b"\x9d\x01\x2a"
_LOSSLESS_START = 0x2F
_ZEROS = bytes(64)
_UNUSED_BYTES = 32


@dataclass
class WebP:
    """A file by its parts. `file`: all of it without what follows. `dropped`: names of what is not kept."""

    file: bytes
    width: int
    height: int
    pixels: tuple[bytes, bytes] | None
    frames: int
    trailer: bytes
    dropped: list[str] = field(default_factory=list)


def is_webp(data: bytes) -> bool:
    """Return whether data starts like a WebP file."""
    return data.startswith(b"RIFF") and data[8:12] == b"WEBP"


def chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Iterate over a file's chunks: the type, and where the data starts and ends, perhaps beyond the file."""
    end_of_file = min(len(data), 8 + int.from_bytes(data[4:8], "little"))
    start = _HEADER_BYTES
    while start + 8 <= end_of_file:
        kind, length = struct.unpack_from("<4sI", data, start)
        yield kind, start + 8, start + 8 + length
        start += 8 + length + length % 2


def read(data: bytes) -> WebP:
    """Take a file apart. Raises `ImageFault` if it is cut short or has no image."""
    size = 8 + int.from_bytes(data[4:8], "little")
    if size > len(data):
        raise ImageFault(
            f"cannot be decoded: the WebP file is cut short (truncated), {len(data)} of {size} bytes"
        )
    found = WebP(data[:size], 0, 0, None, 0, data[size:])
    for kind, start, end in chunks(data):
        if end > size:
            raise ImageFault("cannot be decoded: the WebP file is cut short (truncated) in a chunk")
        head = data[start : min(end, start + 10)]
        if kind == b"ANMF":
            found.frames += 1
            found.pixels = found.pixels or _pixels_of_frame(data[start + _FRAME_HEADER_BYTES : end])
        if kind == _EXTENDED and len(head) == 10 and not found.width:
            found.width = 1 + int.from_bytes(head[4:7], "little")
            found.height = 1 + int.from_bytes(head[7:10], "little")
        elif kind in (_LOSSY, _LOSSLESS) and found.pixels is None:
            found.pixels = kind, data[start:end]
            width, height = _size(kind, head)
            found.width, found.height = max(found.width, width), max(found.height, height)
        elif kind not in _KNOWN:
            is_signature = kind == b"C2PA"
            found.dropped.append(attachments.CREDENTIALS if is_signature else f"the chunk {_name(kind)}")
    if not found.width:
        raise ImageFault("cannot be decoded: the WebP file is corrupt or truncated, it has no image")
    return found


def size_in(data: bytes, kind: bytes, start: int, end: int) -> Size | None:
    """Return the size that a chunk states; None if it states none."""
    head = data[start : min(end, start + _HEAD_BYTES)]
    if kind == _EXTENDED and len(head) == _HEAD_BYTES:
        return Size(1 + int.from_bytes(head[4:7], "little"), 1 + int.from_bytes(head[7:10], "little"))
    width, height = _size(kind, head)
    return Size(width, height) if width and height else None


def _pixels_of_frame(frame: bytes) -> tuple[bytes, bytes] | None:
    at = 0
    while at + 8 <= len(frame):
        kind, length = struct.unpack_from("<4sI", frame, at)
        if kind in (_LOSSY, _LOSSLESS):
            return kind, frame[at + 8 : at + 8 + length]
        at += 8 + length + length % 2
    return None


def check_pixels(found: WebP) -> None:
    """Raise `ImageFault` if zeros have taken the place of pixels, which a decoder takes for more of the same.

    A decoder that has everything it needs without a file's last bytes has read something else than was
    written. Costs decoding once more, for files with 64 zeros in a row, of which there are some: black areas.
    """
    if found.pixels is None or _ZEROS not in found.pixels[1]:
        return
    kind, content = found.pixels
    content = content[:-_UNUSED_BYTES]
    chunk = kind + struct.pack("<I", len(content)) + content + b"\0" * (len(content) % 2)
    shorter = b"RIFF" + struct.pack("<I", 4 + len(chunk)) + b"WEBP" + chunk
    try:
        with Image.open(io.BytesIO(shorter), formats=["WEBP"]) as image:
            image.load()
    except OSError:
        return
    raise ImageFault("is damaged: zeros have taken the place of a part of its pixels")


def _size(kind: bytes, head: bytes) -> tuple[int, int]:
    if kind == _LOSSY and head[3:6] == _LOSSY_START and len(head) == 10:
        width, height = struct.unpack_from("<HH", head, 6)
        return width & 0x3FFF, height & 0x3FFF
    if kind == _LOSSLESS and len(head) >= 5 and head[0] == _LOSSLESS_START:
        bits = int.from_bytes(head[1:5], "little")
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    return 0, 0


def _name(kind: bytes) -> str:
    name = kind.decode("latin-1").strip()
    return name if name.isascii() and name.isprintable() else f"0x{kind.hex()}"
