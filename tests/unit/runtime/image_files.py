"""Image files for tests, written without the code under test."""

import io
import struct
import zlib
from collections.abc import Sequence

import numpy as np
from PIL import Image

SIGNATURE = b"\x89PNG\r\n\x1a\n"
ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))


def saved(image: Image.Image, file_format: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, file_format, **options)
    return buffer.getvalue()


def opened(data: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(data))
    image.load()
    return image


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def header(width: int, height: int, depth: int, color_type: int, interlaced: bool = False) -> bytes:
    fields = struct.pack(">IIBBBBB", width, height, depth, color_type, 0, 0, interlaced)
    return SIGNATURE + chunk(b"IHDR", fields)


def png_16(
    samples: np.ndarray, *, before: bytes = b"", after: bytes = b"", interlaced: bool = False
) -> bytes:
    """Return samples uint16 (H, W, 1 to 4) as a PNG, its rows unfiltered."""
    height, width, channels = samples.shape
    color_type = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    passes = [samples]
    if interlaced:
        passes = [samples[y::down, x::across] for x, y, across, down in ADAM7]
    rows = [b"\0" + row.astype(">u2").tobytes() for part in passes if part.size for row in part]
    pixels = chunk(b"IDAT", zlib.compress(b"".join(rows)))
    return header(width, height, 16, color_type, interlaced) + before + pixels + after + chunk(b"IEND", b"")


def filtered(samples: np.ndarray, types: Sequence[int]) -> bytes:
    """Return samples (H, W, C) of 8 or 16 bits as a PNG's rows, each filtered by one of the types 0 to 4."""
    height, _, channels = samples.shape
    pixel = channels * samples.itemsize
    big_endian = np.ascontiguousarray(samples, samples.dtype.newbyteorder(">"))
    rows = big_endian.view(np.uint8).reshape(height, -1).astype(np.int16)
    above = np.pad(rows, ((1, 0), (0, 0)))[:-1]
    left, corner = (np.pad(known, ((0, 0), (pixel, 0)))[:, :-pixel] for known in (rows, above))
    sides = np.stack([left, above, corner])
    nearest = np.abs(left + above - corner - sides).argmin(axis=0)  # the first of those that are as near
    paeth = np.take_along_axis(sides, nearest[None], axis=0)[0]
    predicted = np.stack([np.zeros_like(rows), left, above, (left + above) // 2, paeth])
    return b"".join(
        bytes([kind]) + (rows[y] - predicted[kind, y]).astype(np.uint8).tobytes()
        for y, kind in enumerate(types)
    )


def png_of(samples: np.ndarray, stream: bytes, chunk_bytes: int = 8192) -> bytes:
    """Return a PNG of the samples' kind with this stream, compressed already, as its pixels."""
    height, width, channels = samples.shape
    color_type = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    pieces = [stream[start : start + chunk_bytes] for start in range(0, len(stream), chunk_bytes)]
    pixels = b"".join(chunk(b"IDAT", piece) for piece in pieces)
    return header(width, height, 8 * samples.itemsize, color_type) + pixels + chunk(b"IEND", b"")


def png_few_bits(rows: list[bytes], width: int, depth: int, transparent: int) -> bytes:
    """Return packed gray samples of 1, 2 or 4 bits as a PNG, one gray of them transparent."""
    pixels = chunk(b"IDAT", zlib.compress(b"".join(b"\0" + row for row in rows)))
    key = chunk(b"tRNS", struct.pack(">H", transparent))
    return header(width, len(rows), depth, 0) + key + pixels + chunk(b"IEND", b"")


def chunks(data: bytes) -> dict[bytes, bytes]:
    """Return the chunks of a PNG by type; checks their checksums."""
    found, start = {}, len(SIGNATURE)
    while start < len(data):
        length, kind = struct.unpack_from(">I4s", data, start)
        content = data[start + 8 : start + 8 + length]
        assert struct.unpack_from(">I", data, start + 8 + length)[0] == zlib.crc32(kind + content)
        found[kind] = content
        start += 12 + length
    return found


def smooth(height: int = 40, width: int = 60) -> np.ndarray:
    """Return a colorful image (height, width, 3) that lossy formats barely change."""
    y, x = np.mgrid[0:height, 0:width]
    return np.dstack([4 * x, 6 * y, 2 * x + 3 * y]).clip(0, 255).astype(np.uint8)


def noise(height: int, width: int, channels: int, dtype: type = np.uint8, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.integers(0, np.iinfo(dtype).max, (height, width, channels), dtype=dtype, endpoint=True)


# Photos with metadata

PHOTO = Image.fromarray(smooth())
XMP_HEADER = b"http://ns.adobe.com/xap/1.0/\0"


def segment(kind: int, content: bytes) -> bytes:
    """Return a segment of a JPEG."""
    return struct.pack(">BBH", 0xFF, kind, len(content) + 2) + content


def jpeg(*segments: bytes, after: bytes = b"", **options: object) -> bytes:
    """Return the photo as a JPEG that begins with these segments; `after`: what follows its end."""
    file = saved(PHOTO, "JPEG", **options)
    return file[:2] + b"".join(segments) + file[2:] + after


def png(*chunks: tuple[str, bytes]) -> bytes:
    """Return the photo as a PNG with these chunks before its pixels."""
    file = saved(PHOTO, "PNG")
    return file[:33] + b"".join(chunk(kind.encode(), data) for kind, data in chunks) + file[33:]


def packet(properties: str, inside: str = "") -> bytes:
    """Return XMP with these properties, written as attributes, and what is inside of its description."""
    return (
        '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?><x:xmpmeta xmlns:x="adobe:ns:meta/">'
        '<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:Description rdf:about="" '
        'xmlns:dc="http://purl.org/dc/elements/1.1/" xmlns:hdrgm="http://ns.adobe.com/hdr-gain-map/1.0/" '
        'xmlns:GCamera="http://ns.google.com/photos/1.0/camera/" xmlns:tiff="http://ns.adobe.com/tiff/1.0/" '
        'xmlns:Container="http://ns.google.com/photos/1.0/container/" '
        'xmlns:Item="http://ns.google.com/photos/1.0/container/item/" '
        f'xmlns:xmpNote="http://ns.adobe.com/xmp/note/" dc:source="kept" {properties}>{inside}'
        '</rdf:Description></rdf:RDF></x:xmpmeta><?xpacket end="w"?>'
    ).encode()
