"""Images as requests and responses carry them, files or raw pixels: decoding and encoding."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from atelier_runtime.errors import InvalidRequest
from atelier_runtime.images.picture import Format, Picture, from_raw
from atelier_runtime.images.reading import decode
from atelier_runtime.images.writing import encode, encode_gray_png

OutputFormat = Format | Literal["raw"]
"""A file format, or raw RGB8 pixels, row by row from the top left."""


@dataclass(frozen=True)
class InputImage:
    """The image of a request. `format` None: detected from the data. Raw pixels need the sizes, in px."""

    data: bytes
    format: OutputFormat | None = None
    width: int | None = None
    height: int | None = None


@dataclass(frozen=True)
class EncodedImage:
    """An encoded image and its size in px."""

    data: bytes
    format: OutputFormat
    width: int
    height: int


def decode_input(image: InputImage, *, max_pixels: int, field: str = "image", deep: bool = False) -> Picture:
    """Decode the image of a request. CPU-bound: not for the event loop.

    `deep`: 16-bit PNG is accepted, see `decode`. Raises `InvalidRequest` naming `field`.
    """
    if image.format == "raw":
        return from_raw(image.data, image.width, image.height, max_pixels=max_pixels, field=field)
    picture = decode(image.data, max_pixels=max_pixels, field=field, deep=deep)
    if image.format not in (None, picture.format):
        raise InvalidRequest.of(f"{field}.format", f"says {image.format}, but the data is {picture.format}")
    return picture


def encode_output(picture: Picture, image_format: OutputFormat, quality: int) -> EncodedImage:
    """Encode the image of a response. CPU-bound: not for the event loop."""
    if image_format == "raw":
        return EncodedImage(picture.eight_bit().tobytes(), "raw", picture.width, picture.height)
    data = encode(picture, image_format, quality)
    return EncodedImage(data, image_format, picture.width, picture.height)


def encode_mask(mask: NDArray[np.uint8]) -> EncodedImage:
    """Encode an 8-bit mask (H, W) as a gray PNG. CPU-bound: not for the event loop."""
    return EncodedImage(encode_gray_png(mask), "png", mask.shape[1], mask.shape[0])
