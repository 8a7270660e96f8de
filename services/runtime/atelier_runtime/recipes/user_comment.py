"""Texts in EXIF: a block with nothing but a comment, and what the comment of any block says.

Comments are written as UTF-16 with the characters in big-endian order, as AUTOMATIC1111's web UI writes and
reads them.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

_ORDERS = {b"II*\0": "<", b"MM\0*": ">"}
_EXIF_DIRECTORY = 0x8769
_USER_COMMENT = 0x9286
_UNDEFINED, _LONG, _ASCII, _BYTE = 7, 4, 2, 1
_UNICODE = b"UNICODE\0"
_MAX_ENTRIES = 1_000
_MAIN_TEXTS = {
    0x010E: "ImageDescription",
    0x010F: "Make",
    0x0110: "Model",
    0x0131: "Software",
    0x013B: "Artist",
    0x8298: "Copyright",
}
_WINDOWS_TEXTS = {0x9C9B: "XPTitle", 0x9C9C: "XPComment", 0x9C9E: "XPKeywords"}
MAX_TEXT_BYTES = 2**20
_HEAD_BYTES, _COUNT_END = 32, 36  # up to the comment's number of bytes, and up to the end of that
_TAIL = struct.pack(">II", 44, 0) + _UNICODE


def write(text: str) -> bytes:
    """Return an EXIF block, without its prefix, with a comment."""
    comment = _UNICODE + text.encode("utf-16-be", "surrogatepass")
    main = struct.pack(">HHHIII", 1, _EXIF_DIRECTORY, _LONG, 1, 26, 0)
    own = struct.pack(">HHHIII", 1, _USER_COMMENT, _UNDEFINED, len(comment), 44, 0)
    return b"MM\0*" + struct.pack(">I", 8) + main + own + comment


def is_ours(block: bytes) -> bool:
    """Return whether a block, without its prefix, has nothing but a comment, as `write` returns it."""
    return block[:_HEAD_BYTES] == write("")[:_HEAD_BYTES] and block[_COUNT_END:].startswith(_TAIL)


def read(block: bytes) -> dict[str, str]:
    """Return the texts of a block without its prefix, by their names; what cannot be read is left out."""
    order = _ORDERS.get(block[:4])
    if order is None:
        return {}
    found: dict[str, str] = {}
    directories = [int.from_bytes(block[4:8], "little" if order == "<" else "big")]
    for start in directories:
        for tag, kind, value in _entries(block, order, start):
            if tag == _EXIF_DIRECTORY and len(directories) == 1 and kind == _LONG and len(value) == 4:
                directories.append(struct.unpack(order + "I", value)[0])
            elif tag in _MAIN_TEXTS and kind == _ASCII:
                found.setdefault(_MAIN_TEXTS[tag], _readable(value))
            elif tag in _WINDOWS_TEXTS and kind == _BYTE:
                found.setdefault(_WINDOWS_TEXTS[tag], value.decode("utf-16-le", "replace").rstrip("\0"))
            elif tag == _USER_COMMENT and kind in (_UNDEFINED, _ASCII, _BYTE):
                found.setdefault("UserComment", _comment(value, order))
    return {name: text for name, text in found.items() if text}


def _entries(block: bytes, order: str, start: int) -> Iterator[tuple[int, int, bytes]]:
    """Iterate over the directory at an offset: tag, type and value."""
    try:
        count = min(_MAX_ENTRIES, struct.unpack_from(order + "H", block, start)[0])
        for entry in range(start + 2, start + 2 + 12 * count, 12):
            tag, kind, length = struct.unpack_from(order + "HHI", block, entry)
            size = length * {_LONG: 4}.get(kind, 1)
            place = entry + 8 if size <= 4 else struct.unpack_from(order + "I", block, entry + 8)[0]
            if kind in (_UNDEFINED, _LONG, _ASCII, _BYTE) and size <= MAX_TEXT_BYTES:
                yield tag, kind, block[place : place + size]
    except struct.error:  # cut short: what came before is valid
        return


def _readable(value: bytes) -> str:
    value = value.rstrip(b"\0 ")
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError:
        return value.decode("latin-1")


def _comment(value: bytes, order: str) -> str:
    prefix, text = value[:8], value[8:]
    if prefix == _UNICODE:
        return _utf_16(text, order).rstrip("\0")
    if prefix in (b"ASCII\0\0\0", bytes(8)):
        return _readable(text)
    return _readable(value)


def _utf_16(text: bytes, order: str) -> str:
    """Return a text in the order of bytes that its block has, or in the other one.

    In blocks with the lower byte first some programs write texts with the higher one first, as all do in the
    others. Where a text is mostly of one alphabet, the higher bytes of its characters vary least.
    """
    if order == "<" and text.startswith((b"\xff\xfe", b"\xfe\xff")):
        return text.decode("utf-16", "replace")
    sample = text[:2000]
    big = order == ">" or len(set(sample[::2])) < len(set(sample[1::2]))
    return text.decode("utf-16-be" if big else "utf-16-le", "replace")
