"""What img2img begins from: a picture, and a mask of what is drawn anew."""

from __future__ import annotations

from typing import Any

from atelier_gateway.api.automatic1111.loaded import Loaded
from atelier_gateway.api.automatic1111.options import Choices
from atelier_gateway.api.automatic1111.request import Given
from atelier_gateway.api.automatic1111.strength import own_steps, strength_of
from atelier_runtime.errors import InvalidRequest
from atelier_runtime.images import stored_size

_MASK_BLUR = 4.0
_ORIGINAL, _COVER = 1, 1
"""The values of inpainting_fill and resize_mode that say what is done here."""
_LATENT = 3
_ITS_MODE = 0
"""resize_mode in AUTOMATIC1111's web UI where a client leaves it out."""


def from_picture(given: Given, choices: Choices, loaded: Loaded | None) -> dict[str, Any]:
    """Return what img2img sets of the spec. Raises `InvalidRequest`."""
    [image] = given["init_images"]
    strength = 0.0  # the picture as it is
    if given["denoising_strength"] != 0:
        strength = strength_of(given, given["steps"] or own_steps(loaded))
    sides = given["width"], given["height"]
    if (sides[0] is None) is not (sides[1] is None):
        missing, other = ("width", "height") if sides[0] is None else ("height", "width")
        raise InvalidRequest.of(missing, f"is required with {other}; without both, the picture's own size")
    _tell_resize_mode(given, image)
    values = {"image": image, "strength": strength}
    if given["mask"] is None:
        return values
    blur_x, blur_y = (
        _MASK_BLUR if given[name] is None else given[name] for name in ("mask_blur_x", "mask_blur_y")
    )
    if given["mask_blur"] is not None:
        blur_x = blur_y = given["mask_blur"]
    if blur_x != blur_y:
        raise InvalidRequest.of("mask_blur_x", f"must be the same as mask_blur_y, {blur_y:g}, not {blur_x:g}")
    if given["inpainting_fill"] != _ORIGINAL:  # left out, too: there it is another one
        given.tell("inpainting_fill")
    if given["inpaint_full_res"] is not False:
        given.tell("inpaint_full_res")
    kind = "black" if given["inpainting_mask_invert"] else "white"
    return values | {"mask": given["mask"], "mask_kind": kind, "mask_blur_px": blur_x}


def _tell_resize_mode(given: Given, image: bytes) -> None:
    """Name resize_mode where it makes a difference: pictures of another shape are always cropped."""
    mode = _ITS_MODE if given["resize_mode"] is None else given["resize_mode"]
    width, height = given["width"], given["height"]
    stored = stored_size(image)
    if mode == _COVER or width is None or stored is None or stored == (width, height):
        return
    if mode == _LATENT or stored.width * height != stored.height * width:
        given.tell("resize_mode")
