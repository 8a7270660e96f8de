"""What lies beside a photograph's pixels: EXIF and XMP, changed only where they would tell an untruth.

Both are kept byte by byte, for whoever writes an EXIF block anew moves the maker notes, whose inner offsets
then point nowhere. Only the orientation becomes 1, once the pixels are upright, and the small preview (IFD1)
is unlinked, as it shows the old picture.
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
_NUMBERS = {1: "B", 3: "H", 4: "I"}  # TIFF's field types BYTE, SHORT and LONG
_XMP_ORIENTATION = re.compile(rb"""(tiff:Orientation(?:\s*=\s*["']|>)\s*)([0-9])""")


def raw_exif(info: dict[Any, Any]) -> bytes | None:
    """Return the EXIF block that Pillow found, without prefix; ImageMagick's hexadecimal text counts."""
    block = info.get("exif")
    profile = info.get("Raw profile type exif")
    if not block and isinstance(profile, str):
        try:
            block = bytes.fromhex("".join(profile.split("\n")[3:]))
        except ValueError:  # no hexadecimal digits: a text like any other
            return None
    return without_prefix(block) if isinstance(block, bytes) and block else None


def without_prefix(block: bytes) -> bytes:
    """Return a block from its byte order on. JPEG has a prefix, PNG and WebP should have none."""
    return block[len(EXIF_PREFIX) :] if block.startswith(EXIF_PREFIX) else block


def has_tag(exif: bytes, tag: int) -> bool:
    """Tell whether the main directory of an EXIF block has a tag."""
    return any(found == tag for found, *_ in _entries(without_prefix(exif)))


def normalize_orientation(block: bytes) -> tuple[int | None, bytes]:
    """Return the orientation, 1 to 8 (None if there is none), and the block as it is to be written.

    A block that cannot be read comes back as it is: a program that can read it then shows our picture turned
    as it shows the input.
    """
    order = _BYTE_ORDERS.get(block[:4])
    if order is None:
        return None, block
    orientation = None
    settled = bytearray(block)
    end = 0
    for tag, kind, place in _entries(block):
        end = place + 4
        if tag == ORIENTATION and kind in _NUMBERS:
            number = order + _NUMBERS[kind]
            value = struct.unpack_from(number, block, place)[0]
            struct.pack_into(number, settled, place, 1)
            orientation = value if orientation is None and 1 <= value <= 8 else orientation
    if end and len(block) >= end + 4:
        settled[end : end + 4] = bytes(4)  # where the next directory, the preview's, is said to be
    return orientation, bytes(settled)


def normalize_xmp_orientation(packet: bytes) -> tuple[int | None, bytes]:
    """Return the orientation that XMP states (None if it states none), and the packet saying 1 instead."""
    found = _XMP_ORIENTATION.search(packet)
    orientation = int(found[2]) if found and 1 <= int(found[2]) <= 8 else None
    return orientation, _XMP_ORIENTATION.sub(rb"\g<1>1", packet)


def _entries(block: bytes) -> Iterator[tuple[int, int, int]]:
    """Walk through the main directory (IFD0): tag, field type, and where the value is."""
    order = _BYTE_ORDERS.get(block[:4])
    if order is None:
        return
    try:
        start = struct.unpack_from(order + "I", block, 4)[0]
        count = struct.unpack_from(order + "H", block, start)[0]
        for place in range(start + 2, start + 2 + 12 * count, 12):
            tag, kind, _ = struct.unpack_from(order + "HHI", block, place)
            struct.unpack_from("4x", block, place + 8)
            yield tag, kind, place + 8
    except struct.error:  # cut short: what came before holds
        return
