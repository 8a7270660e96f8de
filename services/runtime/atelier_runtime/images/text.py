"""The texts of PNG files, and the comments of JPEG files that correspond to some of them.

A text is kept as its chunk, neither unpacked nor converted, unless another format needs what it contains.
"""

from __future__ import annotations

import re
import zlib

COMMENT = b"Comment"
KINDS = (b"tEXt", b"zTXt", b"iTXt")

_LIMIT_BYTES = 8 * 2**20
_COLUMNS = 72
_PROFILE = re.compile(rb"\n[^\n]{1,79}\n *([0-9]{1,8})\n([0-9a-fA-F\s]*)")


def keyword(data: bytes) -> bytes:
    """Return the keyword of a text chunk."""
    return data.partition(b"\0")[0]


def inflate(packed: bytes) -> bytes | None:
    """Unpack; None if the data is corrupt or larger than any text or profile should be."""
    decompressor = zlib.decompressobj()
    try:
        data = decompressor.decompress(packed, _LIMIT_BYTES)
    except zlib.error:
        return None
    return data if decompressor.eof else None


def content(kind: bytes, data: bytes) -> bytes | None:
    """Return what a text chunk says, iTXt in UTF-8 and the others in Latin-1; None if it is corrupt."""
    _, separator, rest = data.partition(b"\0")
    if kind == b"tEXt":
        return rest if separator else None
    if kind == b"zTXt":
        return inflate(rest[1:])
    fields = rest[2:].split(b"\0", 2)
    if len(fields) != 3:
        return None
    return fields[2] if rest[0] == 0 else inflate(fields[2])


def raw_profile(kind: bytes, data: bytes) -> bytes | None:
    """Return the bytes that ImageMagick writes as hexadecimal text; None if it is something else."""
    written = content(kind, data)
    match = _PROFILE.fullmatch(written.rstrip(b"\0")) if written else None
    if match is None:
        return None
    try:
        return bytes.fromhex(match[2].decode("ascii"))
    except ValueError:
        return None


def raw_profile_chunk(name: bytes, profile: bytes) -> tuple[bytes, bytes]:
    """Return a chunk with the bytes of a profile in hexadecimal; `name` is the end of its keyword."""
    digits = profile.hex().encode()
    lines = [digits[start : start + _COLUMNS] for start in range(0, len(digits), _COLUMNS)]
    written = b"\n%s\n%8d\n%s\n" % (name, len(profile), b"\n".join(lines))
    return b"zTXt", b"Raw profile type " + name + b"\0\0" + zlib.compress(written)


def comment_chunk(comment: bytes) -> tuple[bytes, bytes] | None:
    """Return the chunk of a JPEG's comment; None if a text cannot contain it.

    Comments have no encoding: those that are UTF-8 are written as UTF-8, others as Latin-1.
    """
    comment = comment.rstrip(b"\0")
    if b"\0" in comment:
        return None
    try:
        comment.decode("utf-8")
    except UnicodeDecodeError:
        return b"tEXt", COMMENT + b"\0" + comment
    if comment.isascii():
        return b"tEXt", COMMENT + b"\0" + comment
    return b"iTXt", COMMENT + b"\0\0\0\0\0" + comment


def as_comment(kind: bytes, data: bytes) -> bytes | None:
    """Return the comment in a text chunk, in UTF-8; None if the chunk is another text."""
    written = content(kind, data) if keyword(data) == COMMENT else None
    if written is None or kind == b"iTXt":
        return written
    return written.decode("latin-1").encode()
