"""Images that are too large, damaged or of another kind are refused before any pixel is decoded."""

import struct
import tracemalloc
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from atelier_runtime import images
from atelier_runtime.errors import InvalidRequest
from tests.unit.runtime.image_files import chunk, header, noise, png_16, saved, smooth

SIDE = 24
FILES = {
    "png": saved(Image.fromarray(smooth(SIDE, SIDE)), "PNG"),
    "16-bit png": png_16(noise(SIDE, SIDE, 3, np.uint16)),
    "jpeg": saved(Image.fromarray(smooth(SIDE, SIDE)), "JPEG"),
    "webp": saved(Image.fromarray(smooth(SIDE, SIDE)), "WEBP"),
    "gray jpeg": saved(Image.fromarray(smooth(SIDE, SIDE)).convert("L"), "JPEG"),
}


def refusal(data: bytes, max_pixels: int = SIDE * SIDE) -> str:
    with pytest.raises(InvalidRequest) as caught:
        images.decode(data, max_pixels=max_pixels, field="photo", deep=True)
    [violation] = caught.value.fields
    assert violation.field == "photo"
    return violation.message


@pytest.mark.parametrize("kind", FILES)
def test_as_many_pixels_as_allowed_and_one_more(kind: str) -> None:
    picture = images.decode(FILES[kind], max_pixels=SIDE * SIDE, deep=True)
    assert (picture.height, picture.width) == (SIDE, SIDE)
    message = refusal(FILES[kind], SIDE * SIDE - 1)
    assert "24x24 = 576 pixels" in message and "575 pixels" in message


@pytest.mark.parametrize("kind", FILES)
def test_a_file_cut_anywhere_is_refused(kind: str) -> None:
    data = FILES[kind]
    end = len(data) if "png" in kind else len(data) - 2  # a JPEG without its end marker has all pixels
    for length in {*range(0, end, max(1, end // 60)), end - 8}:
        message = refusal(data[:length])
        assert "truncated" in message or "not a" in message or "empty" in message


@settings(max_examples=150, deadline=None)
@given(
    kind=st.sampled_from(sorted(FILES)), place=st.floats(0, 1, exclude_max=True), value=st.integers(0, 255)
)
def test_a_changed_byte_gives_an_image_or_a_refusal(kind: str, place: float, value: int) -> None:
    data = bytearray(FILES[kind])
    data[int(place * len(data))] = value
    try:
        picture = images.decode(bytes(data), max_pixels=SIDE * SIDE, deep=True)
    except InvalidRequest:
        return
    assert picture.width * picture.height <= SIDE * SIDE
    if "png" in kind and picture.format == "png":
        # The checksums allow only changes outside the pixels.
        whole = images.decode(FILES[kind], max_pixels=SIDE * SIDE, deep=True)
        assert np.array_equal(picture.rgb, whole.rgb)


def bomb(depth: int, color_type: int, side: int = 60_000) -> bytes:
    zeros = zlib.compressobj(9)
    packed = b"".join(zeros.compress(bytes(2**20)) for _ in range(64)) + zeros.flush()
    return header(side, side, depth, color_type) + chunk(b"IDAT", packed) + chunk(b"IEND", b"")


def webp_of_size(side: int) -> bytes:
    canvas = bytes(4) + (side - 1).to_bytes(3, "little") * 2
    frame = saved(Image.new("RGB", (8, 8)), "WEBP")[12:]
    body = b"WEBPVP8X" + struct.pack("<I", 10) + canvas + frame
    return b"RIFF" + struct.pack("<I", len(body)) + body


def jpeg_of_size(side: int) -> bytes:
    data = bytearray(FILES["jpeg"])
    start = data.index(b"\xff\xc0") + 5
    data[start : start + 4] = struct.pack(">HH", side, side)
    return bytes(data)


@pytest.mark.parametrize(
    "data", [bomb(8, 2), bomb(16, 6), bomb(1, 0), jpeg_of_size(60_000)], ids=["8", "16", "1", "jpeg"]
)
def test_a_huge_header_costs_nothing(data: bytes) -> None:
    tracemalloc.start()
    assert all(text in refusal(data, 50_000_000) for text in ("60000x60000 = 3600000000 pixels", "50000000"))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 4 * 2**20


@pytest.mark.parametrize("lossless", [False, True])
def test_a_webp_larger_than_allowed(lossless: bool) -> None:
    large = saved(Image.new("RGB", (3000, 2000)), "WEBP", lossless=lossless)
    assert "3000x2000 = 6000000 pixels" in refusal(large, 5_999_999)
    assert "16383x16383 = 268402689 pixels" in refusal(webp_of_size(16_383), 50_000_000)


def test_a_webp_whose_canvas_is_larger_than_its_image() -> None:
    assert "truncated" in refusal(webp_of_size(16_000), 300_000_000)


@pytest.mark.parametrize("kind", ["iTXt", "iCCP", "zTXt"])
def test_a_compressed_text_does_not_fill_the_memory(kind: str) -> None:
    zeros = zlib.compress(bytes(200 * 2**20), 9)
    before = {
        "iTXt": b"XML:com.adobe.xmp\0\1\0\0\0",
        "iCCP": b"profile\0\0",
        "zTXt": b"comment\0\0",
    }[kind]
    data = png_16(noise(4, 4, 3, np.uint16), before=chunk(kind.encode(), before + zeros))
    tracemalloc.start()
    try:
        picture = images.decode(data, max_pixels=100, deep=True)
        assert picture.xmp is None and picture.icc is None
    except InvalidRequest:
        pass
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 40 * 2**20


def test_a_16_bit_image_with_a_side_beyond_the_decoders_limit() -> None:
    limit = images.png.LARGEST_16_BIT_SIDE_PX
    picture = images.decode(png_16(np.ones((1, limit, 1), np.uint16)), max_pixels=2 * limit, deep=True)
    assert picture.width == limit and picture.rgb.min() == 1
    message = refusal(png_16(np.zeros((1, limit + 1, 1), np.uint16)), 2 * limit)
    assert "1000001 px" in message and "1000000 px" in message


def test_cmyk_as_printers_and_as_adobe_write_it() -> None:
    data = saved(Image.fromarray(smooth()).convert("CMYK"), "JPEG")
    assert "CMYK" in refusal(data, 10**4)
    ycck = data.replace(b"Adobe\0\x64\0\0\0\0\0", b"Adobe\0\x64\0\0\0\0\2")
    assert ycck != data and "CMYK" in refusal(ycck, 10**4)


def test_the_message_limit_holds_16_bits_and_stays_within_grpc() -> None:
    pixels = 300 * 200
    rgb, alpha = noise(200, 300, 3, np.uint16), noise(200, 300, 1, np.uint16)[..., 0]
    assert len(images.encode(images.Picture(rgb, alpha), "png", 92)) <= images.message_limit_bytes(pixels)
    assert images.message_limit_bytes(50_000_000) == 404_194_304
    assert images.message_limit_bytes(500_000_000) == 2**31 - 1
