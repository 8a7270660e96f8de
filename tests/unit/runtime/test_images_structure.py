"""A file with more parts than a decoder should be given is refused by its count, as fast as it is read."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image, JpegImagePlugin, PngImagePlugin

from atelier_runtime import images
from atelier_runtime.errors import InvalidRequest
from atelier_runtime.images import png, structure, text
from tests.unit.runtime.image_files import chunk, header, noise, png_16, saved, smooth

PIXELS = 2**20
JPEG = saved(Image.fromarray(smooth()), "JPEG")
PROGRESSIVE = saved(Image.fromarray(smooth()), "JPEG", progressive=True)
PACKED = zlib.compress(b"x" * 7 * 2**20, 9)


METADATA_BYTES = JPEG.index(b"\xff\xda")


def progressive(scans: int) -> bytes:
    """Return a JPEG with this many scans, the last of them repeated."""
    last = PROGRESSIVE[PROGRESSIVE.rfind(b"\xff\xda") : -2]
    present = PROGRESSIVE.count(b"\xff\xda")
    return PROGRESSIVE[:-2] + last * (scans - present) + PROGRESSIVE[-2:]


def jpeg_with(segment: bytes, count: int) -> bytes:
    return JPEG[:2] + segment * count + JPEG[2:]


def png_with(before: bytes = b"", after: bytes = b"", empty_pixel_chunks: int = 0) -> bytes:
    pixels = chunk(b"IDAT", b"") * empty_pixel_chunks + chunk(b"IDAT", zlib.compress(b"\0" * 17 * 16))
    return header(16, 16, 8, 0) + before + pixels + after + chunk(b"IEND", b"")


def xmp(packed: bytes = PACKED) -> bytes:
    return chunk(b"iTXt", png.XMP_KEYWORD + b"\0\1\0\0\0" + packed)


def unused_segments(file: bytes) -> int:
    """Return how many more segments a JPEG may have."""
    low, high = 0, structure.MAX_SEGMENTS
    while low < high:
        middle = (low + high + 1) // 2
        accepted = structure.problem_of(file[:2] + b"\xff\xe9\0\2" * middle + file[2:]) is None
        low, high = (middle, high) if accepted else (low, middle - 1)
    return low


# A file at the limit, the same with one part more, and what the message must name.
LIMITS: dict[str, tuple[Callable[[int], bytes], int, str]] = {
    "scans": (progressive, structure.MAX_SCANS, "scans"),
    "segments": (lambda n: jpeg_with(b"\xff\xe9\0\2", n), unused_segments(JPEG), "segments"),
    "comments": (lambda n: jpeg_with(b"\xff\xfe\0\2", n), unused_segments(JPEG), "segments"),
    "fill bytes": (lambda n: jpeg_with(b"\xff", n), structure.MAX_FILL_BYTES, "between its segments"),
    "EXIF segments": (
        lambda n: jpeg_with(b"\xff\xe1\0\x0aExif\0\0II", n),
        structure.MAX_EXIF_SEGMENTS,
        "EXIF",
    ),
    "metadata of a JPEG": (
        lambda n: jpeg_with(b"\xff\xe9\xff\xff" + bytes(65533), n),
        (structure.MAX_METADATA_BYTES - METADATA_BYTES) // 65535,
        "bytes besides",
    ),
    "metadata of a PNG": (
        lambda n: png_with(before=chunk(b"abCd", bytes(n))),
        structure.MAX_METADATA_BYTES - 13,  # besides those of IHDR
        "bytes besides",
    ),
    "chunks before": (lambda n: png_with(before=chunk(b"abCd", b"") * n), structure.MAX_CHUNKS - 2, "chunks"),
    "chunks after": (lambda n: png_with(after=chunk(b"abCd", b"") * n), structure.MAX_CHUNKS - 2, "chunks"),
    "texts": (lambda n: png_with(before=chunk(b"tEXt", b"a\0b") * n), structure.MAX_CHUNKS - 2, "chunks"),
    "XMP before": (lambda n: png_with(before=xmp(zlib.compress(b"x")) * n), 50, "compressed"),
    "XMP after": (lambda n: png_with(after=xmp(zlib.compress(b"x")) * n), 50, "compressed"),
    "packed texts": (
        lambda n: png_with(after=chunk(b"zTXt", b"a\0\0" + zlib.compress(b"x")) * n),
        50,
        "comp",
    ),
    "profiles": (lambda n: png_with(before=chunk(b"iCCP", b"a\0\0" + zlib.compress(b"x")) * n), 50, "comp"),
    "pixel chunks": (lambda n: png_with(empty_pixel_chunks=n - 1), structure.MAX_PIXEL_CHUNKS, "pixels"),
}


@pytest.mark.parametrize("kind", LIMITS)
def test_as_many_parts_as_allowed_and_one_more(kind: str) -> None:
    make, limit, name = LIMITS[kind]
    assert images.decode(make(limit), max_pixels=PIXELS).width in (16, 60)
    with pytest.raises(InvalidRequest) as refused:
        images.decode(make(limit + 1), max_pixels=PIXELS, field="photo")
    [violation] = refused.value.fields
    assert violation.field == "photo" and name in violation.message and "the limit is" in violation.message


@pytest.mark.parametrize("kind", LIMITS)
def test_a_refused_file_is_not_given_to_a_decoder(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def decoder(*arguments: object) -> None:
        raise AssertionError("used")

    monkeypatch.setattr(PngImagePlugin.PngImageFile, "_open", decoder)
    monkeypatch.setattr(JpegImagePlugin.JpegImageFile, "_open", decoder)
    make, limit, _ = LIMITS[kind]
    with pytest.raises(InvalidRequest):
        images.decode(make(limit + 1), max_pixels=PIXELS)


def test_the_scans_of_what_is_embedded_or_follows_do_not_count() -> None:
    thumbnail = progressive(structure.MAX_SCANS)
    application_data = b"\xff\xe9" + struct.pack(">H", len(thumbnail) + 2) + thumbnail
    file = progressive(structure.MAX_SCANS)
    images.decode(file[:2] + application_data + file[2:] + thumbnail, max_pixels=PIXELS)


@pytest.mark.parametrize("marker", [0x01, 0x02, 0x4F, 0xBF])
def test_scans_cannot_be_hidden_behind_a_marker_that_decoders_skip(marker: int) -> None:
    """libjpeg skips these without a length, and reads what follows."""
    file = progressive(structure.MAX_SCANS + 1)
    first_scan = file.index(b"\xff\xda")
    hidden = file[: first_scan + 20] + bytes([0xFF, marker, 0xFF, 0xFF]) + file[first_scan + 20 :]
    assert "scans" in (structure.problem_of(hidden) or "")


def test_restart_markers_and_escaped_bytes_are_no_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    detailed = saved(Image.fromarray(noise(400, 400, 3)), "JPEG", quality=95, restart_marker_blocks=1)
    assert detailed.count(b"\xff\xd0") > 50 and detailed.count(b"\xff\0") > 50
    monkeypatch.setattr(structure, "MAX_SEGMENTS", 50)
    assert structure.problem_of(detailed) is None


def test_a_bomb_in_place_of_xmp_is_unpacked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    unpacked: list[int] = []
    unpack = text.content

    def unpack_and_count(kind: bytes, data: bytes) -> bytes | None:
        unpacked.append(len(data))
        return unpack(kind, data)

    monkeypatch.setattr(text, "content", unpack_and_count)
    bombs = xmp(zlib.compress(b"x" * 9 * 2**20, 9)) * 50
    data = png_16(noise(16, 16, 3, np.uint16), after=bombs)
    assert images.decode(data, max_pixels=PIXELS, deep=True).xmp is None
    assert len(unpacked) == 1
