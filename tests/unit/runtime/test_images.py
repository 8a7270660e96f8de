import io
import zlib

import numpy as np
import pytest
from PIL import Image

from atelier_runtime import images
from atelier_runtime.errors import InvalidRequest
from tests.unit.runtime.picture_files import chunk, header, saved

LIMIT = 100_000


def drawing(height: int = 40, width: int = 60) -> np.ndarray:
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (height, width, 3), dtype=np.uint8)


def decode(data: bytes) -> images.Picture:
    return images.decode(data, max_pixels=LIMIT)


@pytest.mark.parametrize("file_format", ["png", "webp", "jpeg"])
def test_what_is_encoded_is_decoded_again(file_format: images.Format) -> None:
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
    rgba = np.dstack([drawing(), drawing()[:, :, 0]])
    picture = decode(saved(Image.fromarray(rgba), "PNG", icc_profile=icc, exif=exif, dpi=(300, 300)))
    assert np.array_equal(picture.alpha, rgba[:, :, 3])
    back = decode(images.encode(picture, "png", 92))
    assert np.array_equal(back.rgb, rgba[:, :, :3])
    assert np.array_equal(back.alpha, rgba[:, :, 3])
    assert back.icc == icc
    assert back.dpi == pytest.approx((300, 300), abs=0.1)
    with Image.open(io.BytesIO(images.encode(picture, "png", 92))) as file:
        assert file.getexif()[0x010E] == "a wedding"

    gray = decode(saved(Image.fromarray(drawing()[:, :, 0]), "PNG"))
    assert gray.gray
    with Image.open(io.BytesIO(images.encode(gray, "png", 92))) as file:
        assert file.mode == "L"


def test_orientation_is_applied_and_then_written_as_one() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turn a quarter clockwise to see it upright
    rgb = np.zeros((16, 32, 3), np.uint8)
    rgb[:, :16] = 255
    picture = decode(saved(Image.fromarray(rgb), "JPEG", quality=100, exif=exif))
    assert (picture.height, picture.width) == (32, 16)
    assert picture.rgb[:14].mean() > 250 and picture.rgb[18:].mean() < 5
    with Image.open(io.BytesIO(images.encode(picture, "jpeg", 92))) as file:
        assert file.getexif()[0x0112] == 1


def test_of_a_cameras_file_with_several_pictures_the_first_is_taken() -> None:
    y, x = np.mgrid[0:40, 0:60]
    photograph = Image.fromarray(np.dstack([4 * x, 6 * y, 2 * x + 3 * y]).astype(np.uint8))
    preview = Image.new("RGB", (16, 16), "red")
    data = saved(photograph, "MPO", save_all=True, append_images=[preview], quality=95)
    picture = decode(data)
    assert (picture.format, picture.width, picture.height) == ("jpeg", 60, 40)
    assert np.abs(picture.rgb.astype(int) - np.asarray(photograph)).mean() < 3


def png_header(width: int, height: int) -> bytes:
    return header(width, height, 8, 2) + chunk(b"IDAT", zlib.compress(b""))


GOOD = saved(Image.fromarray(drawing()), "PNG")
FRAMES = [Image.fromarray(drawing()), Image.fromarray(255 - drawing())]


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "is empty"),
        (b"not a picture", "is not a PNG"),
        (GOOD[:200], "damaged or cut short"),
        (saved(Image.fromarray(drawing()), "JPEG")[:-200], "damaged or cut short"),
        (png_header(20_000, 20_000), "the limit is 100000 pixels"),
        (png_header(2**31 - 1, 2**31 - 1), "the limit is"),
        (png_header(0, 10), "not a PNG"),
        (saved(Image.fromarray(drawing()), "GIF"), "is not a PNG"),
        (saved(Image.fromarray(drawing()), "TIFF"), "is not a PNG"),
        (saved(Image.fromarray(drawing()), "BMP"), "is not a PNG"),
        (saved(Image.fromarray(drawing()).convert("CMYK"), "JPEG"), "is in CMYK"),
        (saved(Image.fromarray(drawing()[:, :, 0].astype(np.uint16) * 256), "PNG"), "more than 8 bits"),
        (saved(FRAMES[0], "WEBP", save_all=True, append_images=FRAMES[1:]), "is animated"),
        (saved(FRAMES[0], "PNG", save_all=True, append_images=FRAMES[1:]), "is animated"),
    ],
)
def test_what_cannot_be_used_is_refused_by_name(data: bytes, says: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        images.decode(data, max_pixels=LIMIT, field="photo")
    [violation] = caught.value.fields
    assert violation.field == "photo"
    assert says in violation.message


@pytest.mark.parametrize(("width", "height"), [(None, 10), (10, 0), (10, 11), (100_000, 100_000)])
def test_raw_pixels_need_matching_sizes(width: int | None, height: int | None) -> None:
    with pytest.raises(InvalidRequest):
        images.from_raw(bytes(300), width, height, max_pixels=LIMIT, field="image")


def test_raw_pixels_are_wrapped_as_they_are() -> None:
    rgb = drawing()
    picture = images.from_raw(rgb.tobytes(), 60, 40, max_pixels=LIMIT, field="image")
    assert np.array_equal(picture.rgb, rgb)
