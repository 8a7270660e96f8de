"""Files that are PNG, JPEG or WebP but have a fault: decoded with a warning, or refused by name."""

from __future__ import annotations

import re
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from atelier_runtime import images
from atelier_runtime.errors import InvalidRequest
from tests.unit.runtime.image_files import ADAM7, chunk, header, noise, opened, png_16, saved, smooth

END = b"\xff\xd9"
DETAILED = (smooth(160, 240).astype(int) + noise(160, 240, 3) // 8).clip(0, 255).astype(np.uint8)
JPEG = saved(Image.fromarray(DETAILED), "JPEG")
PROGRESSIVE = saved(Image.fromarray(DETAILED), "JPEG", progressive=True)
GRAY = saved(Image.fromarray(DETAILED).convert("L"), "JPEG")
PNG = saved(Image.fromarray(DETAILED), "PNG")
WEBP = saved(Image.fromarray(DETAILED), "WEBP", quality=80)
LOSSLESS = saved(Image.fromarray(DETAILED), "WEBP", lossless=True)


def decode(data: bytes) -> images.Picture:
    return images.decode(data, max_pixels=10**7, deep=True)


def refusal(data: bytes) -> str:
    with pytest.raises(InvalidRequest) as caught:
        decode(data)
    [violation] = caught.value.fields
    return violation.message


def damage(picture: images.Picture) -> list[str]:
    """Return what a response says of the damage, whatever its format is."""
    warned = [
        [w.message for w in images.losses(picture, output, 100) if w.code == "image_damaged"]
        for output in ("png", "jpeg", "webp", "raw")
    ]
    assert all(messages == warned[0] for messages in warned)
    return warned[0]


def frame_of(data: bytes) -> int:
    [place] = [match.start() for match in re.finditer(b"\xff\xc0\0\x11", data)]
    return place


def wrong(kind: bytes, content: bytes) -> bytes:
    """Return a chunk with a wrong checksum."""
    right = chunk(kind, content)
    return right[:-1] + bytes([right[-1] ^ 1])


def after_header(file: bytes, more: bytes) -> bytes:
    return file[:33] + more + file[33:]


# Of PNG


@pytest.mark.parametrize("kind", [b"tEXt", b"zTXt", b"iTXt", b"iCCP", b"gAMA", b"pHYs", b"eXIf", b"prVt"])
@pytest.mark.parametrize("place", ["before the pixels", "after the pixels", "16 bits"])
def test_a_wrong_checksum_that_browsers_ignore_is_a_warning(kind: bytes, place: str) -> None:
    bad = wrong(kind, b"Comment\0x")
    if place == "16 bits":
        data = png_16(images.to_depth(DETAILED, 16), before=bad)
    else:
        data = after_header(PNG, bad) if place.startswith("before") else PNG[:-12] + bad + PNG[-12:]
    picture = decode(data)
    assert np.array_equal(picture.eight_bit(), DETAILED)
    [message] = damage(picture)
    assert kind.decode() in message and "checksum" in message
    written = images.encode(picture, "png", 92)
    assert kind not in written
    assert not decode(written).faults


def test_many_wrong_checksums_are_counted() -> None:
    messages = damage(decode(after_header(PNG, wrong(b"prVt", b"") * 100)))
    assert len(messages) < 10 and "95 further" in messages[-1]


def test_a_wrong_checksum_of_pixels_or_palette_is_named() -> None:
    assert "checksum of its IDAT" in refusal(PNG[:2000] + bytes([PNG[2000] ^ 1]) + PNG[2001:])
    palette = saved(Image.fromarray(DETAILED).convert("P"), "PNG")
    place = palette.index(b"PLTE") + 10
    assert "checksum of its PLTE" in refusal(palette[:place] + b"\x77" + palette[place + 1 :])


def test_a_png_without_its_end_is_cut_short_and_a_wrong_end_is_a_warning() -> None:
    assert "is cut short" in refusal(PNG[:-12])
    assert "IEND" in damage(decode(PNG[:-1] + b"\0"))[0]


def rows(count: int, color_type: int = 2) -> bytes:
    """Return a PNG of 60x40 px with only so many rows of pixels, whole in any other respect."""
    width = {0: 60, 2: 180, 3: 60, 4: 120, 6: 240}[color_type]
    palette = chunk(b"PLTE", b"\xff\0\0" * 256) if color_type == 3 else b""
    pixels = chunk(b"IDAT", zlib.compress((b"\0" + bytes(width)) * count))
    return header(60, 40, 8, color_type) + palette + pixels + chunk(b"IEND", b"")


@pytest.mark.parametrize("color_type", [0, 2, 3, 4, 6])
def test_a_png_with_too_few_rows_is_cut_short(color_type: int) -> None:
    assert not decode(rows(40, color_type)).faults
    assert "is cut short" in refusal(rows(39, color_type))
    assert "is cut short" in refusal(rows(20, color_type))


def test_an_interlaced_png_with_too_few_rows_is_cut_short() -> None:
    samples = [DETAILED[y::down, x::across] for x, y, across, down in ADAM7]
    whole = b"".join(b"\0" + row.tobytes() for part in samples for row in part)

    def interlaced(length: int) -> bytes:
        pixels = chunk(b"IDAT", zlib.compress(whole[:length]))
        return header(240, 160, 8, 2, True) + pixels + chunk(b"IEND", b"")

    assert np.array_equal(decode(interlaced(len(whole))).rgb, DETAILED)
    assert "is cut short" in refusal(interlaced(len(whole) * 3 // 4))


@pytest.mark.parametrize(
    ("more", "fault"),
    [
        (b"tRNS", True),
        (b"tEXt", False),
        (b"iCCP", False),
        (b"eXIf", False),
        (b"pHYs", False),
        (b"gAMA", False),
    ],
)
def test_empty_chunks_harm_nothing(more: bytes, fault: bool) -> None:
    picture = decode(after_header(PNG, chunk(more, b"")))
    assert np.array_equal(picture.rgb, DETAILED) and bool(picture.faults) == fault
    assert more not in images.encode(picture, "png", 92)


def test_a_chunk_that_decoders_need_and_do_not_know_is_named() -> None:
    assert "ABCD" in refusal(after_header(PNG, chunk(b"ABCD", b"")))
    assert "0x00010203" in refusal(after_header(PNG, chunk(b"\0\1\2\3", b"")))
    assert "CgBI" in refusal(PNG[:8] + chunk(b"CgBI", bytes(4)) + PNG[8:])


# Of JPEG


@pytest.mark.parametrize("file", [JPEG, GRAY], ids=["color", "gray"])
@pytest.mark.parametrize("share", [0.3, 0.5, 0.9])
@pytest.mark.parametrize("end", [b"", END], ids=["cut", "with an end marker"])
def test_half_a_jpeg_is_cut_short(file: bytes, share: float, end: bytes) -> None:
    cut = file[: int(share * len(file))]
    assert "is cut short" in refusal(cut + end)
    assert "is cut short" in refusal(cut + bytes(len(file) - len(cut)) + end), "the rest zeros"


def test_half_a_progressive_jpeg_is_cut_short_or_a_warning() -> None:
    half = PROGRESSIVE[: len(PROGRESSIVE) // 2]
    assert "is cut short" in refusal(half)
    assert "premature end" in damage(decode(half + END))[-1]
    scans = [match.start() for match in re.finditer(b"\xff\xda", PROGRESSIVE)]
    assert "is cut short" in refusal(PROGRESSIVE[: scans[3]])
    assert "last scans" in damage(decode(PROGRESSIVE[: scans[3]] + END))[0]


def test_a_jpeg_that_is_whole_but_for_its_end_marker_is_accepted() -> None:
    for file in (JPEG, GRAY, PROGRESSIVE):
        picture = decode(file[:-2])
        assert not damage(picture)
        assert np.array_equal(picture.rgb, decode(file).rgb)


def test_data_that_no_pixel_needs_is_a_warning_and_fill_bytes_are_none() -> None:
    [message] = damage(decode(JPEG[:-2] + bytes(100) + END))
    assert "extraneous" in message
    assert not damage(decode(JPEG[:2] + bytes(3) + JPEG[2:]))


@pytest.mark.parametrize(
    ("marker", "name"),
    [
        (0xC3, "lossless"),
        (0xCB, "lossless"),
        (0xC5, "hierarchical"),
        (0xC6, "hierarchical"),
        (0xCD, "hierarchical"),
        (0xC9, "arithmetic"),
        (0xCA, "arithmetic"),
        (0xF7, "JPEG-LS"),
    ],
)
def test_kinds_of_jpeg_that_cannot_be_decoded_are_named(marker: int, name: str) -> None:
    place = frame_of(JPEG)
    assert name in refusal(JPEG[: place + 1] + bytes([marker]) + JPEG[place + 2 :])


def test_bits_channels_and_lines_of_a_jpeg_are_named() -> None:
    place = frame_of(JPEG)

    def changed(offset: int, value: bytes) -> bytes:
        return JPEG[: place + offset] + value + JPEG[place + offset + len(value) :]

    assert "12 bits" in refusal(changed(4, b"\x0c"))
    assert "2 channels" in refusal(changed(9, b"\2"))
    assert "240x0" in refusal(changed(5, b"\0\0"))


def test_pixels_are_those_of_libjpeg_as_pillow_uses_it() -> None:
    for mode in ("RGB", "L"):
        for options in ({}, {"subsampling": 0}, {"subsampling": 1}, {"progressive": True}, {"quality": 100}):
            file = saved(Image.fromarray(DETAILED).convert(mode), "JPEG", **options)
            assert np.array_equal(decode(file).rgb, np.asarray(opened(file).convert("RGB")))


# Of WebP


@pytest.mark.parametrize("file", [WEBP, LOSSLESS], ids=["lossy", "lossless"])
@pytest.mark.parametrize("share", [0.3, 0.5, 0.9])
def test_half_a_webp_is_cut_short_or_damaged(file: bytes, share: float) -> None:
    cut = file[: int(share * len(file)) // 2 * 2]
    assert "is cut short" in refusal(cut)
    zeroed = cut + bytes(len(file) - len(cut))
    assert re.search("is damaged|is corrupt", refusal(zeroed))
    gap = cut + bytes(300) + file[len(cut) + 300 :]
    assert re.search("is damaged|is corrupt", refusal(gap))
    shorter = cut[:4] + struct.pack("<I", len(cut) - 8) + cut[8:16]
    shorter += struct.pack("<I", len(cut) - 20) + cut[20:]
    assert "truncated" in refusal(shorter), "its lengths adapted"


@pytest.mark.parametrize("color", [0, 255, 77])
@pytest.mark.parametrize("options", [{"quality": 80}, {"quality": 5, "method": 0}, {"lossless": True}])
def test_large_areas_of_one_color_are_no_damage(color: int, options: dict[str, object]) -> None:
    flat = np.full((1000, 1000, 3), color, np.uint8)
    flat[:200] = noise(200, 1000, 3)
    assert decode(saved(Image.fromarray(flat), "WEBP", **options)).width == 1000
    assert decode(images.encode(images.Picture(flat), "webp", 100)).width == 1000, "our own fastest"


# Of other formats, and of files too short for any

OTHERS: dict[str, bytes] = {
    "GIF": saved(Image.fromarray(DETAILED), "GIF"),
    "TIFF": saved(Image.fromarray(DETAILED), "TIFF"),
    "BMP": saved(Image.fromarray(DETAILED), "BMP"),
    "JPEG 2000": b"\0\0\0\x0cjP  \r\n\x87\n" + bytes(100),
    "AVIF": b"\0\0\0\x1cftypavif\0\0\0\0avifmif1miaf",
    "HEIC": b"\0\0\0\x18ftypmif1\0\0\0\0mif1heic",
    "MP4": b"\0\0\0\x18ftypisom\0\0\0\0isommp42",
    "PDF": b"%PDF-1.7\n",
    "SVG": b'<?xml version="1.0"?>\n<!-- drawn --><svg xmlns="http://www.w3.org/2000/svg"/>',
    "HTML": b"<!DOCTYPE html><html><body><svg/></body></html>",
    "Git LFS": b"version https://git-lfs.github.com/spec/v1\n",
}


@pytest.mark.parametrize("name", OTHERS)
def test_other_formats_are_named(name: str) -> None:
    message = refusal(OTHERS[name])
    assert name in message and "not a PNG, JPEG or WebP file" in message


@pytest.mark.parametrize("file", [PNG, JPEG, WEBP], ids=["PNG", "JPEG", "WebP"])
def test_the_first_bytes_alone_are_a_file_cut_short(file: bytes) -> None:
    for length in (3, 6, 10, 20):
        assert "is cut short" in refusal(file[:length]), length


@pytest.mark.parametrize("ending", [b"", END], ids=["no end", "an end"])
def test_half_a_jpeg_is_refused_whatever_is_wrong_with_it_before(ending: bytes) -> None:
    """libjpeg's first warning, the only one that is known, is here of another fault."""
    file = saved(Image.fromarray(DETAILED), "JPEG", restart_marker_rows=1)
    scan = file.index(b"\xff\xda") + 20
    marker = scan + next(m.start() for m in re.finditer(rb"\xff[\xd0-\xd7]", file[scan:]))
    damaged = file[:marker] + b"\x12\x34" + file[marker:]
    assert "is cut short" in refusal(damaged[: len(damaged) // 2] + ending)
    assert damage(decode(damaged)), "all of it is there"


def test_half_zeros_in_the_frame_of_an_animation_of_one() -> None:
    pixels = WEBP[20 : 20 + int.from_bytes(WEBP[16:20], "little")]
    half = pixels[: len(pixels) // 2] + bytes(len(pixels) - len(pixels) // 2)

    def riff(data: bytes) -> bytes:
        size = (239).to_bytes(3, "little") + (159).to_bytes(3, "little")
        frame = bytes(6) + size + bytes(4) + webp_chunk(b"VP8 ", data)
        chunks = webp_chunk(b"VP8X", b"\x02" + bytes(3) + size) + webp_chunk(b"ANIM", bytes(6))
        body = b"WEBP" + chunks + webp_chunk(b"ANMF", frame)
        return b"RIFF" + len(body).to_bytes(4, "little") + body

    assert decode(riff(pixels)).width == 240
    assert "zeros have taken the place" in refusal(riff(half))


def webp_chunk(kind: bytes, data: bytes) -> bytes:
    return kind + len(data).to_bytes(4, "little") + data + bytes(len(data) % 2)
