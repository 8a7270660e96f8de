"""Every decoded pixel comes back exactly, whatever its depth, colors and transparency."""

import io

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from atelier_runtime import images
from atelier_runtime.errors import InvalidRequest
from tests.unit.runtime.image_files import chunk, noise, opened, png_16, png_few_bits, saved, smooth

LIMIT = 100_000


def decode(data: bytes) -> images.Picture:
    return images.decode(data, max_pixels=LIMIT, deep=True)


@st.composite
def pictures(draw: st.DrawFn, bits: tuple[int, ...] = (8, 16)) -> images.Picture:
    dtype = np.uint8 if draw(st.sampled_from(bits)) == 8 else np.uint16
    height, width = draw(st.integers(1, 40)), draw(st.integers(1, 40))
    kind = draw(st.sampled_from(["noise", "ramp", "one color"]))
    rgb = noise(height, width, 3, dtype, draw(st.integers(0, 99)))
    if kind == "ramp":
        rgb = (np.arange(rgb.size).reshape(rgb.shape) * 97).astype(dtype)
    elif kind == "one color":
        rgb[:] = rgb[0, 0]
    gray = draw(st.booleans())
    if gray:
        rgb = np.repeat(rgb[..., :1], 3, axis=2)
    top = np.iinfo(dtype).max
    alpha = {
        "none": None,
        "clear": np.zeros((height, width), dtype),
        "opaque": np.full((height, width), top, dtype),
        "holes": (noise(height, width, 1, dtype)[..., 0] % 2 * top).astype(dtype),
        "any": noise(height, width, 1, dtype, 1)[..., 0],
    }[draw(st.sampled_from(["none", "clear", "opaque", "holes", "any"]))]
    return images.Picture(rgb, alpha, gray=gray)


@settings(max_examples=120, deadline=None)
@given(picture=pictures())
def test_a_png_keeps_every_sample(picture: images.Picture) -> None:
    back = decode(images.encode(picture, "png", 92))
    assert (back.bits, back.gray, back.format) == (picture.bits, picture.gray, "png")
    assert np.array_equal(back.rgb, picture.rgb)
    assert (back.alpha is None) == (picture.alpha is None)
    np.testing.assert_array_equal(back.alpha, picture.alpha)
    assert not images.losses(picture, "png", 92)


@settings(max_examples=60, deadline=None)
@given(picture=pictures(bits=(8,)))
def test_a_webp_of_quality_100_keeps_every_sample(picture: images.Picture) -> None:
    back = decode(images.encode(picture, "webp", 100))
    assert np.array_equal(back.rgb, picture.rgb)
    alpha = np.full(picture.rgb.shape[:2], 255) if back.alpha is None else back.alpha
    assert picture.alpha is None or np.array_equal(alpha, picture.alpha)
    assert not images.losses(picture, "webp", 100)


@settings(max_examples=40, deadline=None)
@given(picture=pictures(bits=(8,)), file_format=st.sampled_from(["jpeg", "webp"]), quality=st.integers(1, 99))
def test_a_lossy_file_keeps_size_and_alpha_and_is_warned_of(
    picture: images.Picture, file_format: images.Format, quality: int
) -> None:
    back = decode(images.encode(picture, file_format, quality))
    assert back.rgb.shape == picture.rgb.shape
    assert images.losses(picture, file_format, quality)[0].code == "lossy_output"
    if file_format == "webp" and picture.alpha is not None and picture.alpha.min() < 255:
        np.testing.assert_array_equal(back.alpha, picture.alpha)
    if picture.gray:  # WebP has no gray pixels, and its conversion rounds green by itself
        assert np.ptp(back.rgb, axis=2).max() <= (file_format == "webp")


@settings(max_examples=60, deadline=None)
@given(
    size=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    channels=st.integers(1, 4),
    interlaced=st.booleans(),
)
def test_16_bit_files_of_every_kind_are_read(size: tuple[int, int], channels: int, interlaced: bool) -> None:
    samples = noise(*size, channels, np.uint16)
    picture = decode(png_16(samples, interlaced=interlaced))
    assert (picture.bits, picture.gray) == (16, channels < 3)
    colors = samples[..., :1] if channels < 3 else samples[..., :3]
    assert np.array_equal(picture.rgb, np.broadcast_to(colors, (*size, 3)))
    assert (picture.alpha is not None) == (channels in (2, 4))
    assert picture.alpha is None or np.array_equal(picture.alpha, samples[..., -1])


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_opencv_reads_and_writes_the_same_16_bits(channels: int) -> None:
    samples = noise(300, 20, channels, np.uint16)
    to_bgr = {1: [0], 3: [2, 1, 0], 4: [2, 1, 0, 3]}[channels]
    theirs = decode(cv2.imencode(".png", samples[..., to_bgr])[1].tobytes())
    ours = cv2.imdecode(np.frombuffer(images.encode(theirs, "png", 92), np.uint8), cv2.IMREAD_UNCHANGED)
    assert ours is not None and np.array_equal(np.atleast_3d(ours)[..., to_bgr], samples)


def test_an_image_of_several_bands_is_one_stream_that_others_can_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rgb = np.concatenate([noise(700, 900, 3), np.zeros((800, 900, 3), np.uint8)])
    data = images.encode(images.Picture(rgb), "png", 92)
    assert data.count(b"IDAT") > 2
    assert np.array_equal(np.asarray(opened(data)), rgb)  # the checksum over all bands, by Pillow
    theirs = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    assert theirs is not None and np.array_equal(theirs[..., ::-1], rgb)
    for processors in (1, 16, None):
        monkeypatch.setattr("os.cpu_count", lambda count=processors: count)
        assert images.encode(images.Picture(rgb), "png", 92) == data


def palette(transparent: bool) -> Image.Image:
    image = Image.fromarray(smooth()).quantize(24)
    if transparent:
        image.info["transparency"] = bytes([0, 128, 255] * 8)
    return image


@pytest.mark.parametrize(
    ("data", "mode"),
    [
        (saved(palette(False), "PNG"), "RGB"),
        (saved(palette(False), "PNG", bits=4), "RGB"),
        (saved(palette(True), "PNG", transparency=bytes([0, 128, 255] * 8)), "RGBA"),
        (saved(palette(False), "PNG", transparency=3), "RGBA"),
        (saved(Image.fromarray(smooth()).convert("1"), "PNG"), "L"),
        (saved(Image.fromarray(smooth()).convert("L"), "PNG"), "L"),
        (saved(Image.fromarray(smooth()).convert("LA"), "PNG"), "LA"),
        (saved(Image.fromarray(smooth()).convert("L"), "PNG", transparency=92), "LA"),
        (saved(Image.fromarray(smooth()), "PNG", transparency=(8, 12, 10)), "RGBA"),
        (saved(Image.fromarray(smooth()).convert("L"), "JPEG"), "L"),
        (saved(Image.fromarray(smooth()), "JPEG"), "RGB"),
        (saved(Image.fromarray(noise(9, 7, 4)), "WEBP", lossless=True, exact=True), "RGBA"),
        (saved(Image.fromarray(smooth()), "WEBP"), "RGB"),
    ],
)
def test_every_mode_is_written_as_pillow_shows_it(data: bytes, mode: str) -> None:
    shown = opened(data).convert("RGBA")
    picture = decode(data)
    written = opened(images.encode(picture, "png", 92))
    assert written.mode == mode
    assert np.array_equal(np.asarray(written.convert("RGBA")), np.asarray(shown))


@pytest.mark.parametrize(
    ("depth", "row", "transparent", "grays", "alpha"),
    [
        (1, 0b10100000, 1, [255, 0, 255, 0], [0, 255, 0, 255]),
        (2, 0b00011011, 2, [0, 85, 170, 255], [255, 255, 0, 255]),
        (4, 0x3F, 3, [51, 255], [0, 255]),
    ],
)
def test_a_transparent_gray_of_few_bits(
    depth: int, row: int, transparent: int, grays: list[int], alpha: list[int]
) -> None:
    picture = decode(png_few_bits([bytes([row])], len(grays), depth, transparent))
    assert picture.gray
    assert picture.rgb[0, :, 0].tolist() == grays
    assert picture.alpha is not None and picture.alpha[0].tolist() == alpha


@pytest.mark.parametrize("channels", [1, 3])
def test_a_transparent_color_of_16_bits(channels: int) -> None:
    samples = noise(5, 4, channels, np.uint16)
    samples[2, 1] = samples[0, 0]
    samples[3, 3] = samples[0, 0] ^ 1  # the last bit counts
    picture = decode(png_16(samples, before=chunk(b"tRNS", samples[0, 0].astype(">u2").tobytes())))
    assert picture.alpha is not None
    assert np.argwhere(picture.alpha == 0).tolist() == [[0, 0], [2, 1]]
    assert np.array_equal(picture.rgb[..., :channels], samples)


@pytest.mark.parametrize("color", [(112, 66, 20), (128, 128, 127), (0, 0, 0), (255, 255, 255)])
@pytest.mark.parametrize("size", [(1, 1), (1, 300), (300, 1)])
def test_sepia_near_gray_and_a_single_color_stay_in_color(
    color: tuple[int, int, int], size: tuple[int, int]
) -> None:
    rgb = np.full((*size, 3), color, np.uint8)
    for bits in (8, 16):
        picture = images.Picture(images.to_depth(rgb, bits))
        back = decode(images.encode(picture, "png", 92))
        assert not back.gray
        assert np.array_equal(back.rgb, picture.rgb)


def test_16_bits_become_8_by_rounding_and_8_become_16_exactly() -> None:
    every = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    rounded = images.to_eight_bit(every)
    assert np.array_equal(rounded, np.rint(every / 257.0))
    levels = np.arange(256, dtype=np.uint8)
    assert np.array_equal(images.to_eight_bit(images.to_depth(levels, 16)), levels)
    assert images.to_depth(levels, 16).dtype == np.uint16
    assert images.to_depth(levels, 8) is levels and images.to_eight_bit(levels) is levels
    with pytest.raises(ValueError, match="12 bits"):
        images.to_depth(levels, 12)


@pytest.mark.parametrize("file_format", ["jpeg", "webp"])
def test_16_bits_in_a_format_that_has_8(file_format: images.Format) -> None:
    deep = images.Picture(images.to_depth(smooth(), 16), np.full((40, 60), 30_000, np.uint16))
    back = decode(images.encode(deep, file_format, 95))
    assert back.bits == 8
    assert np.abs(back.rgb.astype(int) - smooth()).mean() < 3
    assert "bit_depth_reduced" in {warning.code for warning in images.losses(deep, file_format, 95)}
    if file_format == "webp":
        np.testing.assert_array_equal(back.alpha, np.full((40, 60), 117))
        assert np.array_equal(decode(images.encode(deep, "webp", 100)).rgb, smooth())


def test_16_bits_are_read_only_on_request() -> None:
    data = png_16(noise(4, 4, 3, np.uint16))
    with pytest.raises(InvalidRequest, match="more than 8 bits"):
        images.decode(data, max_pixels=LIMIT)
    assert decode(data).eight_bit().dtype == np.uint8


def test_alpha_must_have_the_size_and_the_depth_of_the_colors() -> None:
    rgb = noise(4, 5, 3)
    for alpha in (noise(5, 4, 1)[..., 0], noise(4, 5, 1, np.uint16)[..., 0]):
        with pytest.raises(ValueError, match="alpha has"):
            images.Picture(rgb, alpha)


def test_a_mask_is_a_gray_png() -> None:
    mask = noise(7, 5, 1)[..., 0]
    with Image.open(io.BytesIO(images.encode_gray_png(mask))) as image:
        assert image.mode == "L" and np.array_equal(np.asarray(image), mask)
