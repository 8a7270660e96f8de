"""One PNG encoder for 8 and 16 bits; Pillow writes no more than 8.

It filters and compresses bands of rows on several threads; bench/encode.py has the figures behind its
settings.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from isal import isal_zlib
from numpy.typing import NDArray

from atelier_runtime.images import png
from atelier_runtime.images.picture import PixelArray
from atelier_runtime.processors import usable_processors

_AVERAGE = 3  # the filter type: each byte minus the mean of those to the left and above
_BAND_BYTES = 2**20
_ZLIB_HEADER = b"\x78\x01"
_SHORTEST_WINDOW, _LONGEST_WINDOW = 9, 15  # as exponents of 2
_PHOTO = 0.25
"""A band that shrinks to less than this is no photo and gets the longest window too.

Of a filtered photo only runs and frequent values are left: matches far back would make it 7 % larger."""
_ADLER = 65521
_THREADS = 8


def write(
    rgb: PixelArray,
    alpha: PixelArray | None,
    *,
    gray: bool,
    before_pixels: Iterable[tuple[bytes, bytes]] = (),
) -> bytes:
    """Write pixels (H, W, 3), only their first channel if `gray`, and alpha (H, W) of the same depth.

    `before_pixels`: further chunks, as (type, data). The output does not depend on the number of threads.
    """
    height, width = rgb.shape[:2]
    color_type = (0 if gray else 2) + (0 if alpha is None else 4)
    header = struct.pack(">IIBBBBB", width, height, 8 * rgb.itemsize, color_type, 0, 0, 0)
    row_bytes = 1 + width * rgb.itemsize * ((1 if gray else 3) + (alpha is not None))
    rows = max(1, _BAND_BYTES // row_bytes)
    starts = range(0, height, rows)

    def band(first: int) -> tuple[bytes, int, int]:
        last = min(first + rows, height)
        filtered = _filter_rows(rgb, alpha, gray, first, last).data
        packed = _deflate(filtered, _SHORTEST_WINDOW, last == height)
        if len(packed) < _PHOTO * filtered.nbytes:
            packed = min(packed, _deflate(filtered, _LONGEST_WINDOW, last == height), key=len)
        return packed, isal_zlib.adler32(filtered), filtered.nbytes

    if len(starts) == 1:
        bands = [band(0)]
    else:
        with ThreadPoolExecutor(min(_THREADS, len(starts), usable_processors())) as pool:
            bands = list(pool.map(band, starts))
    checksum = 1
    for _, part, length in bands:
        checksum = _combine_adler(checksum, part, length)
    parts = [packed for packed, _, _ in bands]
    parts[0] = _ZLIB_HEADER + parts[0]
    parts[-1] += struct.pack(">I", checksum)
    pixels = [(b"IDAT", part) for part in parts]
    chunks = [(b"IHDR", header), *before_pixels, *pixels, (b"IEND", b"")]
    return png.SIGNATURE + b"".join(piece for kind, data in chunks for piece in png.chunk(kind, data))


def profile_chunk(icc: bytes) -> tuple[bytes, bytes]:
    """Return the chunk of an ICC profile."""
    return b"iCCP", b"ICC Profile\0\0" + zlib.compress(icc)


def xmp_chunk(packet: bytes) -> tuple[bytes, bytes]:
    """Return the chunk of an XMP packet: uncompressed text without a language."""
    return b"iTXt", png.XMP_KEYWORD + b"\0\0\0\0\0" + packet


def resolution_chunk(dpi: tuple[float, float]) -> tuple[bytes, bytes] | None:
    """Return the chunk of a resolution, rounded to px per meter; None if it is out of its range."""
    x, y = (round(value / 0.0254) for value in dpi)
    return (b"pHYs", struct.pack(">IIB", x, y, 1)) if min(x, y) >= 1 and max(x, y) < 2**31 else None


def _deflate(rows: memoryview, window_bits: int, is_last: bool) -> bytes:
    deflate = isal_zlib.compressobj(1, isal_zlib.DEFLATED, -window_bits)
    return deflate.compress(rows) + deflate.flush(isal_zlib.Z_FINISH if is_last else isal_zlib.Z_SYNC_FLUSH)


def _filter_rows(
    rgb: PixelArray, alpha: PixelArray | None, gray: bool, first: int, last: int
) -> NDArray[np.uint8]:
    """Return rows ready for compression: the filter type, then big-endian bytes minus their prediction."""
    top = max(0, first - 1)
    big_endian = _interleaved(
        rgb[top:last, :, :1] if gray else rgb[top:last], None if alpha is None else alpha[top:last]
    )
    pixel_bytes = big_endian.shape[2] * big_endian.itemsize
    samples = big_endian.view(np.uint8).reshape(last - top, -1)
    if first == 0:  # the row above the first is all zeros
        samples = np.concatenate([np.zeros_like(samples[:1]), samples])
    above, current = samples[:-1], samples[1:]
    left = np.zeros_like(current)
    left[:, pixel_bytes:] = current[:, :-pixel_bytes]
    mean = (left & above) + ((left ^ above) >> 1)  # (left + above) // 2 without a ninth bit
    result = np.empty((len(current), current.shape[1] + 1), np.uint8)
    result[:, 0] = _AVERAGE
    np.subtract(current, mean, out=result[:, 1:])
    return result


def _interleaved(colors: PixelArray, alpha: PixelArray | None) -> PixelArray:
    """Return colors (H, W, C) and alpha (H, W) as PNG stores them: big-endian, alpha last in each pixel."""
    dtype = colors.dtype.newbyteorder(">")
    if alpha is None:
        return np.ascontiguousarray(colors, dtype)
    count = colors.shape[2]
    result = np.empty((*alpha.shape, count + 1), dtype)
    for channel in range(count):  # five times as fast as np.concatenate
        result[..., channel] = colors[..., channel]
    result[..., count] = alpha
    return result


def _combine_adler(first: int, second: int, second_length: int) -> int:
    """Return the Adler-32 of two concatenated parts from the checksums of both (RFC 1950, section 9)."""
    first_low, first_high = first & 0xFFFF, first >> 16
    second_low, second_high = second & 0xFFFF, second >> 16
    high = (first_high + second_high + second_length * (first_low - 1)) % _ADLER
    return high << 16 | (first_low + second_low - 1) % _ADLER
