"""Encodes the pipeline's result: the image in the requested format, mask and crops as PNG."""

from __future__ import annotations

from dataclasses import dataclass, replace

from atelier_restorer.recipe import Origin, marks_of
from atelier_restorer.request import FaceOutcome, RestoreRequest, RestoreResult
from atelier_runtime import defaults
from atelier_runtime.images import (
    EncodedImage,
    OutputFormat,
    Picture,
    RgbArray,
    encode_mask,
    encode_output,
    losses,
)
from atelier_runtime.outcomes import ResponseWarning
from atelier_runtime.recipes import mark
from atelier_runtime.recipes.removing import without_own_marks


@dataclass(frozen=True)
class EncodedResult:
    """The images of a response. `crops`: before and after for each face, None where there is none."""

    image: EncodedImage
    mask: EncodedImage | None
    crops: tuple[tuple[EncodedImage | None, EncodedImage | None], ...]
    warnings: tuple[ResponseWarning, ...]
    """What the output format does not keep."""


def encode_result(result: RestoreResult, request: RestoreRequest, origin: Origin) -> EncodedResult:
    """Encode the images of a result. CPU-bound: not for the event loop."""
    image_format: OutputFormat = output_format(result.picture, request)
    picture = result.picture if request.metadata == "recipe" else without_own_marks(result.picture)
    image = encode_output(picture, image_format, request.quality)
    if image_format != "raw" and request.writes_recipe:
        marks = marks_of(result, request, image_format, origin)
        image = replace(image, data=mark(image.data, image_format, marks))
    return EncodedResult(
        image=image,
        mask=None if result.mask is None else encode_mask(result.mask),
        crops=tuple(_encode_crops(outcome) for outcome in result.outcomes),
        warnings=tuple(losses(picture, image_format, request.quality)),
    )


def output_format(picture: Picture, request: RestoreRequest) -> OutputFormat:
    """Return the format of the response's image: the requested one, else the input's."""
    return request.output_format or picture.format or "raw"


def _encode_crops(outcome: FaceOutcome) -> tuple[EncodedImage | None, EncodedImage | None]:
    return _encode_crop(outcome.before), _encode_crop(outcome.after)


def _encode_crop(crop: RgbArray | None) -> EncodedImage | None:
    return None if crop is None else encode_output(Picture(rgb=crop), "png", defaults.QUALITY)
