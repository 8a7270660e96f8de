"""`extra-single-image` and `extra-batch-images`: the faces of existing pictures, and upscaling."""

from __future__ import annotations

import base64
import html
from collections.abc import Sequence
from typing import Any

import orjson
from pydantic import BaseModel, Field

from atelier_gateway.api.automatic1111.fields import EXTRA_SINGLE
from atelier_gateway.api.automatic1111.kinds import Picture
from atelier_gateway.api.automatic1111.loaded import NO_UPSCALER, Loaded, choose_upscaler
from atelier_gateway.api.automatic1111.options import Choices
from atelier_gateway.api.automatic1111.request import Given
from atelier_gateway.api.automatic1111.words import Words
from atelier_gateway.core.values import Restoration, RestoreSpec
from atelier_gateway.http.validation import refusal
from atelier_runtime import defaults
from atelier_runtime.errors import FieldViolation, InvalidRequest
from atelier_runtime.images import InputImage, stored_size

_FACTORS = "1, 2 or 4"
_TO_A_SIZE = 1  # of resize_mode
_PICTURE = Picture()


class ExtraSingleAnswer(BaseModel):
    """What extra-single-image returns."""

    html_info: str = Field(description="What was done, in HTML.")
    image: str = Field(description="The file as base64.")


class ExtraBatchAnswer(BaseModel):
    """What extra-batch-images returns."""

    html_info: str = Field(description="What was done, in HTML.")
    images: list[str] = Field(description="The files as base64, in the order of the request.")


def pictures_of_batch(given: Given) -> list[bytes]:
    """Return the files of imageList. A large one takes a while: not for the event loop."""
    files, violations = [], []
    for number, item in enumerate(given["imageList"]):
        try:
            files.append(_PICTURE.read(item.get("data")))
        except ValueError as error:
            violations.append(FieldViolation(f"imageList[{number}].data", str(error)))
    if violations:
        raise refusal(violations)
    return files


def restore_specs(
    given: Given, images: Sequence[bytes], choices: Choices, loaded: Loaded
) -> list[RestoreSpec]:
    """Return what to do with each picture. Raises `InvalidRequest` that names every field that is wrong."""
    codeformer, gfpgan = given["codeformer_visibility"] or 0.0, given["gfpgan_visibility"] or 0.0
    violations = []
    if codeformer and gfpgan:
        message = "cannot be used together with codeformer_visibility: one face restorer is loaded"
        violations.append(FieldViolation("gfpgan_visibility", message))
    if (given["upscaler_2"] or NO_UPSCALER) != NO_UPSCALER and given["extras_upscaler_2_visibility"]:
        message = 'must be "None", or extras_upscaler_2_visibility 0: pictures of two upscalers are not mixed'
        violations.append(FieldViolation("upscaler_2", message))
    if given["show_extras_results"] is False:
        given.tell("show_extras_results")
    asked = "CodeFormer" if codeformer else "GFPGAN" if gfpgan else None
    if asked and loaded.face_restorer not in (None, asked):
        given.tell("codeformer_visibility" if codeformer else "gfpgan_visibility")
    if gfpgan and given["codeformer_weight"] is not None:
        given.tell("codeformer_weight")
    factors, use_upscaler = [1] * len(images), None
    try:
        use_upscaler = _use_upscaler(given, loaded)
        if use_upscaler is not None:
            factors = [_factor(given, image) for image in images]
    except InvalidRequest as error:
        violations += error.fields
    if violations:
        raise refusal(violations)
    weight = given["codeformer_weight"] or 0.0
    return [
        RestoreSpec(
            InputImage(image),
            fidelity=weight if codeformer else None,
            visibility=(codeformer or gfpgan) if asked else None,
            max_faces=None if asked else 0,
            upscale=factor,
            use_upscaler=use_upscaler,
            output_format=choices.output_format,
            quality=choices.quality,
        )
        for image, factor in zip(images, factors, strict=True)
    ]


def words_of_picture(given: Given, number: int) -> Words:
    """Return how the client calls what errors and warnings of one of its pictures name."""
    names = {"use_upscaler": "upscaler_1"}
    if given["gfpgan_visibility"]:
        names["visibility"] = "gfpgan_visibility"
    if given["image"] is None:
        names["image"] = f"imageList[{number}].data"
    return Words(EXTRA_SINGLE, names)


def _use_upscaler(given: Given, loaded: Loaded) -> bool | None:
    """Return whether to upscale with the network, or with Lanczos; None: not at all."""
    name = given["upscaler_1"] or NO_UPSCALER
    if name.casefold() == NO_UPSCALER.casefold():
        return None
    try:
        choice = choose_upscaler(name, loaded.photo_upscaler)
    except ValueError as error:
        raise InvalidRequest.of("upscaler_1", str(error)) from None
    if choice.differs:
        given.tell("upscaler_1")
    return choice.use_network is not False


def _factor(given: Given, image: bytes) -> int:
    if given["resize_mode"] != _TO_A_SIZE:
        asked = 2.0 if given["upscaling_resize"] is None else given["upscaling_resize"]
        if asked not in defaults.UPSCALE_CHOICES:
            raise InvalidRequest.of("upscaling_resize", f"must be {_FACTORS}, not {asked:g}")
        return int(asked)
    width, height = given["upscaling_resize_w"] or 512, given["upscaling_resize_h"] or 512
    size = stored_size(image)
    if size is None:  # the restorer says why it cannot be read
        return 1
    for factor in defaults.UPSCALE_CHOICES:
        if (width, height) == (size.width * factor, size.height * factor):
            return factor
    message = f"1 is {width} x {height} px here, which is not {_FACTORS} times the picture's {size}"
    raise InvalidRequest.of("resize_mode", message)


def single_body(given: Given, restorations: Sequence[Restoration]) -> bytes:
    """Return the response of extra-single-image. Takes milliseconds per megabyte: not for the event loop."""
    image = base64.b64encode(restorations[0].image.data).decode("ascii") if restorations else ""
    return orjson.dumps({"html_info": _html(given, restorations), "image": image})


def batch_body(given: Given, restorations: Sequence[Restoration]) -> bytes:
    """Return the response of extra-batch-images. Takes milliseconds per megabyte: not for the event loop."""
    images = [base64.b64encode(restoration.image.data).decode("ascii") for restoration in restorations]
    return orjson.dumps({"html_info": _html(given, restorations), "images": images})


def _html(given: Given, restorations: Sequence[Restoration]) -> str:
    lines = ["Interrupted"] if not restorations else []
    for number, restoration in enumerate(restorations):
        done: dict[str, Any] = {}
        if restoration.upscale_applied > 1:
            done["Postprocess upscale by"] = restoration.upscale_applied
            done["Postprocess upscaler"] = restoration.upscaler
        if restoration.faces:
            restored = sum(outcome.restored for outcome in restoration.faces)
            done["Faces restored"] = f"{restored} of {len(restoration.faces)}"
            if given["codeformer_visibility"]:
                done["CodeFormer visibility"] = given["codeformer_visibility"]
                done["CodeFormer weight"] = given["codeformer_weight"] or 0.0
            else:
                done["GFPGAN visibility"] = given["gfpgan_visibility"]
        elif restoration.face_restoration_reason is not None:
            done["Faces restored"] = str(restoration.face_restoration_reason)
        lines.append(", ".join(f"{name}: {value}" for name, value in done.items() if value is not None))
        words = words_of_picture(given, number)
        lines += [words.warning(warning.message) for warning in restoration.warnings]
    return "".join(f"<p>{html.escape(line)}</p>" for line in lines if line)
