"""Decodes files: the header is checked first, pixels are turned upright, and no sample is lost."""

from __future__ import annotations

import io
import math
import struct
from typing import Any, cast

import numpy as np
from PIL import Image, PngImagePlugin, UnidentifiedImageError

from atelier_runtime.errors import InvalidRequest
from atelier_runtime.images import metadata, png, structure
from atelier_runtime.images.picture import FORMATS, Format, Picture, PixelArray, over_limit

Image.MAX_IMAGE_PIXELS = None  # `decode` checks the header against the caller's own limit
PngImagePlugin.MAX_TEXT_CHUNK = 8 * 2**20  # Pillow's 1 MiB refuses some printers' ICC profiles

_BAND_PIXELS = 2**19


def decode(data: bytes, *, max_pixels: int, field: str = "image", deep: bool = False) -> Picture:
    """Decode a PNG, JPEG or WebP file. Of a camera's JPEG with several images (MPO) the first is used.

    The header is read first: an image above `max_pixels` is rejected before its pixels are decoded. A palette
    is replaced by its colors; grays of 1, 2 and 4 bits are scaled to 8; a transparent color becomes alpha.
    `deep`: 16-bit PNG is accepted, as uint16, and decoded by OpenCV, on which the caller's package must
    depend; otherwise it is rejected.

    Raises `InvalidRequest` naming `field` if the file is corrupt, truncated, too large, animated, CMYK, too
    deep, of another format, or has more parts than `structure` allows.
    """
    if not data:
        raise InvalidRequest.of(field, "is empty; a PNG, JPEG or WebP file is required")
    if (problem := structure.problem_of(data)) is not None:
        raise InvalidRequest.of(field, problem)
    try:
        with Image.open(io.BytesIO(data), formats=[f.upper() for f in FORMATS]) as image:
            _reject_unsupported(image, max_pixels, field)
            chunks = png.read_chunks(data) if image.format == "PNG" else None
            if chunks is not None and chunks.depth > 8:
                _reject_too_deep(image, deep, field)
                rgb, alpha = png.read_16_bit(data, chunks)
                return _picture(image, rgb, alpha, chunks.color_type in (0, 4), chunks)
            image.load()
            rgb, alpha, gray = _eight_bit_pixels(image, chunks)
            return _picture(image, rgb, alpha, gray, chunks)
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
        raise InvalidRequest.of(field, "cannot be decoded: the file is corrupt or truncated") from None


def _reject_unsupported(image: Image.Image, max_pixels: int, field: str) -> None:
    width, height = image.size
    if width * height > max_pixels:
        raise InvalidRequest.of(field, over_limit(width, height, max_pixels))
    # Cameras append a preview or a depth map to the photo (MPO): that is not an animation.
    if image.format != "MPO" and getattr(image, "n_frames", 1) > 1:
        raise InvalidRequest.of(field, "is animated; an image with a single frame is required")
    if image.mode in ("CMYK", "YCCK", "LAB", "HSV"):
        raise InvalidRequest.of(field, f"is in {image.mode}; convert it to RGB or gray first")


def _reject_too_deep(image: Image.Image, deep: bool, field: str) -> None:
    if not deep:
        raise InvalidRequest.of(field, "has more than 8 bits per channel; the limit is 8")
    if max(image.size) > png.LARGEST_16_BIT_SIDE_PX:
        raise InvalidRequest.of(
            field,
            f"has a side of {max(image.size)} px; the limit for 16 bits is {png.LARGEST_16_BIT_SIDE_PX} px",
        )


def _eight_bit_pixels(
    image: Image.Image, chunks: png.Chunks | None
) -> tuple[PixelArray, PixelArray | None, bool]:
    gray = image.mode in ("1", "L", "LA")
    transparent = image.info.get("transparency")
    if chunks is not None and image.mode == "L" and chunks.depth < 8 and isinstance(transparent, int):
        # Pillow scales the samples to 0..255, but not the one that is transparent.
        image.info["transparency"] = transparent * 255 // (2**chunks.depth - 1)
    has_alpha = "A" in image.getbands() or transparent is not None
    mode = "RGBA" if has_alpha else "RGB"
    width, height = image.size
    rgb = np.empty((height, width, 3), np.uint8)
    alpha = np.empty((height, width), np.uint8) if has_alpha else None
    # In bands of rows: Pillow makes several copies of what it converts.
    rows = max(1, _BAND_PIXELS // width)
    for top in range(0, height, rows):
        band = image.crop((0, top, width, min(top + rows, height)))
        pixels = np.asarray(band if band.mode == mode else band.convert(mode))
        rgb[top : top + rows] = pixels[:, :, :3]
        if alpha is not None:
            alpha[top : top + rows] = pixels[:, :, 3]
    return rgb, alpha, gray


def _picture(
    image: Image.Image, rgb: PixelArray, alpha: PixelArray | None, gray: bool, chunks: png.Chunks | None
) -> Picture:
    """Add the metadata, and turn the pixels upright: as EXIF says, else as XMP does."""
    exif, xmp = metadata.raw_exif(image.info), image.info.get("xmp")
    if chunks is not None:  # Pillow has not read the chunks that follow 16-bit pixels
        exif, xmp = metadata.without_prefix(chunks.first.get(b"eXIf", b"")) or exif, chunks.xmp
    dpi = _resolution(image, exif)
    orientation = xmp_orientation = None
    if exif:
        orientation, exif = metadata.normalize_orientation(exif)
    if xmp:
        xmp_orientation, xmp = metadata.normalize_xmp_orientation(xmp)
    orientation = orientation or xmp_orientation or 1
    if orientation >= 5 and dpi:
        dpi = dpi[1], dpi[0]
    return Picture(
        rgb=_upright(rgb, orientation),
        alpha=None if alpha is None else _upright(alpha, orientation),
        gray=gray,
        icc=image.info.get("icc_profile") or None,
        exif=metadata.EXIF_PREFIX + exif if exif else None,
        xmp=xmp or None,
        dpi=dpi,
        png_color=chunks.color if chunks else (),
        format="jpeg" if image.format == "MPO" else cast(Format, str(image.format).lower()),
    )


def _resolution(image: Image.Image, exif: bytes | None) -> tuple[float, float] | None:
    """Return x and y in dpi. A PNG's pixel aspect ratio without a unit is dropped."""
    info: dict[Any, Any] = image.info
    dpi = info.get("dpi")
    if dpi is None or len(dpi) != 2:
        return None
    in_header = image.format == "PNG" or info.get("jfif_unit") in (1, 2)
    if not in_header and not (exif and metadata.has_tag(exif, metadata.X_RESOLUTION)):
        return None  # Pillow reports 72 for a JPEG without a resolution
    x, y = float(dpi[0]), float(dpi[1])
    return (x, y) if min(x, y) > 0 and math.isfinite(x + y) else None


def _upright(pixels: PixelArray, orientation: int) -> PixelArray:
    """Return pixels (H, W) or (H, W, 3) rotated and flipped by an EXIF orientation, 1 to 8."""
    if orientation == 1:
        return pixels
    # As one item per pixel this is three times as fast.
    whole = np.dtype((np.void, pixels.itemsize * (pixels.shape[2] if pixels.ndim == 3 else 1)))
    rotated = np.ascontiguousarray(pixels).view(whole).reshape(pixels.shape[:2])
    rotated = rotated[
        :: -1 if orientation in (3, 4, 6, 7) else 1, :: -1 if orientation in (2, 3, 7, 8) else 1
    ]
    if orientation >= 5:
        rotated = rotated.T
    return np.ascontiguousarray(rotated).view(pixels.dtype).reshape(*rotated.shape, *pixels.shape[2:])
