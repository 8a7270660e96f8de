"""Pictures in and out: decoded with a limit, encoded once, with what belongs to a photograph kept."""

from __future__ import annotations

import io
import struct
import zlib
from dataclasses import dataclass, replace
from typing import Literal, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from atelier_runtime.errors import InvalidRequest

Image.MAX_IMAGE_PIXELS = None  # `decode` checks the header against the caller's own limit

Format = Literal["png", "jpeg", "webp"]
FORMATS: tuple[Format, ...] = ("png", "jpeg", "webp")
RgbArray = NDArray[np.uint8]

_FAST_PNG = {"compress_level": 1, "compress_type": zlib.Z_RLE}
"""A quarter of the time of Pillow's default for files of the same size (bench/encode.py)."""
_EXIF_ORIENTATION = 0x0112


@dataclass(frozen=True)
class Picture:
    """A decoded picture.

    `rgb`: uint8 (H, W, 3), orientation applied. `alpha`: uint8 (H, W) or None.
    `gray`: the file had one channel; `encode` writes one channel again.
    `icc`, `exif`: the file's bytes, EXIF's orientation set to 1. `dpi`: (x, y) or None.
    `format`: what the file was, None for raw pixels.
    """

    rgb: RgbArray
    alpha: NDArray[np.uint8] | None = None
    gray: bool = False
    icc: bytes | None = None
    exif: bytes | None = None
    dpi: tuple[float, float] | None = None
    format: Format | None = None

    @property
    def width(self) -> int:
        """Width in px."""
        return self.rgb.shape[1]

    @property
    def height(self) -> int:
        """Height in px."""
        return self.rgb.shape[0]

    def with_pixels(self, rgb: RgbArray, alpha: NDArray[np.uint8] | None) -> Picture:
        """Return the same photograph with other pixels."""
        return replace(self, rgb=rgb, alpha=alpha)


def decode(data: bytes, *, max_pixels: int, field: str = "image") -> Picture:
    """Decode a PNG, JPEG or WebP file. Of a camera's JPEG with several pictures (MPO) the first is taken.

    The header is read first: a picture above `max_pixels` is refused before its pixels are touched.
    Raises `InvalidRequest` naming `field` for what is truncated, too large, animated, CMYK, of more than
    8 bits a channel, or no picture of these formats.
    """
    if not data:
        raise InvalidRequest.of(field, "is empty; a PNG, JPEG or WebP file is needed")
    try:
        with Image.open(io.BytesIO(data), formats=[f.upper() for f in FORMATS]) as image:
            _refuse_unsupported(image, data, max_pixels, field)
            image.load()
            return _to_picture(image)
    except InvalidRequest:
        raise
    except UnidentifiedImageError:
        raise InvalidRequest.of(field, "is not a PNG, JPEG or WebP file") from None
    except (
        OSError,
        SyntaxError,
        ValueError,
        EOFError,
        IndexError,
        struct.error,
        Image.DecompressionBombError,
    ):
        raise InvalidRequest.of(field, "cannot be decoded: the file is damaged or cut short") from None


def _refuse_unsupported(image: Image.Image, data: bytes, max_pixels: int, field: str) -> None:
    width, height = image.size
    if width * height > max_pixels:
        raise InvalidRequest.of(
            field, f"has {width}x{height} = {width * height} pixels; the limit is {max_pixels} pixels"
        )
    # Cameras put a preview or a depth map behind the photograph (MPO): that is no animation.
    if image.format != "MPO" and getattr(image, "n_frames", 1) > 1:
        raise InvalidRequest.of(field, "is animated; a picture with one frame is needed")
    if image.mode in ("CMYK", "YCCK", "LAB", "HSV"):
        raise InvalidRequest.of(field, f"is in {image.mode}; convert it to RGB or gray first")
    png_bit_depth = data[24] if image.format == "PNG" and len(data) > 24 else 8
    if png_bit_depth > 8 or image.mode in ("I", "F", "I;16", "I;16B"):
        raise InvalidRequest.of(field, "has more than 8 bits a channel; the limit is 8")


def _to_picture(image: Image.Image) -> Picture:
    file_format = "jpeg" if image.format == "MPO" else cast(Format, str(image.format).lower())
    icc = image.info.get("icc_profile")
    dpi = image.info.get("dpi")
    exif = image.getexif()
    image = ImageOps.exif_transpose(image)
    if _EXIF_ORIENTATION in exif:
        exif[_EXIF_ORIENTATION] = 1
    alpha = None
    if "A" in image.getbands() or "transparency" in image.info:
        image = image.convert("RGBA")
        alpha = np.array(image.getchannel("A"))
    gray = image.mode in ("1", "L", "LA")
    return Picture(
        rgb=np.array(image.convert("RGB")),
        alpha=alpha,
        gray=gray,
        icc=icc,
        exif=exif.tobytes() if len(exif) else None,
        dpi=(float(dpi[0]), float(dpi[1])) if dpi else None,
        format=file_format,
    )


def from_raw(data: bytes, width: int | None, height: int | None, *, max_pixels: int, field: str) -> Picture:
    """Wrap raw RGB8 bytes without copying them. Raises `InvalidRequest` if sizes and bytes do not match."""
    if not width or not height:
        raise InvalidRequest.of(field, "is raw RGB8; width_px and height_px are needed, at least 1")
    if width * height > max_pixels:
        raise InvalidRequest.of(
            field, f"has {width}x{height} = {width * height} pixels; the limit is {max_pixels} pixels"
        )
    if len(data) != width * height * 3:
        raise InvalidRequest.of(
            field, f"has {len(data)} bytes; {width}x{height} raw RGB8 needs {width * height * 3}"
        )
    return Picture(rgb=np.frombuffer(data, np.uint8).reshape(height, width, 3))


def encode(picture: Picture, file_format: Format, quality: int) -> bytes:
    """Encode a picture; `quality` (1 to 100) is for JPEG and WebP.

    Alpha is kept by PNG and WebP; JPEG has none, so callers say so
    in a warning. ICC profile, EXIF and DPI go along.
    """
    image = Image.fromarray(picture.rgb[:, :, 0] if picture.gray else picture.rgb)
    if picture.alpha is not None and file_format != "jpeg":
        image.putalpha(Image.fromarray(picture.alpha))
    options: dict[str, object] = {}
    if picture.icc is not None:
        options["icc_profile"] = picture.icc
    if picture.exif is not None:
        options["exif"] = picture.exif
    if picture.dpi is not None and file_format != "webp":
        options["dpi"] = picture.dpi
    if file_format == "png":
        options |= _FAST_PNG
    else:
        options["quality"] = quality
    if file_format == "webp":
        options["exact"] = True  # keep the colours of transparent pixels
        options["method"] = 2  # a third of the default's time
    if file_format == "jpeg" and quality >= 90:
        options["subsampling"] = 0
    buffer = io.BytesIO()
    image.save(buffer, file_format.upper(), **options)
    return buffer.getvalue()


def encode_gray_png(mask: NDArray[np.uint8]) -> bytes:
    """Encode one 8-bit channel (H, W) as a gray PNG."""
    buffer = io.BytesIO()
    Image.fromarray(mask).save(buffer, "PNG", **_FAST_PNG)
    return buffer.getvalue()


def message_limit_bytes(max_pixels: int) -> int:
    """Return the largest gRPC message for pictures up to `max_pixels`: raw RGB8, a mask, and room beside."""
    return 4 * max_pixels + 4 * 2**20
