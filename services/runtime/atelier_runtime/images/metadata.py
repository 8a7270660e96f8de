"""A photo's metadata: EXIF and XMP, changed only where they would be wrong.

Both are kept byte for byte: rewriting an EXIF block would move the maker notes and break their internal
offsets. Only the orientation is set to 1, because the pixels are upright, and the thumbnail (IFD1) is
unlinked, because it shows the old image.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from typing import Any

EXIF_PREFIX = b"Exif\0\0"
ORIENTATION = 0x0112
X_RESOLUTION = 0x011A

_BYTE_ORDERS = {b"II*\0": "<", b"MM\0*": ">"}
_INTEGER_TYPES = {1: "B", 3: "H", 4: "I"}  # TIFF's field types BYTE, SHORT and LONG
_XMP_ORIENTATION = re.compile(rb"""(tiff:Orientation(?:\s*=\s*["']|>)\s*)([0-9])""")


def raw_exif(info: dict[Any, Any]) -> bytes | None:
    """Return the EXIF block that Pillow found, without its prefix; decodes ImageMagick's hexadecimal text."""
    block = info.get("exif")
    profile = info.get("Raw profile type exif")
    if not block and isinstance(profile, str):
        try:
            block = bytes.fromhex("".join(profile.split("\n")[3:]))
        except ValueError:  # not hexadecimal: some other text
            return None
    return without_prefix(block) if isinstance(block, bytes) and block else None


def without_prefix(block: bytes) -> bytes:
    """Return a block without its prefix, which JPEG requires and PNG and WebP should not have."""
    return block[len(EXIF_PREFIX) :] if block.startswith(EXIF_PREFIX) else block


def has_tag(exif: bytes, tag: int) -> bool:
    """Return whether the main directory of an EXIF block has a tag."""
    return any(found == tag for found, *_ in _entries(without_prefix(exif)))


def normalize_orientation(block: bytes) -> tuple[int | None, bytes]:
    """Return the orientation, 1 to 8 (None if there is none), and the block to write, with orientation 1.

    A block that cannot be parsed is returned unchanged: a program that can parse it will then rotate our
    image as it rotates the input.
    """
    byte_order = _BYTE_ORDERS.get(block[:4])
    if byte_order is None:
        return None, block
    orientation = None
    normalized = bytearray(block)
    end = 0
    for tag, kind, offset in _entries(block):
        end = offset + 4
        if tag == ORIENTATION and kind in _INTEGER_TYPES:
            integer = byte_order + _INTEGER_TYPES[kind]
            value = struct.unpack_from(integer, block, offset)[0]
            struct.pack_into(integer, normalized, offset, 1)
            orientation = value if orientation is None and 1 <= value <= 8 else orientation
    if end and len(block) >= end + 4:
        normalized[end : end + 4] = bytes(4)  # the offset of the next directory, the thumbnail's
    return orientation, bytes(normalized)


def normalize_xmp_orientation(packet: bytes) -> tuple[int | None, bytes]:
    """Return the orientation in an XMP packet (None if there is none), and the packet with 1 instead."""
    found = _XMP_ORIENTATION.search(packet)
    orientation = int(found[2]) if found and 1 <= int(found[2]) <= 8 else None
    return orientation, _XMP_ORIENTATION.sub(rb"\g<1>1", packet)


def _entries(block: bytes) -> Iterator[tuple[int, int, int]]:
    """Iterate over the main directory (IFD0): tag, field type and offset of the value."""
    byte_order = _BYTE_ORDERS.get(block[:4])
    if byte_order is None:
        return
    try:
        start = struct.unpack_from(byte_order + "I", block, 4)[0]
        count = struct.unpack_from(byte_order + "H", block, start)[0]
        for offset in range(start + 2, start + 2 + 12 * count, 12):
            tag, kind, _ = struct.unpack_from(byte_order + "HHI", block, offset)
            struct.unpack_from("4x", block, offset + 8)
            yield tag, kind, offset + 8
    except struct.error:  # truncated: the entries before are valid
        return
