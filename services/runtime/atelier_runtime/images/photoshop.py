"""Photoshop's image resources: IPTC (caption, author, copyright) and more, as JPEG and PNG files store them.

A resource is `8BIM`, an ID, a Pascal string and data, both padded to an even length.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

JPEG_PREFIX = b"Photoshop 3.0\0"
PNG_KEYWORDS = (b"Raw profile type iptc", b"Raw profile type 8bim")
"""Of the text chunks in which ImageMagick and ExifTool keep resources, in hexadecimal."""

_SIGNATURE = b"8BIM"
_IPTC = 0x0404
_THUMBNAILS = (0x0409, 0x040C)  # of the old image
_COPIES = (0x0422, 0x0423, 0x0424)  # of EXIF and XMP, which are kept where they belong
_GEOMETRY = (0x0408, 0x041A, *range(0x07D0, 0x0BB7))  # guides, slices and paths


def kept(resources: bytes, *, turned: bool) -> bytes:
    """Return the resources without thumbnails and, if the image was turned, what lies elsewhere then.

    Resources that cannot be read are kept as they are.
    """
    unwanted = {*_THUMBNAILS, *_COPIES, *(_GEOMETRY if turned else ())}
    pieces, position = [], 0
    for number, start, end in _resources(resources):
        if number not in unwanted:
            pieces.append(resources[position:end])
        else:
            pieces.append(resources[position:start])
        position = end
    return b"".join([*pieces, resources[position:]]) if pieces else resources


def from_profile(data: bytes) -> bytes:
    """Return the resources in the data of a PNG's raw profile, which may be IPTC alone."""
    if not data.startswith(b"\x1c"):
        return data
    padding = b"\0" * (len(data) % 2)
    return _SIGNATURE + struct.pack(">HHI", _IPTC, 0, len(data)) + data + padding


def _resources(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Iterate over the resources: ID, start and end."""
    start = 0
    while start + 12 <= len(data):
        number, name_bytes = struct.unpack_from(">HB", data, start + 4)
        name_end = start + 6 + (1 + name_bytes + 1) // 2 * 2
        if name_end + 4 > len(data):
            return
        length = struct.unpack_from(">I", data, name_end)[0]
        end = name_end + 4 + length + length % 2
        if end > len(data) + 1:
            return
        yield number, start, min(end, len(data))
        start = end
