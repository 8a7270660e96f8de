"""JPEG: segments, what a file contains besides its image, and decoding that notices missing pixels."""

from __future__ import annotations

import io
import re
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import simplejpeg
from PIL import Image

from atelier_runtime.images import attachments, photoshop
from atelier_runtime.images.picture import ImageFault, RgbArray

START = b"\xff\xd8"
MAX_SEGMENT_BYTES = 65_533
EXIF_PREFIX = b"Exif\0\0"
ICC_PREFIX = b"ICC_PROFILE\0"
XMP_PREFIX = b"http://ns.adobe.com/xap/1.0/\0"
EXTENSION_PREFIX = b"http://ns.adobe.com/xmp/extension/\0"

_MARKER = re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]")  # not 00, a value of FF in a scan, nor a restart marker
_FIRST_WITH_LENGTH = 0xC0  # libjpeg skips those below as invalid, without a length: what follows is decoded
_SCAN, END, _COMMENT = 0xDA, 0xD9, 0xFE
APP1 = 0xE1
_APP0, _APP2, _APP11, _APP12, _APP13, _APP14, _APP15 = 0xE0, 0xE2, 0xEB, 0xEC, 0xED, 0xEE, 0xEF
_TABLES = frozenset({0xC4, 0xCC, 0xDB, 0xDC, 0xDD})  # Huffman, arithmetic, quantization; lines; restarts
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_PROGRESSIVE, _ARITHMETIC = frozenset({0xC2, 0xCA}), frozenset({0xC9, 0xCA})
_LOSSLESS, _HIERARCHICAL = frozenset({0xC3, 0xCB}), frozenset({0xC5, 0xC6, 0xC7, 0xCD, 0xCE, 0xCF})
_JPEG_LS = 0xF7
_EXTENSION_HEADER = struct.Struct(">32sII")
_GAIN_MAP_PREFIX = b"urn:iso:std:iso:ts:21496:-1"
_COEFFICIENTS = 64
_GRAY = 128
_BOTTOM_ROWS = 8


class Segment(NamedTuple):
    """A segment: its marker's second byte, where that begins, and where its content starts and ends."""

    kind: int
    marker: int
    start: int
    end: int


class Frame(NamedTuple):
    """What the header says of the image. `kind`: the marker, which names the process."""

    kind: int
    bits: int
    height: int
    width: int
    channels: bytes


@dataclass
class Jpeg:
    """A file by its parts.

    `file`: what decoders need, with EXIF and the ICC profile. `photoshop`: see there. `extension`: the parts
    of extended XMP by GUID. `dropped`: names of what is not kept. `trailer`: what follows the image.
    """

    frame: Frame | None = None
    file: bytes = b""
    has_end: bool = False
    scans: list[bytes] = field(default_factory=list)
    xmp: bytes | None = None
    extension: dict[bytes, list[tuple[int, int, bytes]]] = field(default_factory=dict)
    photoshop: bytes = b""
    comments: list[bytes] = field(default_factory=list)
    dropped: list[str] = field(default_factory=list)
    has_gain_map: bool = False
    has_profile: bool = False
    trailer: bytes = b""


def segments(data: bytes) -> Iterator[Segment]:
    """Iterate over a file's segments, up to its end or where it is cut off."""
    position = len(START)
    while (match := _MARKER.search(data, position)) is not None:
        marker, position = match.start(), match.end()
        kind = data[marker + 1]
        if kind == END or position + 2 > len(data):
            yield Segment(kind, marker, position, position)
            return
        length = max(2, struct.unpack_from(">H", data, position)[0]) if kind >= _FIRST_WITH_LENGTH else 0
        yield Segment(kind, marker, position + min(2, length), position + length)
        position += length


def read(data: bytes) -> Jpeg:
    """Take a file apart; `structure` has checked how many parts it has.

    Raises `ImageFault` if it is of a kind that cannot be decoded.
    """
    found = Jpeg()
    pieces = [START]
    scan_from: int | None = None
    for segment in segments(data):
        if scan_from is not None:
            pieces.append(data[scan_from : segment.marker])
            scan_from = None
        kind, content = segment.kind, data[segment.start : segment.end]
        if kind == END:
            found.has_end = True
            found.trailer = data[segment.end :]
        elif kind == _SCAN:
            found.scans.append(content)
            scan_from = segment.marker
        elif kind in _FRAMES or kind == _JPEG_LS:
            found.frame = found.frame or _frame(kind, content)
            pieces.append(data[segment.marker : segment.end])
        elif kind in _TABLES or _is_for_decoders(kind, content):
            pieces.append(data[segment.marker : segment.end])
            found.has_profile = found.has_profile or (kind == _APP2)
        elif kind >= _APP0:
            add_metadata(found, kind, content)
    if scan_from is not None:
        pieces.append(data[scan_from:])
    if found.frame is None or not found.scans:
        if found.has_end:
            raise ImageFault("cannot be decoded: the JPEG file is corrupt, it has no image")
        raise ImageFault("cannot be decoded: the JPEG file is cut short (truncated) before its pixels")
    _reject_unsupported(found.frame)
    found.file = b"".join([*pieces, b"\xff\xd9"])
    return found


def frame_of(data: bytes, segment: Segment) -> Frame | None:
    """Return what a segment says of the image; None if it is of another kind."""
    return _frame(segment.kind, data[segment.start : segment.end]) if segment.kind in _FRAMES else None


def _frame(kind: int, content: bytes) -> Frame | None:
    if len(content) < 6 or len(content) < 6 + 3 * content[5]:
        return None
    bits, height, width, count = struct.unpack_from(">BHHB", content)
    return Frame(kind, bits, height, width, content[6 : 6 + 3 * count : 3])


def _reject_unsupported(frame: Frame) -> None:
    kind = frame.kind
    name = None
    if kind == _JPEG_LS:
        name = "a JPEG-LS"
    elif kind in _LOSSLESS:
        name = "a lossless JPEG"
    elif kind in _HIERARCHICAL:
        name = "a hierarchical JPEG"
    elif frame.bits != 8:
        name = f"a JPEG of {frame.bits} bits per channel"
    elif len(frame.channels) == 4:
        raise ImageFault("is in CMYK; convert it to RGB or gray first")
    elif len(frame.channels) not in (1, 3):
        name = f"a JPEG with {len(frame.channels)} channels"
    if name is not None:
        raise ImageFault(f"is {name}; of JPEGs, those of 8 bits, baseline or progressive, can be decoded")


def _is_for_decoders(kind: int, content: bytes) -> bool:
    return (
        (kind == _APP0 and content.startswith(b"JFIF\0"))
        or (kind == APP1 and content.startswith(EXIF_PREFIX))
        or (kind == _APP2 and content.startswith(ICC_PREFIX))
        or (kind == _APP14 and content.startswith(b"Adobe"))
    )


def add_metadata(found: Jpeg, kind: int, content: bytes) -> None:
    """Add the content of a segment that decoders do not need."""
    if kind == _COMMENT:
        found.comments.append(content)
    elif kind == APP1 and content.startswith(XMP_PREFIX) and found.xmp is None:
        found.xmp = content[len(XMP_PREFIX) :]
    elif kind == APP1 and content.startswith(EXTENSION_PREFIX):
        part = content[len(EXTENSION_PREFIX) :]
        if len(part) >= _EXTENSION_HEADER.size:
            guid, total, offset = _EXTENSION_HEADER.unpack_from(part)
            part = part[_EXTENSION_HEADER.size :]
            found.extension.setdefault(guid.upper(), []).append((offset, total, part))
    elif kind == _APP13 and content.startswith(photoshop.JPEG_PREFIX):
        found.photoshop += content[len(photoshop.JPEG_PREFIX) :]
    elif kind == _APP2 and content.startswith(_GAIN_MAP_PREFIX):
        found.has_gain_map = True
    elif kind <= _APP15 and not _is_about_the_old_file(kind, content):
        found.dropped.append(_name_of(kind, content))


def _is_about_the_old_file(kind: int, content: bytes) -> bool:
    """Return whether a segment is empty, or describes the old file's encoding, preview or further images."""
    prefixes = {
        _APP0: (b"JFXX\0", b"AVI1"),
        _APP2: (b"MPF\0",),
        _APP12: (b"Ducky",),
        _APP14: (b"Adobe",),
    }
    if kind == _APP11 and content.startswith(b"JP") and content[4:8] > b"\0\0\0\1":
        return True  # the rest of a JUMBF box, whose first segment has been named
    return not content.strip(b"\0") or content.startswith(prefixes.get(kind, ()))


def _name_of(kind: int, content: bytes) -> str:
    if kind == _APP11 and content.startswith(b"JP"):
        return attachments.CREDENTIALS if b"c2pa" in content else "JUMBF data"
    if kind == APP1 and content.startswith(XMP_PREFIX):
        return "a second XMP packet"
    words = re.match(rb"[ -~]{3,28}", content)
    return f"APP{kind - _APP0}" + (f" ({words[0].decode()})" if words else "")


def extension_of(found: Jpeg, guid: bytes) -> bytes | None:
    """Return the extended XMP that a packet names; None if a part of it is missing."""
    joined, total = bytearray(), None
    for offset, length, part in sorted(found.extension.get(guid.upper(), ()), key=lambda part: part[0]):
        if offset != len(joined) or total not in (None, length):
            return None
        joined += part
        total = length
    return bytes(joined) if joined and len(joined) == total else None


def decode(found: Jpeg) -> tuple[RgbArray | None, list[str]]:
    """Return the pixels (H, W, 3), None if only Pillow can decode them, and what is wrong with them.

    Raises `ImageFault` if some are missing.
    """
    assert found.frame is not None, "checked by `read`"
    faults = []
    scan_fault = _scan_fault(found.frame, found.scans)
    if scan_fault is not None and not found.has_end:
        raise ImageFault("cannot be decoded: the JPEG file is cut short (truncated) between its scans")
    if scan_fault is not None:
        faults.append(scan_fault)
    try:
        if len(found.frame.channels) == 1:
            gray = simplejpeg.decode_jpeg(found.file, "Gray")
            return np.repeat(np.asarray(gray, np.uint8), 3, axis=2), faults
        return np.asarray(simplejpeg.decode_jpeg(found.file, "RGB"), np.uint8), faults
    except ValueError as error:  # libjpeg's first warning, or TurboJPEG cannot decode it
        warning = str(error)
    if found.frame.kind in _ARITHMETIC:
        raise ImageFault("is a JPEG with arithmetic coding that cannot be decoded: it is corrupt")
    if not warning.startswith("Corrupt JPEG data: "):
        return None, faults
    problem = warning.removeprefix("Corrupt JPEG data: ")
    with Image.open(io.BytesIO(found.file), formats=["JPEG"]) as image:
        image.load()
        rgb = np.array(image.convert("RGB"))
    # Only the first warning is known, and more than that may be wrong.
    if not found.has_end or (rgb[-_BOTTOM_ROWS:] == _GRAY).all():
        raise ImageFault(
            "cannot be decoded: the JPEG file is cut short (truncated), its lower part is missing"
        )
    return rgb, [*faults, f"The JPEG file is damaged: {problem}. The image may be wrong in places."]


def _scan_fault(frame: Frame, scans: Iterable[bytes]) -> str | None:
    """Return what the scans do not bring: channels, or the details of a progressive file.

    Raises `ImageFault` if a channel is missing as a whole.
    """
    if frame.kind in _PROGRESSIVE:
        missing = {channel: bytearray(b"\xff" * _COEFFICIENTS) for channel in frame.channels}
    else:
        missing = {channel: bytearray(b"\xff") for channel in frame.channels}
    for scan in scans:
        count = scan[0] if scan else 0
        if len(scan) < 4 + 2 * count:
            continue
        first, last, bits = scan[1 + 2 * count : 4 + 2 * count]
        for channel in scan[1 : 1 + 2 * count : 2]:
            if channel not in missing:
                continue
            if frame.kind not in _PROGRESSIVE:
                missing[channel][0] = 0
            elif first <= last < _COEFFICIENTS:
                missing[channel][first : last + 1] = bytes([bits & 15]) * (last + 1 - first)
    if any(levels[0] == 0xFF for levels in missing.values()):
        raise ImageFault(
            "cannot be decoded: the JPEG file is cut short (truncated), one of its channels is missing"
        )
    if any(any(levels) for levels in missing.values()):
        return "The JPEG file lacks its last scans: the image has less detail than it was saved with."
    return None


def metadata_segments(
    *, extension: bytes | None, guid: bytes, resources: bytes | None, comments: Iterable[bytes]
) -> bytes:
    """Return segments for a file: extended XMP, Photoshop's resources, comments of at most 65,533 bytes."""
    pieces = []
    if extension is not None:
        size = MAX_SEGMENT_BYTES - len(EXTENSION_PREFIX) - _EXTENSION_HEADER.size
        for offset in range(0, len(extension), size):
            head = EXTENSION_PREFIX + _EXTENSION_HEADER.pack(guid, len(extension), offset)
            pieces.append(make_segment(APP1, head + extension[offset : offset + size]))
    if resources is not None:
        size = MAX_SEGMENT_BYTES - len(photoshop.JPEG_PREFIX)
        for offset in range(0, len(resources), size):
            pieces.append(make_segment(_APP13, photoshop.JPEG_PREFIX + resources[offset : offset + size]))
    pieces += [make_segment(_COMMENT, comment) for comment in comments]
    return b"".join(pieces)


def insert(file: bytes, more: bytes) -> bytes:
    """Return a file with more segments, after those of its applications."""
    place = next(s.marker for s in segments(file) if not _APP0 <= s.kind <= _APP15)
    return file[:place] + more + file[place:]


def make_segment(kind: int, content: bytes) -> bytes:
    """Return a segment; its content has at most `MAX_SEGMENT_BYTES`."""
    return struct.pack(">BBH", 0xFF, kind, 2 + len(content)) + content
