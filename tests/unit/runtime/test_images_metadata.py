"""Metadata: EXIF, XMP, ICC profile, resolution, and a PNG's description of its colors."""

import struct

import numpy as np
import pytest
from PIL import Image, ImageCms, ImageOps, PngImagePlugin

from atelier_runtime import images
from tests.unit.runtime.image_files import chunk, chunks, noise, opened, png_16, saved, smooth

ORIENTATION, DESCRIPTION, X_RESOLUTION, GPS = 0x0112, 0x010E, 0x011A, 0x8825
FORMATS: tuple[images.Format, ...] = ("png", "jpeg", "webp")
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
GRAY_PROFILE = SRGB[:16] + b"GRAY" + SRGB[20:]  # as far as file formats check it
XMP = b'<x:xmpmeta><rdf:Description tiff:Orientation="%d" dc:creator="Ada"/></x:xmpmeta>'


def decode(data: bytes) -> images.Picture:
    return images.decode(data, max_pixels=10**6, deep=True)


def exif_block(orientation: int, byte_order: str = "<") -> bytes:
    """Return a block as cameras write it: a maker note with its own offsets, GPS, and a small preview."""
    preview = saved(Image.new("RGB", (8, 8), "red"), "JPEG")
    maker, gps = (
        b"Maker\0offset 77 from the TIFF header",
        struct.pack(byte_order + "HHHI4sI", 1, 1, 2, 2, b"N\0", 0),
    )
    values = 8 + 2 + 4 * 12 + 4
    maker_at, gps_at = values, values + len(maker)
    second_at = gps_at + len(gps)
    preview_at = second_at + 2 + 2 * 12 + 4

    def entry(tag: int, kind: int, number: int, value: int) -> bytes:
        packed = struct.pack(byte_order + ("H2x" if kind == 3 else "I"), value)
        return struct.pack(byte_order + "HHI", tag, kind, number) + packed

    main = struct.pack(byte_order + "H", 4)
    main += entry(ORIENTATION, 3, 1, orientation) + entry(0x0128, 3, 1, 2)
    main += entry(GPS, 4, 1, gps_at) + entry(0x927C, 7, len(maker), maker_at)
    second = (
        struct.pack(byte_order + "H", 2) + entry(0x0201, 4, 1, preview_at) + entry(0x0202, 4, 1, len(preview))
    )
    start = (b"II*\0" if byte_order == "<" else b"MM\0*") + struct.pack(byte_order + "I", 8)
    link, end = struct.pack(byte_order + "I", second_at), struct.pack(byte_order + "I", 0)
    return start + main + link + maker + gps + second + end + preview


def file_with_exif(kind: str, exif: bytes, rgb: np.ndarray) -> bytes:
    prefixed = b"Exif\0\0" + exif
    if kind == "16-bit PNG":
        return png_16(images.to_depth(rgb, 16), before=chunk(b"eXIf", exif))
    if kind == "16-bit PNG, EXIF last":
        return png_16(images.to_depth(rgb, 16), after=chunk(b"eXIf", exif))
    image = Image.fromarray(rgb)
    if kind.startswith("gray"):
        image = image.convert("L")
    file_format = kind.split()[-1]
    options = (
        {"quality": 100} if file_format == "JPEG" else {"lossless": True} if file_format == "WEBP" else {}
    )
    return saved(image, file_format, exif=prefixed, **options)


KINDS = ["JPEG", "gray JPEG", "PNG", "gray PNG", "WEBP", "16-bit PNG", "16-bit PNG, EXIF last"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("orientation", range(1, 9))
def test_all_orientations_are_applied_and_written_as_1(kind: str, orientation: int) -> None:
    data = file_with_exif(kind, exif_block(orientation, "<" if orientation % 2 else ">"), smooth(20, 33))
    picture = decode(data)
    shown = ImageOps.exif_transpose(opened(data)).convert("RGB")
    assert np.array_equal(picture.eight_bit(), np.asarray(shown))
    assert picture.rgb.flags.c_contiguous
    for file_format in FORMATS:
        written = opened(images.encode(picture, file_format, 92))
        assert written.getexif()[ORIENTATION] == 1
        assert written.size == shown.size


def test_alpha_is_rotated_with_the_colors() -> None:
    rgba = noise(3, 5, 4, np.uint16)
    picture = decode(png_16(rgba, before=chunk(b"eXIf", exif_block(6))))
    assert picture.alpha is not None
    assert np.array_equal(picture.rgb, np.rot90(rgba[..., :3], -1))
    assert np.array_equal(picture.alpha, np.rot90(rgba[..., 3], -1))


@pytest.mark.parametrize("byte_order", ["<", ">"])
@pytest.mark.parametrize("file_format", FORMATS)
def test_of_exif_only_the_orientation_and_the_preview_change(
    file_format: images.Format, byte_order: str
) -> None:
    block = exif_block(6, byte_order)
    picture = decode(file_with_exif("JPEG", block, smooth()))
    written = opened(images.encode(picture, file_format, 92))
    kept = written.info["exif"].removeprefix(b"Exif\0\0")
    expected = bytearray(block)
    expected[18:20] = struct.pack(byte_order + "H", 1)
    expected[8 + 2 + 48 : 8 + 2 + 48 + 4] = bytes(4)
    assert kept == bytes(expected)
    assert not written.getexif().get_ifd(0x0201) and written.getexif().get_ifd(GPS) == {1: "N"}


@pytest.mark.parametrize(
    "block",
    [
        b"",
        b"not TIFF",
        b"II*\0",
        b"II*\0\xff\xff\xff\xff",
        exif_block(6)[:13],
        exif_block(6)[:40],
        exif_block(9),
    ],
)
def test_corrupt_exif_is_neither_lost_nor_fatal(block: bytes) -> None:
    picture = decode(saved(Image.fromarray(smooth()), "PNG", exif=b"Exif\0\0" + block))
    assert picture.rgb.shape[:2] in ((40, 60), (60, 40))  # cut off after the orientation: it still applies
    assert len((picture.exif or b"Exif\0\0").removeprefix(b"Exif\0\0")) == len(block)
    for file_format in FORMATS:
        images.encode(picture, file_format, 92)


def test_imagemagicks_exif_as_hexadecimal_text() -> None:
    from PIL.PngImagePlugin import PngInfo

    texts = PngInfo()
    block = exif_block(6)
    texts.add_text("Raw profile type exif", f"\nexif\n{len(block):8}\n{block.hex()}\n")
    picture = decode(saved(Image.fromarray(smooth()), "PNG", pnginfo=texts))
    assert (picture.height, picture.width) == (60, 40)
    assert chunks(images.encode(picture, "png", 92))[b"eXIf"][18:20] == b"\1\0"


@pytest.mark.parametrize("source", FORMATS)
@pytest.mark.parametrize("target", FORMATS)
def test_xmp_is_kept_and_its_orientation_becomes_1(source: images.Format, target: images.Format) -> None:
    options: dict[str, object] = {"xmp": XMP % 8}
    if source == "png":
        text = b"XML:com.adobe.xmp\0\0\0\0\0" + XMP % 8
        data = png_16(images.to_depth(smooth(), 16), before=chunk(b"iTXt", text))
    else:
        data = saved(Image.fromarray(smooth()), source, **options)
    picture = decode(data)
    assert (picture.height, picture.width) == (60, 40)  # EXIF has none: that of XMP applies
    assert opened(images.encode(picture, target, 92)).info["xmp"] == XMP % 1


def test_exif_takes_precedence_over_xmp() -> None:
    data = saved(Image.fromarray(smooth()), "JPEG", exif=b"Exif\0\0" + exif_block(3), xmp=XMP % 6)
    picture = decode(data)
    assert (picture.height, picture.width, picture.xmp) == (40, 60, XMP % 1)


@pytest.mark.parametrize("target", FORMATS)
@pytest.mark.parametrize("icc", [SRGB, GRAY_PROFILE])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_the_profile_is_kept_byte_by_byte(target: images.Format, icc: bytes, mode: str) -> None:
    picture = decode(saved(Image.fromarray(smooth()).convert(mode), "PNG", icc_profile=icc))
    written = opened(images.encode(picture, target, 92))
    # Whether it fits or not, as long as the pixels keep their mode; WebP converts gray ones to RGB.
    lost = target == "webp" and mode == "L" and icc is GRAY_PROFILE
    assert written.info.get("icc_profile") == (None if lost else icc)
    assert any("ICC" in w.message for w in images.losses(picture, target, 92)) == lost


def test_a_large_profile_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PngImagePlugin, "MAX_TEXT_CHUNK", 8 * 2**20)  # of the reader in this test
    icc = SRGB + bytes(3_000_000)
    picture = decode(saved(Image.fromarray(smooth()), "PNG", icc_profile=icc))
    for file_format in FORMATS:
        assert opened(images.encode(picture, file_format, 92)).info["icc_profile"] == icc


@pytest.mark.parametrize("source", ["PNG", "JPEG", "16-bit PNG"])
@pytest.mark.parametrize("target", ["png", "jpeg"])
def test_the_resolution_is_kept_and_rotated_with_the_image(source: str, target: images.Format) -> None:
    exif = b"Exif\0\0" + exif_block(6)
    if source == "16-bit PNG":
        metre = struct.pack(">IIB", round(300 / 0.0254), round(150 / 0.0254), 1)
        extra = chunk(b"pHYs", metre) + chunk(b"eXIf", exif[6:])
        data = png_16(images.to_depth(smooth(), 16), before=extra)
    else:
        data = saved(Image.fromarray(smooth()), source, dpi=(300, 150), exif=exif)
    picture = decode(data)
    assert picture.dpi == pytest.approx((150, 300), abs=0.02)
    written = images.encode(picture, target, 92)
    assert opened(written).info["dpi"] == pytest.approx((150, 300), abs=0.02)
    if (source, target) == ("PNG", "png"):
        assert chunks(written)[b"pHYs"] == struct.pack(">IIB", 5906, 11811, 1)
    assert [w for w in images.losses(picture, target, 92) if "dpi" in w.message] == []
    assert any("150 dpi" in w.message for w in images.losses(picture, "webp", 92))


def test_no_resolution_is_invented() -> None:
    picture = decode(saved(Image.fromarray(smooth()), "JPEG", exif=b"Exif\0\0" + exif_block(1)))
    assert picture.dpi is None
    exif = Image.Exif()
    exif[X_RESOLUTION], exif[0x011B], exif[0x0128] = 240.0, 240.0, 2
    picture = decode(saved(Image.fromarray(smooth()), "JPEG", exif=exif))
    assert picture.dpi == (240, 240)
    assert opened(images.encode(picture, "png", 92)).info["dpi"] == pytest.approx((240, 240), abs=0.02)
    assert not any("dpi" in w.message for w in images.losses(picture, "webp", 92))


@pytest.mark.parametrize("deep", [False, True])
def test_a_pngs_description_of_its_colors_is_kept(deep: bool) -> None:
    described = {
        b"cICP": bytes([9, 16, 0, 1]),
        b"gAMA": struct.pack(">I", 100_000),
        b"cHRM": struct.pack(">8I", *range(8)),
        b"sRGB": b"\1",
    }
    extra = b"".join(chunk(kind, content) for kind, content in described.items())
    plain = png_16(images.to_depth(smooth(), 16)) if deep else saved(Image.fromarray(smooth()), "PNG")
    picture = decode(plain[:33] + extra + plain[33:])
    written = chunks(images.encode(picture, "png", 92))
    assert {kind: written.get(kind) for kind in described} == described
    for file_format in ("jpeg", "webp"):
        assert any("color" in w.message for w in images.losses(picture, file_format, 100))


@pytest.mark.parametrize(
    ("png_color", "icc", "lost"),
    [
        (((b"gAMA", struct.pack(">I", 45455)),), None, False),
        (((b"gAMA", struct.pack(">I", 100_000)),), None, True),
        (((b"gAMA", struct.pack(">I", 100_000)),), SRGB, False),
        (((b"sRGB", b"\0"), (b"gAMA", struct.pack(">I", 100_000))), None, False),
        (((b"cICP", bytes([9, 16, 0, 1])),), SRGB, True),
        (((b"cICP", bytes([1, 13, 0, 1])),), None, False),
    ],
)
def test_only_a_description_that_matters_is_warned_of(
    png_color: tuple[tuple[bytes, bytes], ...], icc: bytes | None, lost: bool
) -> None:
    picture = images.Picture(smooth(), png_color=png_color, icc=icc)
    assert any("color" in w.message for w in images.losses(picture, "jpeg", 92)) == lost


def test_metadata_that_does_not_fit_into_a_jpeg_is_dropped_with_a_warning() -> None:
    large = images.Picture(
        smooth(),
        noise(40, 60, 1)[..., 0],
        exif=b"Exif\0\0" + exif_block(1) + bytes(70_000),
        icc=bytes(17_000_000),
        dpi=(70_000.0, 70_000.0),
    )
    written = opened(images.encode(large, "jpeg", 92))
    assert not {"exif", "icc_profile"} & set(written.info)
    warnings = images.losses(large, "jpeg", 92)
    codes = [warning.code for warning in warnings]
    assert codes == ["lossy_output", "alpha_dropped", *["metadata_dropped"] * 3]
    messages = " ".join(warning.message for warning in warnings)
    for word in ("EXIF", "ICC", "70000 dpi"):
        assert word in messages
    assert not images.losses(large, "png", 92)
    assert [warning.code for warning in images.losses(large, "raw", 92)] == ["alpha_dropped"]
