"""A decoded image: its pixels in 8 or 16 bits, and a photo's metadata."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from atelier_runtime.errors import InvalidRequest

Format = Literal["png", "jpeg", "webp"]
FORMATS: tuple[Format, ...] = ("png", "jpeg", "webp")

RgbArray = NDArray[np.uint8]
PixelArray = NDArray[Any]  # uint8 or uint16

_BAND_SAMPLES = 2**20


class ImageFault(ValueError):
    """What is wrong with a file or a part of it, as a phrase that follows its name."""


@dataclass(frozen=True)
class Picture:
    """A decoded image.

    `rgb`: uint8 or uint16 (H, W, 3), orientation applied. `alpha`: (H, W) of the same dtype, or None.
    `gray`: the file had one channel; `encode` writes one channel again.
    `icc`: the file's bytes. `exif`, `xmp`: the file's bytes, their orientation set to 1 (see `metadata`).
    `dpi`: (x, y) or None. `png_color`: a PNG's chunks that define its color space, as (type, data).
    `format`: the file's format, None for raw pixels.

    `extended_xmp`: the rest of `xmp` from a JPEG, where a packet is limited to 64 KiB.
    `photoshop`: Photoshop's image resources, which contain IPTC; `comments`: those of a JPEG, in their own
    encoding; `texts`: those of a PNG, as (type, data).
    `faults`: what was wrong with the pixels' part of the file; `dropped`: what it contained besides the image
    and is not kept in any format. Both are sentences.
    """

    rgb: PixelArray
    alpha: PixelArray | None = None
    gray: bool = False
    icc: bytes | None = None
    exif: bytes | None = None
    xmp: bytes | None = None
    dpi: tuple[float, float] | None = None
    png_color: tuple[tuple[bytes, bytes], ...] = ()
    format: Format | None = None
    extended_xmp: bytes | None = None
    photoshop: bytes | None = None
    comments: tuple[bytes, ...] = ()
    texts: tuple[tuple[bytes, bytes], ...] = ()
    faults: tuple[str, ...] = ()
    dropped: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Raise `ValueError` if alpha's size or dtype differs from the colors'."""
        if self.alpha is not None:
            expected, given = (self.rgb.shape[:2], self.rgb.dtype), (self.alpha.shape, self.alpha.dtype)
            if expected != given:
                raise ValueError(f"alpha has {given}, expected {expected}")

    @property
    def width(self) -> int:
        """Width in px."""
        return int(self.rgb.shape[1])

    @property
    def height(self) -> int:
        """Height in px."""
        return int(self.rgb.shape[0])

    @property
    def bits(self) -> int:
        """Bits per channel: 8 or 16."""
        return 8 * self.rgb.itemsize

    def eight_bit(self) -> RgbArray:
        """Return the colors in 8 bits, as networks take them; not copied if they have 8."""
        return to_eight_bit(self.rgb)

    def with_pixels(self, rgb: PixelArray, alpha: PixelArray | None) -> Picture:
        """Return an image with these pixels and this one's metadata."""
        return replace(self, rgb=rgb, alpha=alpha)


def to_eight_bit(pixels: PixelArray) -> RgbArray:
    """Return 16-bit samples of any shape rounded to 8 bits (x / 257); 8-bit samples as they are, not copied.

    65535 / 255 = 257, so black and white are preserved. Works in bands of rows: needs only a few MB besides
    the result.
    """
    if pixels.dtype == np.uint8:
        return pixels
    result = np.empty(pixels.shape, np.uint8)
    rows = max(1, _BAND_SAMPLES * len(pixels) // max(1, pixels.size))
    for first in range(0, len(pixels), rows):
        band = pixels[first : first + rows].astype(np.uint32)
        result[first : first + rows] = (band + 128) // 257
    return result


def to_depth(pixels: RgbArray, bits: int) -> PixelArray:
    """Return 8-bit samples in 8 bits (as they are, not copied) or 16 bits (x * 257).

    `to_eight_bit` restores the same samples. Raises `ValueError` for any other depth.
    """
    if bits == 8:
        return pixels
    if bits != 16:
        raise ValueError(f"{bits} bits per channel; 8 and 16 are supported")
    return pixels * np.uint16(257)


def from_raw(data: bytes, width: int | None, height: int | None, *, max_pixels: int, field: str) -> Picture:
    """Wrap raw RGB8 bytes without copying them. Raises `InvalidRequest` if sizes and bytes do not match."""
    if not width or not height:
        raise InvalidRequest.of(field, "is raw RGB8, which requires width_px and height_px of at least 1")
    if width * height > max_pixels:
        raise InvalidRequest.of(field, over_limit(width, height, max_pixels))
    if len(data) != width * height * 3:
        raise InvalidRequest.of(
            field, f"has {len(data)} bytes; {width}x{height} raw RGB8 requires {width * height * 3}"
        )
    return Picture(rgb=np.frombuffer(data, np.uint8).reshape(height, width, 3))


def over_limit(width: int, height: int, max_pixels: int) -> str:
    """Return the message for an image that is too large, with both figures."""
    return f"has {width}x{height} = {width * height} pixels; the limit is {max_pixels} pixels"


def message_limit_bytes(max_pixels: int) -> int:
    """Return the maximum size of a gRPC message that carries images of up to `max_pixels`.

    Enough for four incompressible 16-bit channels, or raw RGB8 and a mask, plus overhead; but never more than
    a message can have, 2 GiB minus one byte. (From 268 megapixels on, 16-bit noise may not fit.)
    """
    return min(8 * max_pixels + 4 * 2**20, 2**31 - 1)
