"""Answers in OpenAI's shape: images, what they count as, and what the extensions add."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Sequence
from typing import Any, Literal

import orjson
from pydantic import BaseModel, Field

from atelier_gateway.api.native.generate_request import SDXL
from atelier_gateway.api.native.generate_response import FaceAnswer, GenerateReport, generate_report
from atelier_gateway.api.native.report import WarningCodes, to_base64
from atelier_gateway.api.openai.quality import EffectiveQuality
from atelier_gateway.api.openai.request import ImageWork
from atelier_gateway.core.values import Generation
from atelier_gateway.http.ignored import ignored_header, warnings_header
from atelier_runtime.images import stored_size
from atelier_runtime.outcomes import ResponseWarning, SkipReason, WarningCode

MODEL_HEADER = "X-Atelier-Model"
TOKEN_SIDE_PX = 16
"""A square of this side counts as one image token."""


class ImageUsageInput(BaseModel):
    """What the input tokens are of."""

    text_tokens: int = Field(description="Of the prompt, as the text encoder counts them.")
    image_tokens: int = Field(description="One for each 16 x 16 px of the image that is edited.")


class ImageUsageOutput(BaseModel):
    """What the output tokens are of."""

    text_tokens: int = 0
    image_tokens: int


class ImageUsage(BaseModel):
    """Counts, of which nothing is charged."""

    input_tokens: int
    input_tokens_details: ImageUsageInput
    output_tokens: int = Field(description="One for each 16 x 16 px.")
    output_tokens_details: ImageUsageOutput
    total_tokens: int


class ImageData(BaseModel):
    """One image: the file as base64, or its address."""

    b64_json: str | None = Field(None, description="The file as base64.")
    url: str | None = Field(None, description="Where the file is, until it expires.")
    revised_prompt: None = Field(None, description="Always null: prompts are taken as they are.")
    seed: int
    faces: list[FaceAnswer] = []
    face_restoration_applied: bool = Field(description="At least one face was restored.")
    face_restoration_reason: SkipReason | None = Field(
        None, description="Why face restoration was requested but skipped."
    )


class ImagesAnswer(BaseModel):
    """The answer to a request for images."""

    created: int = Field(description="Seconds since 1970.")
    data: list[ImageData]
    model: str = Field(description="The model set that drew, whatever name was asked for.")
    background: Literal["opaque"] = "opaque"
    output_format: Literal["png", "jpeg", "webp"]
    quality: EffectiveQuality
    size: str = Field(examples=["1024x1024"])
    usage: ImageUsage
    warnings: list[str] = Field([], description="What differs from what was asked for, in any of the images.")
    warning_codes: WarningCodes = []


class Shown(BaseModel):
    """An image and what is said of it beside the file; the same from a job as from a direct call."""

    seed: int
    faces: list[FaceAnswer]
    face_restoration_applied: bool
    face_restoration_reason: SkipReason | None
    warnings: list[str]
    warning_codes: list[WarningCode]
    width: int
    height: int

    @classmethod
    def of(cls, report: GenerateReport) -> Shown:
        """Return what `/generate` reports of an image, as far as it is said here."""
        width, height = report.final_resolution.split("x")
        said = report.model_dump(include=set(cls.model_fields))
        return cls(**said, width=int(width), height=int(height))


def model_name(model_set: str) -> str:
    """Return the name that a model set has for clients."""
    return SDXL if model_set.upper() == SDXL else model_set


def shown(generation: Generation) -> Shown:
    """Return what is said of an image."""
    return Shown.of(generate_report(generation, "", 0.0))


def headers_of(work: ImageWork, model_set: str, images: Sequence[Shown] = ()) -> dict[str, str]:
    """Return the headers of an answer: the model that drew, what was ignored, and codes of its warnings."""
    codes = [warning.code for warning in warnings_of(work, images)]
    model = {MODEL_HEADER: model_name(model_set)} if model_set else {}
    return {**model, **ignored_header(work.ignored), **warnings_header(codes)}


def warnings_of(work: ImageWork, images: Iterable[Shown]) -> list[ResponseWarning]:
    """Return the warnings of a request and of its images, each once."""
    of_images = (
        ResponseWarning(code, message)
        for image in images
        for code, message in zip(image.warning_codes, image.warnings, strict=True)
    )
    return list(dict.fromkeys([*work.warnings, *of_images]))


def usage_of(
    work: ImageWork, images: Sequence[Shown], prompt_tokens: int, *, with_input: bool = True
) -> ImageUsage:
    """Count what a request took. `with_input`: count the prompt and the image that is edited, too."""
    text = prompt_tokens if with_input else 0
    source = stored_size(work.spec.image) if work.spec.image is not None and with_input else None
    image = 0 if source is None else image_tokens(source.width, source.height)
    output = sum(image_tokens(each.width, each.height) for each in images)
    return ImageUsage(
        input_tokens=text + image,
        input_tokens_details=ImageUsageInput(text_tokens=text, image_tokens=image),
        output_tokens=output,
        output_tokens_details=ImageUsageOutput(image_tokens=output),
        total_tokens=text + image + output,
    )


def image_tokens(width: int, height: int) -> int:
    """Return how many tokens an image of this size is."""
    return math.ceil(width / TOKEN_SIDE_PX) * math.ceil(height / TOKEN_SIDE_PX)


def images_answer(
    work: ImageWork, images: Sequence[Shown], model_set: str, prompt_tokens: int, urls: Sequence[str] = ()
) -> dict[str, Any]:
    """Return the answer; its `data` is to be given the files, unless they have `urls`."""
    first = images[0]
    warnings = warnings_of(work, images)
    answer = ImagesAnswer(
        created=int(time.time()),
        data=[
            ImageData(
                seed=image.seed,
                faces=image.faces,
                face_restoration_applied=image.face_restoration_applied,
                face_restoration_reason=image.face_restoration_reason,
                url=urls[number] if urls else None,
            )
            for number, image in enumerate(images)
        ],
        model=model_name(model_set),
        output_format=work.own.output_format,
        quality=work.quality.effective,
        size=f"{first.width}x{first.height}",
        usage=usage_of(work, images, prompt_tokens),
        warnings=[warning.message for warning in warnings],
        warning_codes=[warning.code for warning in warnings],
    )
    content = answer.model_dump(mode="json")
    for data in content["data"]:
        del data["b64_json" if urls else "url"]
    return content


def images_body(work: ImageWork, generations: Sequence[Generation], images: Sequence[Shown]) -> bytes:
    """Return the answer with the files in it. Takes milliseconds per megabyte: not for the event loop."""
    first = generations[0]
    content = images_answer(work, images, first.model_set, first.prompt_tokens)
    for data, generation in zip(content["data"], generations, strict=True):
        data["b64_json"] = to_base64(generation.image)
    return orjson.dumps(content)
