"""Checks of a request against its image, before any network runs, and of a response's size."""

from __future__ import annotations

from atelier_restorer.align import CROP_SIZE
from atelier_restorer.codec import output_format
from atelier_restorer.request import FaceEdit, RestoreRequest
from atelier_runtime.errors import FieldViolation, InvalidRequest
from atelier_runtime.images import OutputFormat, Picture, message_limit_bytes
from atelier_runtime.sizes import Size

_MAX_SIDE_PX: dict[OutputFormat, int] = {"jpeg": 65_500, "webp": 16_383}  # of the encoders


def check_picture(picture: Picture, request: RestoreRequest, max_pixels: int) -> None:
    """Raise `InvalidRequest` if the request does not fit its image."""
    if request.aligned and (picture.width, picture.height) != (CROP_SIZE, CROP_SIZE):
        raise InvalidRequest.of(
            "aligned",
            f"requires an image of {CROP_SIZE}x{CROP_SIZE} px, this one is {picture.width}x{picture.height}",
        )
    size = Size(picture.width * request.upscale, picture.height * request.upscale)
    if size.pixels > max_pixels:
        raise InvalidRequest.of(
            "upscale",
            f"{request.upscale} makes {size} = {size.pixels} pixels; the limit is {max_pixels} pixels",
        )
    image_format = output_format(picture, request)
    limit = _MAX_SIDE_PX.get(image_format)
    if limit is not None and max(size) > limit:
        raise InvalidRequest.of(
            "output.format",
            f"{image_format} is limited to {limit} px per side, the image would have {max(size)}",
        )
    outside = [
        FieldViolation(
            f"faces[{number}].face.landmarks", f"are outside the image of {picture.width}x{picture.height} px"
        )
        for number, edit in enumerate(request.faces)
        if not _touches(edit, picture)
    ]
    if outside:
        raise InvalidRequest(outside)


def check_response(size_bytes: int, request: RestoreRequest, max_pixels: int) -> None:
    """Raise `InvalidRequest` if crops make a response larger than a message may be."""
    limit = message_limit_bytes(max_pixels)
    if request.return_crops and size_bytes > limit:
        raise InvalidRequest.of(
            "return_crops",
            f"makes a response of {size_bytes} bytes; the limit is {limit}. Request fewer faces",
        )


def _touches(edit: FaceEdit, picture: Picture) -> bool:
    """Return whether the box or a landmark is inside the image, as it is for every detected face."""
    x1, y1, x2, y2 = edit.face.box
    overlaps = x1 < picture.width and y1 < picture.height and x2 > 0 and y2 > 0
    return overlaps or any(0 <= x < picture.width and 0 <= y < picture.height for x, y in edit.face.landmarks)
