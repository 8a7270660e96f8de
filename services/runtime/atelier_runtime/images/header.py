"""The format and size of an image file, from its header: nothing is decoded."""

from __future__ import annotations

import struct
from itertools import islice

from atelier_runtime.images import jpeg, png, webp
from atelier_runtime.images.picture import Format, ImageFault
from atelier_runtime.sizes import Size

_MOST_PARTS = 2_000  # more than `structure` lets through


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
