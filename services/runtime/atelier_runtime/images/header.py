"""The format and size of an image file, from its header: nothing is decoded."""

from __future__ import annotations

import struct
from itertools import islice

from atelier_runtime.images import jpeg, metadata, png, structure, webp
from atelier_runtime.images.picture import Format, ImageFault
from atelier_runtime.sizes import Size

_MOST_PARTS = 2_000  # more than `structure` lets through
_MOST_PNG_CHUNKS = structure.MAX_PIXEL_CHUNKS + structure.MAX_CHUNKS
_START_OF_SCAN = 0xDA


def sniffed_format(data: bytes) -> Format | None:
    """Return the format that a file begins as; None if it is of another."""
    if data.startswith(png.SIGNATURE):
        return "png"
    if data.startswith(jpeg.START):
        return "jpeg"
    return "webp" if webp.is_webp(data) else None


def stored_size(data: bytes) -> Size | None:
    """Return width and height as a PNG, JPEG or WebP file stores them, its orientation not applied.

    None if that cannot be read: whoever decodes the file says why. Takes less than a few milliseconds.
    """
    try:
        if data.startswith(png.SIGNATURE):
            return Size(*png.size(data))
        if data.startswith(jpeg.START):
            frames = (jpeg.frame_of(data, part) for part in islice(jpeg.segments(data), _MOST_PARTS))
            return next((Size(frame.width, frame.height) for frame in frames if frame is not None), None)
        if webp.is_webp(data):
            sizes = (webp.size_in(data, *chunk) for chunk in islice(webp.chunks(data), _MOST_PARTS))
            return next((size for size in sizes if size is not None), None)
    except (ImageFault, struct.error):
        pass
    return None


def displayed_size(data: bytes) -> Size | None:
    """Return width and height as programs show a PNG, JPEG or WebP file: its EXIF's orientation applied.

    None if that cannot be read. Takes some milliseconds at most, for a PNG of many chunks.
    """
    size = stored_size(data)
    if size is None:
        return None
    orientation, _ = metadata.normalize_orientation(metadata.without_prefix(_exif_of(data)))
    return Size(size.height, size.width) if (orientation or 1) >= 5 else size


def _exif_of(data: bytes) -> bytes:
    """Return the first EXIF block of a file whose size could be read; empty if it has none."""
    if data.startswith(png.SIGNATURE):
        chunks = islice(png.iterate_chunks(data), _MOST_PNG_CHUNKS)
        return next((data[start:end] for kind, start, end in chunks if kind == b"eXIf"), b"")
    if data.startswith(jpeg.START):
        for part in islice(jpeg.segments(data), _MOST_PARTS):
            if part.kind == _START_OF_SCAN:
                break
            if part.kind == jpeg.APP1 and data.startswith(jpeg.EXIF_PREFIX, part.start):
                return data[part.start : part.end]
        return b""
    found = (
        data[start:end] for kind, start, end in islice(webp.chunks(data), _MOST_PARTS) if kind == b"EXIF"
    )
    return next(found, b"")
