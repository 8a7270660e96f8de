"""Reads a PNG's pixels, 8 and 16 bits.

Gray, RGB and RGBA that are not interlaced are unpacked by ISA-L, band by band, in a thread, while libspng
reverses the filters of the band before; it gets each band as a file of its own that is not compressed. Of the
rest Pillow reads 8 bits; it would truncate 16 bits to 8, so OpenCV reads those. See
docs/decisions/png-writer.md.
"""

from __future__ import annotations

import struct
import zlib
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import cast

import numpy as np
import pyspng
from isal import igzip_lib
from numpy.typing import NDArray

from atelier_runtime.images import png
from atelier_runtime.images.picture import ImageFault, PixelArray

Pixels = tuple[PixelArray, PixelArray | None]
"""Colors (H, W, 3), gray repeated in three channels, and alpha (H, W) or None."""

_CHANNELS = {0: 1, 2: 3, 6: 4}  # by color type, of those that libspng returns as they are
_ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
_BAND_BYTES = 2**19
_PACKED_BYTES = 2**19  # in small pieces, unpacking would wait for libspng, which keeps the GIL, after each
_STORED_BYTES = 65_535  # of an uncompressed block of deflate
_ZLIB_HEADER = b"\x78\x01"
_IsalError = cast(type[Exception], igzip_lib.IsalError)  # its stubs call it an instance
_MISSING = "cannot be decoded: the PNG file is cut short (truncated), pixels are missing"


def read(data: bytes, chunks: png.Chunks) -> Pixels | None:
    """Return the pixels; None for a kind of file that is left to `read_16_bit` or Pillow.

    Raises `ImageFault` if pixels are missing, and `ValueError` if they are corrupt.
    """
    width, _ = png.size(data)
    channels = _CHANNELS.get(chunks.color_type, 0)
    row_bytes = 1 + width * channels * chunks.depth // 8
    is_plain = channels > 0 and chunks.depth in (8, 16) and not chunks.is_interlaced
    has_transparent_color = b"tRNS" in chunks.first and channels < 4
    if not is_plain or row_bytes > _BAND_BYTES or (has_transparent_color and chunks.depth == 8):
        return None
    with ThreadPoolExecutor(1) as ahead:
        # It starts before the pixels' memory is taken: starting one without memory can wait forever.
        ahead.submit(int).result()
        return _read(data, chunks, row_bytes, channels, ahead)


def _read(
    data: bytes, chunks: png.Chunks, row_bytes: int, channels: int, ahead: ThreadPoolExecutor
) -> Pixels:
    width, height = png.size(data)
    dtype = np.uint8 if chunks.depth == 8 else np.uint16
    rgb = np.empty((height, width, 3), dtype)
    alpha = np.empty((height, width), dtype) if channels == 4 else None
    top = 0
    for pixels in _bands(data, row_bytes, width, height, ahead):
        bottom = top + len(pixels)
        if pixels.shape[2] == channels == 3:
            rgb[top:bottom] = pixels
        else:  # numpy copies one channel of all pixels five times as fast as some channels of each
            for channel in range(3):
                rgb[top:bottom, :, channel] = pixels[..., min(channel, channels - 1)]
        if alpha is not None:
            alpha[top:bottom] = pixels[..., 3]
        top = bottom
    return rgb, _keyed_alpha(rgb, chunks) if alpha is None else alpha


def _bands(
    data: bytes, row_bytes: int, width: int, height: int, ahead: ThreadPoolExecutor
) -> Iterator[PixelArray]:
    """Iterate over bands of rows, (H, W, C); libspng may return more channels than the file has."""
    rows = _BAND_BYTES // row_bytes
    sizes = (min(rows, height - top) * row_bytes for top in range(0, height, rows))
    unpacked = _Unpacked(data)
    depth_and_kind = data[24:26]
    above = bytes(row_bytes)
    # Two: libspng keeps the GIL, without which the thread could not start on a band given only then.
    bands = deque(ahead.submit(unpacked.take, size) for size in islice(sizes, 2))
    while bands:
        filtered = bands.popleft().result()
        bands += [ahead.submit(unpacked.take, size) for size in islice(sizes, 1)]
        # The filters of the first row refer to the one above it: it comes first, unfiltered.
        file = _stored(width, depth_and_kind, row_bytes, above + filtered)
        try:
            pixels = np.atleast_3d(pyspng.load(file))
        except RuntimeError as error:
            raise ValueError(str(error)) from None
        above = _as_row(pixels[-1], row_bytes)
        yield pixels[1:]
    unpacked.finish()


def _as_row(pixels: PixelArray, row_bytes: int) -> bytes:
    """Return a row as the file has it without a filter."""
    big_endian = pixels.astype(pixels.dtype.newbyteorder(">"))
    channels = (row_bytes - 1) // (len(pixels) * pixels.itemsize)
    return b"\0" + big_endian[:, :channels].tobytes()


def _stored(width: int, depth_and_kind: bytes, row_bytes: int, rows: bytes) -> bytes:
    """Return a file with these rows that is not compressed, for libspng, which ignores all checksums here."""
    starts = range(0, len(rows), _STORED_BYTES)
    view = memoryview(rows)
    pieces: list[bytes | memoryview] = [_ZLIB_HEADER]
    for start in starts:
        block = view[start : start + _STORED_BYTES]
        pieces += [struct.pack("<?HH", start == starts[-1], len(block), 0xFFFF - len(block)), block]
    checksum = bytes(4)
    size = len(rows) + 5 * len(starts) + len(_ZLIB_HEADER) + len(checksum)
    header = struct.pack(">II2sBBB", width, len(rows) // row_bytes, depth_and_kind, 0, 0, 0)
    start_of_pixels = struct.pack(">I4s", size, b"IDAT")
    end = struct.pack(">I4s", 0, b"IEND")
    return b"".join(
        [
            *(png.SIGNATURE, struct.pack(">I4s", len(header), b"IHDR"), header, checksum),
            *(start_of_pixels, *pieces, checksum, checksum),
            *(end, checksum),
        ]
    )


class _Unpacked:
    """The decompressed pixels of a file, in the order of the file."""

    def __init__(self, data: bytes) -> None:
        self._packed = _packed(data)
        self._inflate = igzip_lib.IgzipDecompressor(igzip_lib.DECOMP_ZLIB)

    def take(self, count: int) -> bytes:
        """Return the next bytes. Raises `ImageFault` if there are fewer, `ValueError` if they are corrupt."""
        pieces = []
        while count > 0:
            piece = self._next(count)
            if piece is None:
                raise ImageFault(_MISSING)
            pieces.append(piece)
            count -= len(piece)
        return b"".join(pieces)

    def finish(self) -> None:
        """Verify the checksum if it is next. Raises `ValueError` if it is wrong."""
        while self._next(1) == b"":
            pass

    def _next(self, count: int) -> bytes | None:
        """Return at most so many bytes, perhaps none; None at the end."""
        packed = b""
        if self._inflate.eof:
            return None
        if self._inflate.needs_input:
            packed = next(self._packed, b"")
            if not packed:
                return None
        try:
            return self._inflate.decompress(packed, count)
        except _IsalError as error:
            raise ValueError(str(error)) from None


def _packed(data: bytes) -> Iterator[bytes]:
    """Iterate over the contents of the pixels' chunks, in pieces that take few calls to unpack."""
    view = memoryview(data)
    pieces: list[memoryview] = []
    size = 0
    for kind, start, end in png.iterate_chunks(data):
        if kind != b"IDAT":
            continue
        for first in range(start, end, _PACKED_BYTES):
            pieces.append(view[first : min(first + _PACKED_BYTES, end)])
            size += len(pieces[-1])
            if size >= _PACKED_BYTES:
                yield b"".join(pieces)
                pieces, size = [], 0
    if size > 0:
        yield b"".join(pieces)


def check_pixels(data: bytes, chunks: png.Chunks) -> None:
    """Raise `ImageFault` if there are fewer pixels than the header says; Pillow leaves the rest black.

    Costs unpacking them once more.
    """
    width, height = png.size(data)
    bits = chunks.depth * {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}.get(chunks.color_type, 0)
    passes = _ADAM7 if chunks.is_interlaced else ((0, 0, 1, 1),)
    missing = 0
    for left, top, across, down in passes:
        columns, rows = -(-(width - left) // across), -(-(height - top) // down)
        if columns > 0 and rows > 0:
            missing += rows * (1 + (columns * bits + 7) // 8)
    inflate = zlib.decompressobj()
    for kind, start, end in png.iterate_chunks(data):
        packed = data[start:end] if kind == b"IDAT" else b""
        while packed and missing > 0:
            missing -= len(inflate.decompress(packed, _BAND_BYTES))
            packed = inflate.unconsumed_tail
    if missing > 0:
        raise ImageFault(_MISSING)


def read_16_bit(data: bytes, chunks: png.Chunks) -> tuple[NDArray[np.uint16], NDArray[np.uint16] | None]:
    """Return colors (H, W, 3) and alpha (H, W) or None; gray is repeated in three channels.

    Raises `ValueError` for a corrupt file, `ImageFault` where there is no OpenCV.
    """
    try:
        import cv2
    except ImportError:  # only the restorer's package depends on it
        raise ImageFault(
            "has 16 bits per channel and is interlaced, or has very long rows, which is not read here"
        ) from None

    # Pixel chunks only: OpenCV then neither warns about a profile nor interprets a transparent color itself.
    file = np.frombuffer(png.without_metadata(data, chunks, palette=False), np.uint8)
    has_alpha = chunks.color_type in (4, 6)
    mode = cv2.IMREAD_UNCHANGED if has_alpha else cv2.IMREAD_COLOR_RGB | cv2.IMREAD_ANYDEPTH
    try:
        pixels = cv2.imdecode(file, mode)
    except cv2.error as error:
        if error.code == cv2.Error.StsNoMem:
            raise MemoryError from error
        raise ValueError("OpenCV cannot decode the file") from error
    finally:
        del file
    if pixels is None or pixels.dtype != np.uint16 or pixels.shape[2:] != (4 if has_alpha else 3,):
        raise ValueError("OpenCV cannot decode the file")
    samples = np.asarray(pixels, np.uint16)
    if has_alpha:
        return np.asarray(cv2.cvtColor(samples, cv2.COLOR_BGRA2RGB), np.uint16), samples[..., 3].copy()
    return samples, _keyed_alpha(samples, chunks)


def _keyed_alpha(rgb: NDArray[np.uint16], chunks: png.Chunks) -> NDArray[np.uint16] | None:
    """Return the alpha of a file that declares one color transparent."""
    channels = {0: 1, 2: 3}.get(chunks.color_type, 0)
    key = chunks.first.get(b"tRNS", b"")
    if not channels or len(key) != 2 * channels:
        return None
    transparent = np.all(rgb[..., :channels] == np.frombuffer(key, ">u2"), axis=2)
    return np.where(transparent, np.uint16(0), np.uint16(65535))
