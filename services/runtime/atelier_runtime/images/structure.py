"""Counts the parts of a file before anything decodes it: a few bytes each can cost a decoder milliseconds.

A scan of a progressive JPEG is 75 bytes and takes 50 ms at 49 megapixels; a compressed text of 9 kB unpacks
to 8 MiB; Pillow reads segments, chunks and fill bytes in Python. The limits are several times what cameras,
editors and optimizers write.
"""

from __future__ import annotations

from itertools import islice

from atelier_runtime.images import jpeg, png, webp

MAX_SCANS = 50
"""Of a JPEG; libjpeg's own script makes 10, optimizers up to 13."""
MAX_SEGMENTS = 2_000
"""Of a JPEG besides scans; an ICC profile may have 255, extended XMP some hundreds."""
MAX_FILL_BYTES = 2**16
"""Between a JPEG's segments."""
MAX_CHUNKS = 2_000
"""Of a PNG besides those of its pixels, and of a WebP."""
MAX_COMPRESSED_CHUNKS = 50
"""Of a PNG: texts and profiles, each of which may unpack to 8 MiB."""
MAX_PIXEL_CHUNKS = 200_000
"""Of a PNG; 100 MB in chunks of 512 bytes."""

MAX_EXIF_SEGMENTS = 10
"""Of a JPEG: Pillow appends each to the last."""
MAX_METADATA_BYTES = 2**25
"""Of everything but pixels. Depth maps in a JPEG's XMP take some megabytes."""

_START_OF_SCAN, _EXIF_SEGMENT = 0xDA, 0xE1
_COMPRESSED = frozenset({b"iCCP", b"zTXt", b"iTXt"})


def problem_of(data: bytes) -> str | None:
    """Return which limit a file exceeds; None if it exceeds none.

    Files of other formats, and those that are cut off or corrupt, pass: the decoder reports them.
    """
    if data.startswith(jpeg.START):
        return _jpeg_problem(data)
    if data.startswith(png.SIGNATURE):
        return _png_problem(data)
    if webp.is_webp(data) and next(islice(webp.chunks(data), MAX_CHUNKS, None), None) is not None:
        return f"has too many chunks; the limit is {MAX_CHUNKS}"
    return None


def _jpeg_problem(data: bytes) -> str | None:
    scans = segments = exif_segments = metadata = fill = 0
    position = len(jpeg.START)
    for segment in jpeg.segments(data):
        if not scans:
            fill += segment.marker - position
        position = segment.end
        if segment.kind == jpeg.END:
            break
        exif_segments += segment.kind == _EXIF_SEGMENT and data.startswith(b"Exif", segment.start)
        if segment.kind == _START_OF_SCAN:
            scans += 1
        else:
            segments += 1
            metadata += segment.end - segment.marker - 2
        if scans > MAX_SCANS:
            return f"has too many scans; the limit is {MAX_SCANS}"
        if segments > MAX_SEGMENTS:
            return f"has too many segments; the limit is {MAX_SEGMENTS}"
        if exif_segments > MAX_EXIF_SEGMENTS:
            return f"has too many EXIF segments; the limit is {MAX_EXIF_SEGMENTS}"
        if metadata > MAX_METADATA_BYTES:
            return f"has too many bytes besides its pixels; the limit is {MAX_METADATA_BYTES}"
        if fill > MAX_FILL_BYTES:
            return f"has too many bytes between its segments; the limit is {MAX_FILL_BYTES}"
    return None


def _png_problem(data: bytes) -> str | None:
    chunks = compressed = pixel_chunks = metadata = 0
    for kind, start, end in png.iterate_chunks(data):
        if kind == b"IDAT":
            pixel_chunks += 1
        else:
            chunks += 1
            metadata += end - start
            compressed += kind in _COMPRESSED
        if chunks > MAX_CHUNKS:
            return f"has too many chunks besides those of its pixels; the limit is {MAX_CHUNKS}"
        if compressed > MAX_COMPRESSED_CHUNKS:
            return f"has too many compressed texts and profiles; the limit is {MAX_COMPRESSED_CHUNKS}"
        if metadata > MAX_METADATA_BYTES:
            return f"has too many bytes besides its pixels; the limit is {MAX_METADATA_BYTES}"
        if pixel_chunks > MAX_PIXEL_CHUNKS:
            return f"has too many chunks of pixels; the limit is {MAX_PIXEL_CHUNKS}"
    return None
