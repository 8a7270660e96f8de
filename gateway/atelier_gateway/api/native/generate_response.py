"""The response of `POST /generate`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, Literal

import orjson
from pydantic import BaseModel, Field

from atelier_gateway.api.native.generate_request import SDXL
from atelier_gateway.api.native.report import (
    StageAnswer,
    WarningCodes,
    rounded_box,
    to_base64,
    to_data_uri,
    warnings_and_stages,
)
from atelier_gateway.core.values import FaceOutcome, Generation
from atelier_runtime.outcomes import SkipReason


class FaceAnswer(BaseModel):
    """One face that the detector found."""

    box: tuple[float, float, float, float] = Field(
        description="x1, y1, x2, y2 in px of the returned image, origin top left."
    )
    confidence: float = Field(description="The detector's, 0 to 1.")
    restored: bool
    reason: SkipReason | None = Field(None, description="Why it was not restored.")


class GeneratedImageAnswer(BaseModel):
    """One of several images, and what may differ between them."""

    image: str = Field(description="The image as a data URI.", examples=["data:image/png;base64,..."])
    seed: int
    final_resolution: str = Field(description="Width x height of the image.", examples=["1536x1536"])
    upscaler: str | None = Field(None, description="What upscaled the image; null if nothing was upscaled.")
    upscale_applied: int
    face_restoration_applied: bool
    face_restoration_reason: SkipReason | None = None
    tone_matched: bool
    faces: list[FaceAnswer] = []
    warnings: list[str] = []
    warning_codes: WarningCodes = []
    stages: list[StageAnswer] = []


_OF_EACH_IMAGE = set(GeneratedImageAnswer.model_fields) - {"image"}


class GenerateReport(BaseModel):
    """Everything about a generated image but the image and the prompt; the JSON of `X-Atelier-Report`."""

    success: Literal[True] = True
    seed: int = Field(description="The seed of the noise that was used.")
    model: str = Field(description="The model set that generated the image; SDXL for the set sdxl.")
    sampler: str = Field(description="The sampler that was used.", examples=["euler"])
    schedule: str = Field(description="The schedule that was used.", examples=["default"])
    num_inference_steps: int = Field(description="The denoising steps of the base pass.")
    guidance_scale: float = Field(description="The guidance that was used.")
    strength: float | None = Field(
        None,
        exclude_if=lambda strength: strength is None,
        description="How much of the request's image was drawn anew. Only for requests with an image.",
    )
    request_id: str
    final_resolution: str = Field(description="Width x height of the returned image.", examples=["1536x1536"])
    generation_time_seconds: float = Field(description="Wall time of the request.")
    refiner_applied: bool
    refiner_reason: SkipReason | None = Field(None, description="Why the refiner was requested but skipped.")
    hires_fix_applied: bool
    hires_fix_reason: SkipReason | None = Field(None, description="Always null: hires fix is never skipped.")
    upscaler: str | None = Field(None, description="What upscaled the image; null if nothing was upscaled.")
    upscale_applied: int
    face_restoration_applied: bool = Field(description="At least one face was restored.")
    face_restoration_reason: SkipReason | None = Field(
        None, description="Why face restoration was requested but skipped."
    )
    tone_matched: bool = Field(description="Restored faces were matched to the tone of their surroundings.")
    faces: list[FaceAnswer] = []
    warnings: list[str] = []
    warning_codes: WarningCodes = []
    stages: list[StageAnswer] = []


class GenerateAnswer(GenerateReport):
    """The response of `POST /generate`."""

    image: str = Field(description="The image as a data URI.", examples=["data:image/png;base64,..."])
    prompt: str
    image_base64: str | None = Field(
        None,
        description="The image without the prefix. Only for requests with an alias or to an older path.",
    )
    images: list[GeneratedImageAnswer] | None = Field(
        None,
        description="All images, in the order of their seeds; the other fields are the first one's. Only for "
        "requests with num_images.",
    )


def generate_report(generation: Generation, request_id: str, seconds: float) -> GenerateReport:
    """Return everything about a generated image but the image and the prompt."""
    model_set = generation.model_set
    return GenerateReport(
        seed=generation.seed,
        model=SDXL if model_set.upper() == SDXL else model_set,
        **asdict(generation.sampling),
        request_id=request_id,
        final_resolution=f"{generation.image.width}x{generation.image.height}",
        generation_time_seconds=seconds,
        refiner_applied=generation.refiner_applied,
        refiner_reason=generation.refiner_reason,
        hires_fix_applied=generation.hires_fix_applied,
        upscaler=" + ".join(generation.upscalers) or None,
        upscale_applied=generation.upscale_applied,
        face_restoration_applied=generation.face_restoration_applied,
        face_restoration_reason=generation.face_restoration_reason,
        tone_matched=generation.tone_matched,
        faces=[_face_answer(outcome) for outcome in generation.faces],
        **warnings_and_stages(generation.warnings, generation.stages),
    )


def generate_body(
    report: GenerateReport,
    generations: Sequence[Generation],
    prompt: str,
    *,
    with_images: bool,
    with_plain_base64: bool,
) -> bytes:
    """Return the first image's report and the images as JSON.

    Takes milliseconds per megabyte: not for the event loop. `with_images`: all of them, under `images`.
    """
    image = generations[0].image
    encoded = to_base64(image)
    first = to_data_uri(image, encoded)
    body: dict[str, Any] = {
        "success": True,
        "image": first,
        "prompt": prompt,
        **report.model_dump(mode="json", exclude={"success"}),
    }
    if with_plain_base64:
        body["image_base64"] = encoded
    if with_images:
        uris = (first, *(to_data_uri(generation.image) for generation in generations[1:]))
        body["images"] = [
            {"image": uri, **_of_each_image(generation)}
            for uri, generation in zip(uris, generations, strict=True)
        ]
    return orjson.dumps(body)


def _of_each_image(generation: Generation) -> dict[str, Any]:
    return generate_report(generation, "", 0.0).model_dump(mode="json", include=_OF_EACH_IMAGE)


def _face_answer(outcome: FaceOutcome) -> FaceAnswer:
    return FaceAnswer(
        box=rounded_box(outcome.face.box, 1),
        confidence=round(outcome.face.confidence, 4),
        restored=outcome.restored,
        reason=outcome.reason,
    )
