"""Answers in OpenAI's shape: images, what they count as, and what the extensions add."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import Any, Literal

import orjson
from pydantic import BaseModel, Field

from atelier_gateway.api.native.generate_request import SDXL
from atelier_gateway.api.native.generate_response import FaceAnswer, generate_report
from atelier_gateway.api.native.report import to_base64
from atelier_gateway.api.openai.quality import EffectiveQuality
from atelier_gateway.api.openai.request import ImageWork
from atelier_gateway.core.values import Generation
from atelier_gateway.http.ignored import ignored_header
from atelier_runtime.images import stored_size

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


class Shown(BaseModel):
    """An image and what is said of it beside the file; the same from a job as from a direct call."""

    seed: int
    faces: list[FaceAnswer]
    width: int
    height: int


def model_name(model_set: str) -> str:
    """Return the name that a model set has for clients."""
    return SDXL if model_set.upper() == SDXL else model_set


def shown(generation: Generation) -> Shown:
    """Return what is said of an image."""
    report = generate_report(generation, "", 0.0)
    image = generation.image
    return Shown(seed=report.seed, faces=report.faces, width=image.width, height=image.height)


def headers_of(work: ImageWork, model_set: str) -> dict[str, str]:
    """Return the headers of an answer: the model that drew, and what was ignored."""
    return {MODEL_HEADER: model_name(model_set), **ignored_header(work.ignored)}


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
    answer = ImagesAnswer(
        created=int(time.time()),
        data=[
            ImageData(seed=image.seed, faces=image.faces, url=urls[number] if urls else None)
            for number, image in enumerate(images)
        ],
        model=model_name(model_set),
        output_format=work.own.output_format,
        quality=work.quality.effective,
        size=f"{first.width}x{first.height}",
        usage=usage_of(work, images, prompt_tokens),
    )
    content = answer.model_dump(mode="json")
    for data in content["data"]:
        del data["b64_json" if urls else "url"]
    return content


def images_body(work: ImageWork, generations: Sequence[Generation]) -> bytes:
    """Return the answer with the files in it. Takes milliseconds per megabyte: not for the event loop."""
    first = generations[0]
    content = images_answer(work, [shown(each) for each in generations], first.model_set, first.prompt_tokens)
    for data, generation in zip(content["data"], generations, strict=True):
        data["b64_json"] = to_base64(generation.image)
    return orjson.dumps(content)
