"""What a request cannot mean for the picture that came with it: refused before any network runs."""

from __future__ import annotations

from atelier_restorer.align import CROP_SIZE
from atelier_restorer.request import FaceEdit, RestoreRequest
from atelier_runtime.errors import FieldViolation, InvalidRequest
from atelier_runtime.images import Format, Picture, message_limit_bytes

_LARGEST_SIDE_PX: dict[Format, int] = {"jpeg": 65_500, "webp": 16_383}  # that the formats' encoders take


def check_picture(picture: Picture, request: RestoreRequest, max_pixels: int) -> None:
    """Refuse, by `InvalidRequest`, what the request cannot mean for this picture."""
    if request.aligned and (picture.width, picture.height) != (CROP_SIZE, CROP_SIZE):
        raise InvalidRequest.of(
            "aligned",
            f"needs a picture of {CROP_SIZE}x{CROP_SIZE} px, this one has {picture.width}x{picture.height}",
        )
    pixels = picture.width * picture.height * request.upscale**2
    if pixels > max_pixels:
        raise InvalidRequest.of(
            "upscale",
            f"{request.upscale} makes {picture.width * request.upscale}x{picture.height * request.upscale} = "
            f"{pixels} pixels; the limit is {max_pixels} pixels",
        )
    side = max(picture.width, picture.height) * request.upscale
    file_format = None if request.raw_output else request.output_format or picture.format
    limit = _LARGEST_SIDE_PX.get(file_format) if file_format else None
    if limit is not None and side > limit:
        raise InvalidRequest.of(
            "output.format", f"{file_format} holds {limit} px a side, the picture would have {side}"
        )
    outside = [
        FieldViolation(f"faces[{number}].face.landmarks", f"lie outside of the picture of {_size(picture)}")
        for number, order in enumerate(request.faces)
        if not _touches(order, picture)
    ]
    if outside:
        raise InvalidRequest(outside)


def check_sweep(
    picture: Picture, request: RestoreRequest, fidelities: tuple[float, ...], max_pixels: int
) -> None:
    """Refuse, by `InvalidRequest`, more pictures than one answer can carry."""
    pixels = picture.width * picture.height * request.upscale**2
    most = message_limit_bytes(max_pixels) // (pixels * (3 * picture.bits // 8 + int(request.return_mask)))
    if len(fidelities) > most:
        raise InvalidRequest.of(
            "fidelities",
            f"are {len(fidelities)}; one answer holds {most} pictures of {pixels} pixels",
        )


def check_answer(size_bytes: int, request: RestoreRequest, max_pixels: int) -> None:
    """Refuse, by `InvalidRequest`, an answer that its crops make larger than a message may be."""
    limit = message_limit_bytes(max_pixels)
    if request.return_crops and size_bytes > limit:
        raise InvalidRequest.of(
            "return_crops",
            f"makes an answer of {size_bytes} bytes; the limit is {limit}. Ask for fewer faces",
        )


def _touches(order: FaceEdit, picture: Picture) -> bool:
    """Tell whether a face's box or a landmark lies in the picture; of a face that a detector saw one does."""
    x1, y1, x2, y2 = order.face.box
    overlaps = x1 < picture.width and y1 < picture.height and x2 > 0 and y2 > 0
    return overlaps or any(
        0 <= x < picture.width and 0 <= y < picture.height for x, y in order.face.landmarks
    )


def _size(picture: Picture) -> str:
    return f"{picture.width}x{picture.height} px"
