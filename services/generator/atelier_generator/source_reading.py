"""From the files of a request's image and mask to its `Source`, and from there to the size of a pass.

CPU-bound: not for the event loop.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageFilter

from atelier_generator.request import GenerateRequest, MaskKind
from atelier_generator.source import MaskArray, Source
from atelier_runtime import defaults
from atelier_runtime.errors import InvalidRequest
from atelier_runtime.images import Picture, RgbArray, decode, to_eight_bit
from atelier_runtime.metrics import StageReport
from atelier_runtime.outcomes import ResponseWarning, WarningCode
from atelier_runtime.sizes import Size
from atelier_runtime.upscaler import covering_box, resample

_LUMA = 299, 587, 114  # ITU-R BT.601, in thousandths; of a gray they return the gray


def read_source(
    request: GenerateRequest, picture: Picture, mask: Picture | None, stages: Sequence[StageReport] = ()
) -> Source:
    """Return the source of a request from its decoded image and mask.

    Raises `InvalidRequest` for an image whose own size cannot be generated, and for a mask of another size.
    """
    own = Size(picture.width, picture.height)
    if mask is not None and Size(mask.width, mask.height) != own:
        raise InvalidRequest.of(
            "mask", f"is {mask.width}x{mask.height} px, the image is {own}: they must have the same size"
        )
    if request.own_size:
        low, high = defaults.SIDE_PX_RANGE
        if not all(low <= side <= high for side in own):
            raise InvalidRequest.of(
                "image",
                f"is {own} px; sides of {low} to {high} px can be generated: give width and height to have "
                "it resized",
            )
    size = own if request.own_size else request.size
    plane = None if mask is None else _plane(mask, request.mask_kind or defaults.MASK_KIND)
    if plane is not None and request.mask_blur_px:
        blur = ImageFilter.GaussianBlur(request.mask_blur_px)
        plane = np.asarray(Image.fromarray(plane).filter(blur), np.uint8)
    warnings = [*_warnings(picture), *_mask_warnings(mask, plane)]
    return Source(
        pixels=resample(picture.eight_bit(), size),
        mask=None if plane is None else _resized_mask(plane, size),
        warnings=tuple(warnings),
        stages=tuple(stages),
        hashes=_hashes(request),
    )


def _hashes(request: GenerateRequest) -> dict[str, str]:
    """Return the SHA-256 of the files that a request starts from, if its recipe is to name them."""
    if not request.writes_recipe:
        return {}
    files = {"image_sha256": request.image, "mask_sha256": request.mask}
    return {name: hashlib.sha256(file).hexdigest() for name, file in files.items() if file is not None}


def decode_source(request: GenerateRequest, max_pixels: int) -> Source:
    """Return the source of a request from its files, without an image worker. See `read_source`."""
    assert request.image is not None, "checked by the caller"
    picture = decode(request.image, max_pixels=max_pixels, deep=True)
    mask = None
    if request.mask is not None:
        mask = decode(request.mask, max_pixels=max_pixels, field="mask", deep=True)
    return read_source(request, picture, mask)


def at_pass(source: Source, size: Size) -> Source:
    """Return a source at the size of a pass, from which cropping or upscaling leads back to the image.

    `crop_to` cuts the image out of a larger one, `upscale_to` enlarges a smaller one to cover it and cuts off
    what is beyond. That border is filled with copies of the image's edge.
    """
    if size.contains(source.size):
        widths = _centered(source.size, size)
        return Source(_padded(source.pixels, widths), _padded_mask(source.mask, widths))
    # The image, enlarged at its borders to the shape of the pass; evenly, so that the centers agree.
    scale = max(source.size.width / size.width, source.size.height / size.height)
    borders = [
        math.ceil((wanted * scale - own) / 2 - 1e-9) for own, wanted in zip(source.size, size, strict=True)
    ]
    across, down = ((max(0, border), max(0, border)) for border in borders)
    widths = down, across
    mask = _padded_mask(source.mask, widths)
    return Source(
        resample(_padded(source.pixels, widths), size), None if mask is None else _resized_mask(mask, size)
    )


Widths = tuple[tuple[int, int], tuple[int, int]]
"""Pixels to add above and below, left and right."""


def _centered(own: Size, size: Size) -> Widths:
    """Return what is to be added to a size, as `center_crop` takes it off."""
    left, top = (size.width - own.width) // 2, (size.height - own.height) // 2
    return (top, size.height - own.height - top), (left, size.width - own.width - left)


def _padded(pixels: RgbArray, widths: Widths) -> RgbArray:
    return np.pad(pixels, (*widths, (0, 0)), mode="edge")


def _padded_mask(mask: MaskArray | None, widths: Widths) -> MaskArray | None:
    return None if mask is None else np.pad(mask, widths, mode="edge")


def _plane(mask: Picture, kind: MaskKind) -> MaskArray:
    """Return a mask (H, W) that is white where the image is drawn anew.

    Raises `InvalidRequest` for a mask of transparency without any.
    """
    if kind != "transparent":
        return _gray(mask, inverted=kind == "black")
    if mask.alpha is None:
        raise InvalidRequest.of(
            "mask", "has no alpha channel: what is to be drawn anew must be transparent in it"
        )
    return np.ascontiguousarray(255 - to_eight_bit(mask.alpha))


def _gray(mask: Picture, *, inverted: bool) -> MaskArray:
    """Return the gray values of a mask, or what they lack of white; transparent parts are black."""
    rgb = mask.eight_bit()
    gray = rgb[..., 0]
    if not mask.gray:
        red, green, blue = (rgb[..., i].astype(np.uint32) * share for i, share in enumerate(_LUMA))
        gray = ((red + green + blue + 500) // 1000).astype(np.uint8)
    if inverted:
        gray = 255 - gray
    if mask.alpha is not None:
        alpha = to_eight_bit(mask.alpha).astype(np.uint32)
        gray = ((gray * alpha + 127) // 255).astype(np.uint8)
    return np.ascontiguousarray(gray)


def _resized_mask(mask: MaskArray, size: Size) -> MaskArray:
    """Resize a mask as `resample` does images, but linearly: Lanczos would ripple into what is black."""
    own = Size(mask.shape[1], mask.shape[0])
    if own == size:
        return mask
    resized = Image.fromarray(mask).resize(size, Image.Resampling.BILINEAR, covering_box(own, size))
    return np.asarray(resized, np.uint8)


def _warnings(picture: Picture) -> list[ResponseWarning]:
    """Return what of an image does not reach the result, and what was wrong with its file."""
    warnings = [ResponseWarning(WarningCode.IMAGE_DAMAGED, fault) for fault in picture.faults]
    if picture.bits > 8:
        message = "The image has 16 bits per channel; it was reduced to 8 bits."
        warnings.append(ResponseWarning(WarningCode.BIT_DEPTH_REDUCED, message))
    if picture.alpha is not None and not (picture.alpha == np.iinfo(picture.alpha.dtype).max).all():
        message = "The image's transparency is not kept: the result is opaque, from the colors under it."
        warnings.append(ResponseWarning(WarningCode.ALPHA_DROPPED, message))
    if picture.icc is not None and b"sRGB" not in picture.icc.replace(b"\0", b""):
        message = "The image's ICC profile is not kept: the result's colors may be shown differently."
        warnings.append(ResponseWarning(WarningCode.METADATA_DROPPED, message))
    return warnings


def _mask_warnings(mask: Picture | None, plane: MaskArray | None) -> list[ResponseWarning]:
    if mask is None or plane is None:
        return []
    warnings = [ResponseWarning(WarningCode.IMAGE_DAMAGED, f"The mask: {fault}") for fault in mask.faults]
    if not plane.any():
        message = "The mask selects nothing: the result is the image."
        warnings.append(ResponseWarning(WarningCode.OPTION_HAS_NO_EFFECT, message))
    return warnings
