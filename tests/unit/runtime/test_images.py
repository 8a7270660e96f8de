import io
import zlib

import numpy as np
import pytest
from PIL import Image

from atelier_runtime import images
from atelier_runtime.errors import InvalidRequest
from tests.unit.runtime.image_files import chunk, header, saved

LIMIT = 100_000


def noise_image(height: int = 40, width: int = 60) -> np.ndarray:
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (height, width, 3), dtype=np.uint8)


def decode(data: bytes) -> images.Picture:
    return images.decode(data, max_pixels=LIMIT)


@pytest.mark.parametrize("file_format", ["png", "webp", "jpeg"])
def test_an_encoded_image_is_decoded_again(file_format: images.Format) -> None:
    y, x = np.mgrid[0:40, 0:60]
    rgb = np.dstack([4 * x, 6 * y, 2 * x + 3 * y]).astype(np.uint8)
    back = decode(images.encode(images.Picture(rgb), file_format, 95))
    assert back.format == file_format
    assert back.rgb.shape == rgb.shape
    if file_format == "png":
        assert np.array_equal(back.rgb, rgb)
    else:
        assert np.abs(back.rgb.astype(int) - rgb).mean() < 3


def test_alpha_gray_icc_dpi_and_exif_are_kept() -> None:
    from PIL import ImageCms

    icc = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    exif = Image.Exif()
    exif[0x010E] = "a wedding"
    rgba = np.dstack([noise_image(), noise_image()[:, :, 0]])
    picture = decode(saved(Image.fromarray(rgba), "PNG", icc_profile=icc, exif=exif, dpi=(300, 300)))
    np.testing.assert_array_equal(picture.alpha, rgba[:, :, 3])
    back = decode(images.encode(picture, "png", 92))
    assert np.array_equal(back.rgb, rgba[:, :, :3])
    np.testing.assert_array_equal(back.alpha, rgba[:, :, 3])
    assert back.icc == icc
    assert back.dpi == pytest.approx((300, 300), abs=0.1)
    with Image.open(io.BytesIO(images.encode(picture, "png", 92))) as file:
        assert file.getexif()[0x010E] == "a wedding"

    gray = decode(saved(Image.fromarray(noise_image()[:, :, 0]), "PNG"))
    assert gray.gray
    with Image.open(io.BytesIO(images.encode(gray, "png", 92))) as file:
        assert file.mode == "L"


def test_the_orientation_is_applied_and_then_written_as_1() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # to be rotated a quarter clockwise for display
    rgb = np.zeros((16, 32, 3), np.uint8)
    rgb[:, :16] = 255
    picture = decode(saved(Image.fromarray(rgb), "JPEG", quality=100, exif=exif))
    assert (picture.height, picture.width) == (32, 16)
    assert picture.rgb[:14].mean() > 250 and picture.rgb[18:].mean() < 5
    with Image.open(io.BytesIO(images.encode(picture, "jpeg", 92))) as file:
        assert file.getexif()[0x0112] == 1


def test_of_a_cameras_file_with_several_images_the_first_is_used() -> None:
    y, x = np.mgrid[0:40, 0:60]
    photo = Image.fromarray(np.dstack([4 * x, 6 * y, 2 * x + 3 * y]).astype(np.uint8))
    preview = Image.new("RGB", (16, 16), "red")
    data = saved(photo, "MPO", save_all=True, append_images=[preview], quality=95)
    picture = decode(data)
    assert (picture.format, picture.width, picture.height) == ("jpeg", 60, 40)
    assert np.abs(picture.rgb.astype(int) - np.asarray(photo)).mean() < 3


def png_header(width: int, height: int) -> bytes:
    return header(width, height, 8, 2) + chunk(b"IDAT", zlib.compress(b""))


GOOD = saved(Image.fromarray(noise_image()), "PNG")
FRAMES = [Image.fromarray(noise_image()), Image.fromarray(255 - noise_image())]


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"", "empty"),
        (b"not an image", "not a PNG"),
        (GOOD[:200], "truncated"),
        (saved(Image.fromarray(noise_image()), "JPEG")[:-200], "truncated"),
        (png_header(20_000, 20_000), "100000 pixels"),
        (png_header(2**31 - 1, 2**31 - 1), "100000 pixels"),
        (png_header(0, 10), "0x10 pixels"),
        (saved(Image.fromarray(noise_image()), "GIF"), "a GIF, not a PNG"),
        (saved(Image.fromarray(noise_image()), "TIFF"), "a TIFF"),
        (saved(Image.fromarray(noise_image()), "BMP"), "a BMP"),
        (saved(Image.fromarray(noise_image()).convert("CMYK"), "JPEG"), "CMYK"),
        (
            saved(Image.fromarray(noise_image()[:, :, 0].astype(np.uint16) * 256), "PNG"),
            "more than 8 bits",
        ),
        (saved(FRAMES[0], "WEBP", save_all=True, append_images=FRAMES[1:]), "animated"),
        (saved(FRAMES[0], "PNG", save_all=True, append_images=FRAMES[1:]), "animated"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused(data: bytes, problem: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        images.decode(data, max_pixels=LIMIT, field="photo")
    [violation] = caught.value.fields
    assert violation.field == "photo"
    assert problem in violation.message


@pytest.mark.parametrize(("width", "height"), [(None, 10), (10, 0), (10, 11), (100_000, 100_000)])
def test_raw_pixels_need_matching_sizes(width: int | None, height: int | None) -> None:
    with pytest.raises(InvalidRequest):
        images.from_raw(bytes(300), width, height, max_pixels=LIMIT, field="image")


def test_raw_pixels_are_used_unchanged() -> None:
    rgb = noise_image()
    picture = images.from_raw(rgb.tobytes(), 60, 40, max_pixels=LIMIT, field="image")
    assert np.array_equal(picture.rgb, rgb)


@pytest.mark.parametrize("image_format", ["png", "jpeg", "webp"])
def test_a_requests_image_is_decoded_and_its_format_checked(image_format: images.Format) -> None:
    data = images.encode(images.Picture(noise_image()), image_format, 92)
    for named in (None, image_format):
        picture = images.decode_input(images.InputImage(data, named), max_pixels=LIMIT)
        assert (picture.format, picture.width, picture.height) == (image_format, 60, 40)
    other: images.Format = "webp" if image_format == "png" else "png"
    with pytest.raises(InvalidRequest, match=f"{other}.*{image_format}") as caught:
        images.decode_input(images.InputImage(data, other), max_pixels=LIMIT, field="restore.image")
    assert [violation.field for violation in caught.value.fields] == ["restore.image.format"]


def test_a_requests_raw_pixels_need_their_sizes() -> None:
    rgb = noise_image()
    image = images.InputImage(rgb.tobytes(), "raw", 60, 40)
    assert np.array_equal(images.decode_input(image, max_pixels=LIMIT).rgb, rgb)
    for width, height in ((None, None), (60, 41)):
        with pytest.raises(InvalidRequest):
            images.decode_input(images.InputImage(rgb.tobytes(), "raw", width, height), max_pixels=LIMIT)


@pytest.mark.parametrize("image_format", ["png", "jpeg", "webp", "raw"])
def test_a_responses_image_has_its_format_and_size(image_format: images.OutputFormat) -> None:
    rgb = noise_image()
    encoded = images.encode_output(images.Picture(rgb), image_format, 100)
    assert (encoded.format, encoded.width, encoded.height) == (image_format, 60, 40)
    back = images.decode_input(
        images.InputImage(encoded.data, encoded.format, encoded.width, encoded.height), max_pixels=LIMIT
    )
    assert image_format == "jpeg" or np.array_equal(back.rgb, rgb)


def test_raw_output_has_8_bits_and_no_alpha() -> None:
    rgb = noise_image()
    deep = images.Picture(images.to_depth(rgb, 16), np.full((40, 60), 7, np.uint16))
    assert images.encode_output(deep, "raw", 92).data == rgb.tobytes()


def test_a_mask_is_encoded_as_a_gray_png() -> None:
    mask = noise_image()[..., 0]
    encoded = images.encode_mask(mask)
    assert (encoded.format, encoded.width, encoded.height) == ("png", 60, 40)
    with Image.open(io.BytesIO(encoded.data)) as file:
        assert file.mode == "L" and np.array_equal(np.asarray(file), mask)
