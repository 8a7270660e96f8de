"""The promise to a photo team: outside the mask every pixel is the input's, whatever the file."""

from __future__ import annotations

import io
from collections.abc import Callable

import cv2
import grpc
import numpy as np
import pytest
from PIL import Image, ImageCms, ImageOps

from atelier.common.v1 import image_pb2, skip_reason_pb2, warning_pb2
from atelier.restorer.v1 import restorer_service_pb2 as pb
from atelier_runtime import metrics
from tests.integration.restorer_server import Client, failure, forward_hook, photo, pixels, png, warning_codes

LOSSY = warning_pb2.WARNING_CODE_LOSSY_OUTPUT
SIDE = 400
PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def image_of(mode: str = "RGB") -> Image.Image:
    image = Image.fromarray(photo(SIDE, SIDE))
    if mode in ("LA", "RGBA"):
        alpha = Image.fromarray((np.indices((SIDE, SIDE)).sum(axis=0) % 256).astype(np.uint8))
        image = image.convert(mode)
        image.putalpha(alpha)
        return image
    return image.convert(mode)


def saved(image: Image.Image, file_format: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, file_format, **options)
    return buffer.getvalue()


def sepia() -> Image.Image:
    gray = photo(SIDE, SIDE)[..., :1].astype(np.float32)
    return Image.fromarray((gray * np.array([1.0, 0.85, 0.65])).astype(np.uint8))


def nearly_gray() -> Image.Image:
    gray = np.repeat(photo(SIDE, SIDE)[..., :1], 3, axis=2)
    gray[::2, ::3, 0] ^= 1
    return Image.fromarray(gray)


def rotated() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return saved(image_of().resize((SIDE, 300)), "JPEG", exif=exif, quality=95)


EIGHT_BITS: dict[str, Callable[[], bytes]] = {
    "color": lambda: saved(image_of(), "PNG"),
    "transparent": lambda: saved(image_of("RGBA"), "PNG"),
    "gray": lambda: saved(image_of("L"), "PNG"),
    "gray and transparent": lambda: saved(image_of("LA"), "PNG"),
    "palette": lambda: saved(image_of().quantize(40), "PNG"),
    "palette and transparent": lambda: saved(image_of().quantize(40), "PNG", transparency=3),
    "two levels": lambda: saved(image_of("1"), "PNG"),
    "sepia": lambda: saved(sepia(), "PNG"),
    "nearly gray": lambda: saved(nearly_gray(), "PNG"),
    "one color": lambda: saved(Image.new("RGB", (SIDE, SIDE), (200, 30, 90)), "PNG"),
    "JPEG": lambda: saved(image_of(), "JPEG", quality=80),
    "gray JPEG": lambda: saved(image_of("L"), "JPEG"),
    "rotated JPEG": rotated,
    "WebP": lambda: saved(image_of("RGBA"), "WEBP", lossless=True, exact=True),
    "1 px wide": lambda: png(photo(1, 300)),
    "1 px high": lambda: png(photo(300, 1)),
    "one pixel": lambda: png(photo(1, 1)),
}


@pytest.mark.parametrize("kind", EIGHT_BITS)
async def test_pixels_outside_the_mask_equal_the_inputs(restorer: Client, kind: str) -> None:
    data = EIGHT_BITS[kind]()
    with Image.open(io.BytesIO(data)) as opened:
        upright = ImageOps.exif_transpose(opened)
        was_gray = upright.mode in ("1", "L", "LA")
        expected = np.array(upright.convert("RGBA"))
    response = await restorer.restore(
        data, return_mask=True, max_faces=1, output={"format": image_pb2.IMAGE_FORMAT_PNG}
    )
    with Image.open(io.BytesIO(response.image.data)) as opened:
        assert (opened.mode in ("L", "LA")) == was_gray
        result = np.array(opened.convert("RGBA"))
    mask = pixels(response.mask)
    assert result.shape[:2] == expected.shape[:2] == mask.shape
    np.testing.assert_array_equal(result[mask == 0], expected[mask == 0])
    np.testing.assert_array_equal(result[..., 3], expected[..., 3], "alpha is unchanged")
    assert LOSSY not in warning_codes(response)
    if min(expected.shape[:2]) > 1:
        assert response.face_restoration_applied and (mask == 0).any()
    assert response.face_restoration_applied == bool(mask.any())


@pytest.mark.parametrize("channels", [1, 3, 4])
async def test_16_bits_outside_the_mask_equal_the_inputs(restorer: Client, channels: int) -> None:
    deep = np.random.default_rng(0).integers(0, 65536, (SIDE, SIDE, channels), np.uint16)
    data = cv2.imencode(".png", deep)[1].tobytes()
    response = await restorer.restore(data, return_mask=True, max_faces=1)
    result = cv2.imdecode(np.frombuffer(response.image.data, np.uint8), cv2.IMREAD_UNCHANGED)
    mask = pixels(response.mask)
    assert result is not None and result.dtype == np.uint16 and response.face_restoration_applied
    result = result.reshape(deep.shape)
    np.testing.assert_array_equal(result[mask == 0], deep[mask == 0])
    assert (result[mask == 255] != deep[mask == 255]).any()


async def test_metadata_of_a_photo_is_kept(restorer: Client) -> None:
    exif = Image.Exif()
    exif[0x010F], exif[0x0112] = "Camera & Sons", 8
    data = saved(image_of(), "JPEG", exif=exif, icc_profile=PROFILE, dpi=(240, 240), quality=95)
    for number, name in ((image_pb2.IMAGE_FORMAT_PNG, "PNG"), (image_pb2.IMAGE_FORMAT_JPEG, "JPEG")):
        response = await restorer.restore(data, max_faces=1, output={"format": number})
        with Image.open(io.BytesIO(response.image.data)) as opened:
            assert opened.format == name
            assert opened.info["icc_profile"] == PROFILE
            assert opened.info["dpi"] == pytest.approx((240, 240), abs=0.1)
            assert (opened.getexif()[0x010F], opened.getexif()[0x0112]) == ("Camera & Sons", 1)
        lossy = LOSSY in warning_codes(response)
        assert lossy == (name == "JPEG")


async def test_the_pixel_limit_is_exact_and_named(blind_restorer: Client) -> None:
    largest = photo(2000, 1000)
    np.testing.assert_array_equal(pixels((await blind_restorer.restore(png(largest))).image), largest)
    request = pb.RestoreFacesRequest(image={"data": png(photo(2000, 1001))})
    code, _, fields, _ = await failure(blind_restorer.stub.RestoreFaces(request))
    assert (code, fields) == (grpc.StatusCode.INVALID_ARGUMENT, ["image"])
    with pytest.raises(grpc.aio.AioRpcError, match="2000000"):
        await blind_restorer.stub.RestoreFaces(request)


async def test_cmyk_is_refused_by_name(blind_restorer: Client) -> None:
    with pytest.raises(grpc.aio.AioRpcError, match="CMYK"):
        await blind_restorer.restore(saved(image_of("CMYK"), "JPEG"))


async def test_a_failed_face_is_reported_in_response_metrics_and_log(
    restorer: Client, caplog: pytest.LogCaptureFixture
) -> None:
    """Five faces, the network raises on one: four are restored."""
    source = np.full((640, 1500, 3), 90, np.uint8)
    source[:, :200] = 250

    def raises(network: object, inputs: tuple[object, ...], output: object) -> None:
        crops = np.asarray(inputs[0])
        if (crops.max(axis=(1, 2, 3)) > 0.9).any():
            raise RuntimeError("a bright face")

    found = (await restorer.stub.DetectFaces(pb.DetectFacesRequest(image={"data": png(source)}))).faces
    bright = [face for face in found if face.box.x1_px < 150]
    plain = [face for face in found if face.box.x1_px > 450]
    edits = [pb.FaceEdit(face=face) for face in [bright[0], *plain[:2], *plain[:2]]]
    before = [outcomes("failed"), outcomes("restored")]
    with forward_hook(restorer.codeformer, raises):
        response = await restorer.restore(png(source), faces=edits)
    failed = skip_reason_pb2.SKIP_REASON_FAILED
    assert [face.restored for face in response.faces] == [False, True, True, True, True]
    assert response.faces[0].reason == failed and response.face_restoration_applied
    assert [outcomes("failed"), outcomes("restored")] == [before[0] + 1, before[1] + 4]
    assert "a face could not be restored" in caplog.messages


def outcomes(name: str) -> float:
    return float(metrics.FACES.labels(name)._value.get())
