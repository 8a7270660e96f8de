"""A photo's EXIF, changed only where it would be wrong.

It is kept byte for byte: rewriting a block would move the maker notes and break their internal offsets. Only
the orientation is set to 1, because the pixels are upright, the thumbnail (IFD1) is unlinked, because it
shows the old image, and the size is the new one's.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

EXIF_PREFIX = b"Exif\0\0"
ORIENTATION = 0x0112
_SUBJECT_PLACES = (0x9214, 0xA214)  # SubjectArea, SubjectLocation
X_RESOLUTION = 0x011A

_BYTE_ORDERS = {b"II*\0": "<", b"MM\0*": ">"}
_INTEGER_TYPES = {1: "B", 3: "H", 4: "I"}  # TIFF's field types BYTE, SHORT and LONG
_LONG = 4
_EXIF_DIRECTORY = 0x8769
_WIDTHS, _HEIGHTS = (0x0100, 0xA002), (0x0101, 0xA003)  # of the main directory and of EXIF's own


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


def without_subject(block: bytes) -> bytes:
    """Return a block without the place of its subject, which is another in a turned image."""
    byte_order = _BYTE_ORDERS.get(block[:4])
    changed = bytearray(block)
    for tag, kind, offset in _entries(block):
        if byte_order is None or tag != _EXIF_DIRECTORY or kind != _LONG:
            continue
        start = struct.unpack_from(byte_order + "I", block, offset)[0]
        first, entries = start + 2, list(_entries(block, start))
        kept = b"".join(
            block[value - 8 : value + 4] for tag, _, value in entries if tag not in _SUBJECT_PLACES
        )
        end = first + 12 * len(entries)
        if entries and len(kept) < end - first:
            struct.pack_into(byte_order + "H", changed, start, len(kept) // 12)
            moved = kept + block[end : end + 4]
            changed[first : end + 4] = moved + bytes(end + 4 - first - len(moved))
    return bytes(changed[: len(block)])


def with_size(block: bytes, width: int, height: int) -> bytes:
    """Return a block, with or without prefix, with the image's size in px wherever it says one."""
    prefix, block = block[: len(block) - len(without_prefix(block))], without_prefix(block)
    byte_order = _BYTE_ORDERS.get(block[:4])
    if byte_order is None:
        return prefix + block
    changed = bytearray(block)
    directories = [_entries(block)]
    for tag, kind, offset in _entries(block):
        if tag == _EXIF_DIRECTORY and kind == _LONG:
            directories.append(_entries(block, struct.unpack_from(byte_order + "I", block, offset)[0]))
    for tag, kind, offset in (entry for directory in directories[:2] for entry in directory):
        if tag in (*_WIDTHS, *_HEIGHTS) and kind in _INTEGER_TYPES:
            # As LONG, which contains every size and takes the same place.
            head = struct.pack(byte_order + "HI", _LONG, 1)
            side = struct.pack(byte_order + "I", width if tag in _WIDTHS else height)
            changed[offset - 6 : offset + 4] = head + side
    return prefix + bytes(changed)


def _entries(block: bytes, start: int | None = None) -> Iterator[tuple[int, int, int]]:
    """Iterate over the directory at an offset, or the main one (IFD0): tag, type, and the value's offset."""
    byte_order = _BYTE_ORDERS.get(block[:4])
    if byte_order is None:
        return
    try:
        if start is None:
            start = struct.unpack_from(byte_order + "I", block, 4)[0]
        count = struct.unpack_from(byte_order + "H", block, start)[0]
        for offset in range(start + 2, start + 2 + 12 * count, 12):
            tag, kind, _ = struct.unpack_from(byte_order + "HHI", block, offset)
            struct.unpack_from("4x", block, offset + 8)
            yield tag, kind, offset + 8
    except struct.error:  # truncated: the entries before are valid
        return
