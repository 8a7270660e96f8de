"""The picture of an edit, and its mask, in all the ways that clients send them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from atelier_gateway.api.openai.errors import Refusal, unsupported_value
from atelier_gateway.http.schemas import AN_IMAGE
from atelier_runtime import defaults
from atelier_runtime.images import InputImage, decode_input, stored_size
from atelier_runtime.outcomes import ResponseWarning, WarningCode
from atelier_runtime.sizes import Size

MOST_IMAGES = 1
_ADDRESS = re.compile(r"https?:", re.IGNORECASE)


def one_image(values: Mapping[str, Any], names: Mapping[str, str]) -> Any:
    """Return what stands for the image, whose content is still to be checked. Raises `InvalidRequest`."""
    if "image" in values and "images" in values:
        raise Refusal(names["images"], f"cannot be given with {names['image']}", "invalid_value")
    field = "images" if "images" in values else "image"
    given = values.get(field)
    if given is None or given == []:
        raise Refusal(names.get(field, field), f"is required: {AN_IMAGE}", "missing_required_parameter")
    if isinstance(given, list):
        if len(given) > MOST_IMAGES:
            message = f"has {len(given)} images, the limit is {MOST_IMAGES}: several are not put together"
            raise unsupported_value(names[field], message)
        [given] = given
    if field == "images":
        given = _referred(given, names[field])
    return _sent(given, names[field])


def one_mask(given: Any, field: str) -> Any:
    """Return what stands for the mask. Raises `InvalidRequest`."""
    return _sent(_referred(given, field) if isinstance(given, dict) else given, field)


def _referred(given: Any, field: str) -> Any:
    """Return what `{"image_url": ...}` holds, as JSON of newer clients has it."""
    if isinstance(given, dict) and "file_id" in given:
        raise unsupported_value(field, "cannot be a file_id: there are no files here; send the file")
    if not isinstance(given, dict) or set(given) != {"image_url"}:
        raise Refusal(field, "must hold an object with image_url alone", "invalid_type")
    return given["image_url"]


def _sent(given: Any, field: str) -> Any:
    if isinstance(given, str) and _ADDRESS.match(given):
        raise unsupported_value(field, "cannot be an address, which is not fetched; send the file")
    return given


class Fitted(NamedTuple):
    """The size at which an image is drawn that cannot be drawn at its own, and what tells of it."""

    size: Size
    warning: ResponseWarning


def fitted_size(image: bytes, field: str, *, max_pixels: int) -> Fitted | None:
    """Return the size, of its shape, for an image whose sides are too long or too short; None: its own.

    Decodes such an image, which may have to be turned: not for the event loop. `field`: the client's name of
    it. Raises `InvalidRequest`.
    """
    stored = stored_size(image)
    low, high = defaults.SIDE_PX_RANGE
    if stored is None or all(low <= side <= high for side in stored):
        return None
    if stored.pixels > max_pixels:
        raise Refusal(field, f"has {stored.pixels} px, the limit is {max_pixels}", "invalid_value")
    picture = decode_input(InputImage(image), max_pixels=max_pixels)
    own = Size(picture.width, picture.height)
    scale = high / max(own) if max(own) > high else low / min(own)
    multiple = defaults.SIDE_PX_MULTIPLE
    size = Size(*(multiple * round(side * scale / multiple) for side in own))
    if not all(low <= side <= high for side in size):
        message = (
            f"is {own} px; sides of {low} to {high} px can be drawn, which it cannot have in its shape: give "
            "a size"
        )
        raise Refusal(field, message, "invalid_value")
    message = f"The image is {own} px and was resized to {size} px: sides of {low} to {high} px can be drawn."
    return Fitted(size, ResponseWarning(WarningCode.SIZE_LIMITED, message))
