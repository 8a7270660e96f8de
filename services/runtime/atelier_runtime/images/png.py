"""PNG: chunks, decoding of 16-bit pixels by OpenCV, and one encoder for 8 and 16 bits.

Pillow reads 8-bit files, but truncates 16 bits to 8 and writes no more than 8. The encoder filters and
compresses bands of rows on several threads; bench/encode.py has the figures behind its settings.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from atelier_runtime.images import text
from atelier_runtime.images.picture import ImageFault, PixelArray
from atelier_runtime.processors import usable_processors

SIGNATURE = b"\x89PNG\r\n\x1a\n"
COLOR_CHUNKS = {b"cICP": 4, b"mDCV": 24, b"cLLI": 8, b"sRGB": 1, b"gAMA": 4, b"cHRM": 32}
"""Those that describe the color space besides an ICC profile, and how many bytes they have."""
XMP_KEYWORD = b"XML:com.adobe.xmp"
LARGEST_16_BIT_SIDE_PX = 1_000_000
"""libpng's own limit; OpenCV's is a little above."""

_KEPT = frozenset({b"IHDR", b"PLTE", b"IDAT", b"tRNS", b"eXIf", b"iCCP", b"pHYs", b"IEND", *COLOR_CHUNKS})
_ABOUT_THE_OLD_FILE = frozenset(  # its encoding, background, time of writing; fcTL: that of its only frame
    {b"sBIT", b"bKGD", b"hIST", b"sPLT", b"tIME", b"acTL", b"fcTL", b"iDOT", b"vpAg"}
)
_CRITICAL = frozenset({b"IHDR", b"PLTE", b"IDAT", b"IEND"})
_HEADER_BYTES = 13
_HEADER_START = struct.pack(">I4s", _HEADER_BYTES, b"IHDR")
_ANCILLARY = 0x20  # of a type's first byte: decoders can do without
_NAMED_FAULTS = 5
_ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
_AVERAGE = 3  # the filter type: each byte minus the mean of those to the left and above
_KEY_BYTES = {0: (2,), 2: (6,), 3: range(1, 257)}  # of tRNS, by color type
_BAND_BYTES = 2**20
_ZLIB_HEADER = b"\x78\x01"
_ADLER = 65521
_THREADS = 8


@dataclass
class Chunks:
    """What a file contains besides its pixels.

    `first`: the first chunk of each type that is kept or needed. `texts`: all text chunks but XMP.
    `faults`: chunks with wrong checksums, as sentences. `dropped`: names of what is not kept. `trailer`: what
    follows the image.
    """

    first: dict[bytes, bytes] = field(default_factory=dict)
    texts: list[tuple[bytes, bytes]] = field(default_factory=list)
    xmp: bytes | None = None
    is_animated: bool = False
    faults: list[str] = field(default_factory=list)
    dropped: list[str] = field(default_factory=list)
    trailer: bytes = b""

    @property
    def depth(self) -> int:
        """Bits per sample."""
        return self.first[b"IHDR"][8]

    @property
    def color_type(self) -> int:
        """0 gray, 2 RGB, 3 palette; 4 and 6: gray and RGB with alpha."""
        return self.first[b"IHDR"][9]

    @property
    def color(self) -> tuple[tuple[bytes, bytes], ...]:
        """The chunks that define the color space, except for the ICC profile."""
        return tuple(
            (kind, self.first[kind])
            for kind, length in COLOR_CHUNKS.items()
            if len(self.first.get(kind, b"")) == length
        )

    @property
    def profile(self) -> bytes | None:
        """The ICC profile; None if there is none or it is corrupt."""
        _, separator, rest = self.first.get(b"iCCP", b"").partition(b"\0")
        return text.inflate(rest[1:]) if separator else None

    @property
    def resolution(self) -> tuple[float, float] | None:
        """The resolution in dpi; None if it has no unit."""
        data = self.first.get(b"pHYs", b"")
        if len(data) != 9 or data[8] != 1:
            return None
        x, y = struct.unpack_from(">II", data)
        return x * 0.0254, y * 0.0254

    @property
    def pixel_shape(self) -> tuple[int, int]:
        """Width and height of a pixel, as far as their ratio goes."""
        data = self.first.get(b"pHYs", b"")
        x, y = struct.unpack_from(">II", data) if len(data) == 9 and data[8] == 0 else (1, 1)
        return y, x


def size(data: bytes) -> tuple[int, int]:
    """Return width and height in px as the header says. Raises `ImageFault` if there is none."""
    start = len(SIGNATURE)
    if len(data) < start + 8 + _HEADER_BYTES:
        raise ImageFault("cannot be decoded: the PNG file is cut short (truncated) within its header")
    if not data.startswith(_HEADER_START, start):
        if data.startswith(b"CgBI", start + 4):
            raise ImageFault("is a PNG as only Apple's devices read it (CgBI); save it as a standard PNG")
        raise ImageFault("cannot be decoded: the PNG file is corrupt, it does not start with its header")
    width, height = struct.unpack_from(">II", data, start + 8)
    return width, height


def read_chunks(data: bytes) -> Chunks:
    """Collect a file's chunks, wherever they are, and verify every checksum.

    A chunk that no decoder needs, and whose checksum is wrong, is left out, as browsers do. Raises
    `ImageFault` if another one's is wrong, or if the end is missing.
    """
    chunks = Chunks()
    kind, end, wrong = b"", 0, 0
    view = memoryview(data)
    for kind, start, end in iterate_chunks(data):
        name = _name(kind)
        is_ancillary = bool(kind[0] & _ANCILLARY)
        if zlib.crc32(view[start - 4 : end]) != int.from_bytes(data[end : end + 4]):
            if not is_ancillary and kind != b"IEND":
                raise ImageFault(f"is damaged: the checksum of its {name} chunk is wrong")
            wrong += 1
            if wrong <= _NAMED_FAULTS:
                left_out = " It was left out." if is_ancillary else ""
                problem = f"the checksum of its {name} chunk is wrong."
                chunks.faults.append(f"The PNG file is damaged: {problem}{left_out}")
            continue
        if not is_ancillary and kind not in _CRITICAL:
            raise ImageFault(f"is a PNG that needs a chunk that is not known, {name}")
        _add_chunk(chunks, kind, data[start:end] if kind != b"IDAT" else b"")
    if wrong > _NAMED_FAULTS:
        chunks.faults.append(f"The checksums of {wrong - _NAMED_FAULTS} further chunks are wrong.")
    if kind != b"IEND":
        raise ImageFault("cannot be decoded: the PNG file is cut short (truncated), its end is missing")
    if b"IDAT" not in chunks.first:
        raise ImageFault("cannot be decoded: the PNG file is corrupt, it has no pixels")
    if b"tRNS" in chunks.first and len(chunks.first[b"tRNS"]) not in _KEY_BYTES.get(chunks.color_type, ()):
        del chunks.first[b"tRNS"]
        chunks.faults.append("The PNG file is damaged: its tRNS chunk has a wrong length. It was left out.")
    chunks.trailer = data[end + 4 :]
    return chunks


def _add_chunk(chunks: Chunks, kind: bytes, content: bytes) -> None:
    if kind in text.KINDS:
        if not text.keyword(content) or b"\0" not in content:
            chunks.dropped.append("a text without a keyword")
        elif text.keyword(content) != XMP_KEYWORD:
            chunks.texts.append((kind, content))
        elif b"XMP" not in chunks.first:
            chunks.first[b"XMP"] = b""  # readable or not: there may be a bomb in each of many
            chunks.xmp = text.content(kind, content)
            if chunks.xmp is None:
                chunks.dropped.append("an XMP packet that cannot be unpacked")
        else:
            chunks.dropped.append("a second XMP packet")
    elif kind == b"acTL" and len(content) == 8:
        chunks.is_animated = chunks.is_animated or struct.unpack(">I", content[:4])[0] > 1
    elif kind == b"fdAT":
        chunks.is_animated = True
    elif kind in _KEPT:
        chunks.first.setdefault(kind, content)
    elif kind == b"caBX":
        chunks.dropped.append("content credentials (C2PA)")
    elif kind not in _ABOUT_THE_OLD_FILE:
        chunks.dropped.append(f"the chunk {_name(kind)}")


def _name(kind: bytes) -> str:
    return kind.decode() if kind.isalpha() else f"0x{kind.hex()}"


def check_pixels(data: bytes, chunks: Chunks) -> None:
    """Raise `ImageFault` if there are fewer pixels than the header says; Pillow leaves the rest black.

    Costs unpacking them once more.
    """
    width, height = size(data)
    bits = chunks.depth * {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}.get(chunks.color_type, 0)
    passes = _ADAM7 if chunks.first[b"IHDR"][12] else ((0, 0, 1, 1),)
    missing = 0
    for left, top, across, down in passes:
        columns, rows = -(-(width - left) // across), -(-(height - top) // down)
        if columns > 0 and rows > 0:
            missing += rows * (1 + (columns * bits + 7) // 8)
    inflate = zlib.decompressobj()
    for kind, start, end in iterate_chunks(data):
        packed = data[start:end] if kind == b"IDAT" else b""
        while packed and missing > 0:
            missing -= len(inflate.decompress(packed, _BAND_BYTES))
            packed = inflate.unconsumed_tail
    if missing > 0:
        raise ImageFault("cannot be decoded: the PNG file is cut short (truncated), pixels are missing")


def without_metadata(data: bytes, chunks: Chunks, *, palette: bool = True) -> bytes:
    """Return the file for a decoder: pixels and, if wanted, palette and transparency, but nothing else."""
    view = memoryview(data)
    pieces: list[bytes | memoryview] = [SIGNATURE]
    for kind, start, end in iterate_chunks(data):
        wanted = kind in (b"IHDR", b"IDAT")
        if palette and kind in (b"PLTE", b"tRNS"):
            wanted = chunks.first.get(kind) == data[start:end]  # else its checksum is wrong
        if wanted:
            pieces.append(view[start - 8 : end + 4])
    return b"".join([*pieces, *_chunk(b"IEND", b"")])


def read_16_bit(data: bytes, chunks: Chunks) -> tuple[NDArray[np.uint16], NDArray[np.uint16] | None]:
    """Return colors (H, W, 3) and alpha (H, W) or None; gray is repeated in three channels.

    Raises `ValueError` for a corrupt file.
    """
    import cv2  # the gateway imports this module but does not have OpenCV

    # Pixel chunks only: OpenCV then neither warns about a profile nor interprets a transparent color itself.
    file = np.frombuffer(without_metadata(data, chunks, palette=False), np.uint8)
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


def _keyed_alpha(rgb: NDArray[np.uint16], chunks: Chunks) -> NDArray[np.uint16] | None:
    """Return the alpha of a file that declares one color transparent."""
    channels = {0: 1, 2: 3}.get(chunks.color_type, 0)
    key = chunks.first.get(b"tRNS", b"")
    if not channels or len(key) != 2 * channels:
        return None
    transparent = np.all(rgb[..., :channels] == np.frombuffer(key, ">u2"), axis=2)
    return np.where(transparent, np.uint16(0), np.uint16(65535))


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
        # A filtered photo has little left to compress but runs and frequent values.
        deflate = zlib.compressobj(1, zlib.DEFLATED, -15, 9, zlib.Z_RLE)
        packed = deflate.compress(filtered)
        packed += deflate.flush(zlib.Z_FINISH if last == height else zlib.Z_SYNC_FLUSH)
        return packed, zlib.adler32(filtered), filtered.nbytes

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
    return SIGNATURE + b"".join(piece for kind, data in chunks for piece in _chunk(kind, data))


def profile_chunk(icc: bytes) -> tuple[bytes, bytes]:
    """Return the chunk of an ICC profile."""
    return b"iCCP", b"ICC Profile\0\0" + zlib.compress(icc)


def xmp_chunk(packet: bytes) -> tuple[bytes, bytes]:
    """Return the chunk of an XMP packet: uncompressed text without a language."""
    return b"iTXt", XMP_KEYWORD + b"\0\0\0\0\0" + packet


def resolution_chunk(dpi: tuple[float, float]) -> tuple[bytes, bytes] | None:
    """Return the chunk of a resolution, rounded to px per meter; None if it is out of its range."""
    x, y = (round(value / 0.0254) for value in dpi)
    return (b"pHYs", struct.pack(">IIB", x, y, 1)) if min(x, y) >= 1 and max(x, y) < 2**31 else None


def _filter_rows(
    rgb: PixelArray, alpha: PixelArray | None, gray: bool, first: int, last: int
) -> NDArray[np.uint8]:
    """Return rows ready for compression: the filter type, then big-endian bytes minus their prediction."""
    top = max(0, first - 1)
    colors = rgb[top:last, :, :1] if gray else rgb[top:last]
    if alpha is not None:
        colors = np.concatenate([colors, alpha[top:last, :, None]], axis=2)
    pixel_bytes = colors.shape[2] * colors.itemsize
    big_endian = np.ascontiguousarray(colors, colors.dtype.newbyteorder(">"))
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


def _combine_adler(first: int, second: int, second_length: int) -> int:
    """Return the Adler-32 of two concatenated parts from the checksums of both (RFC 1950, section 9)."""
    first_low, first_high = first & 0xFFFF, first >> 16
    second_low, second_high = second & 0xFFFF, second >> 16
    high = (first_high + second_high + second_length * (first_low - 1)) % _ADLER
    return high << 16 | (first_low + second_low - 1) % _ADLER


def _chunk(kind: bytes, data: bytes) -> tuple[bytes, ...]:
    checksum = zlib.crc32(data, zlib.crc32(kind))
    return struct.pack(">I", len(data)), kind, data, struct.pack(">I", checksum)


def iterate_chunks(data: bytes) -> Iterable[tuple[bytes, int, int]]:
    """Iterate over a file's chunks: the type, and where the data starts and ends."""
    start = len(SIGNATURE)
    while start + 12 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, start)
        end = start + 8 + length
        if end + 4 > len(data):
            return
        yield kind, start + 8, end
        if kind == b"IEND":  # what follows is not part of the image
            return
        start = end + 4
