"""The fields of an image request: OpenAI's own, and beside them those of `/generate`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field

from atelier_gateway.api.native.generate_request import ALIASES as GENERATE_ALIASES
from atelier_gateway.api.native.generate_request import GENERATE
from atelier_gateway.api.openai.quality import DEFAULT, QualityName
from atelier_gateway.http import schemas
from atelier_gateway.http.body import FormValues
from atelier_gateway.http.bracket_names import Path, path_of, put_together
from atelier_gateway.http.validation import INTEGER, RequestModel, Validator
from atelier_runtime import defaults
from atelier_runtime.errors import InvalidRequest

_MODEL_CHARS = 1000
_SIZE_CHARS = 20
USE_EDITS = "belongs to /v1/images/edits"


class ImageRequest(RequestModel):
    """OpenAI's own fields of `POST /v1/images/generations`, as far as they have an effect."""

    prompt: str = Field(
        description="What the image shows.",
        min_length=defaults.PROMPT_CHARS[0],
        max_length=defaults.PROMPT_CHARS[1],
    )
    model: Annotated[str, Field(max_length=_MODEL_CHARS)] | None = Field(
        None, description="Any name: the loaded model set draws, and says its own name in the answer."
    )
    n: Annotated[int, Field(ge=1, le=10), INTEGER] = Field(
        1, description="Images, with the seeds seed, seed + 1, ..."
    )
    size: Annotated[str, Field(max_length=_SIZE_CHARS)] = Field(
        "auto",
        description="WxH, multiples of 8 from 256 to 2048. auto: 1024x1024, of an edit the image's own.",
    )
    quality: QualityName = Field(
        default=DEFAULT, description="Steps, and whether there is a second pass: see the table of qualities."
    )
    output_format: Literal["png", "webp", "jpeg"] = Field(default="png", description="The image's format.")
    output_compression: Annotated[int, Field(ge=0, le=100), INTEGER] | None = Field(
        None, description="For jpeg and webp: their quality; 0 counts as 1, 100 makes webp lossless."
    )
    background: Literal["auto", "opaque", "transparent"] = Field(
        default="auto", description="auto and opaque are the same; transparent is refused."
    )
    response_format: Literal["b64_json", "url"] | None = Field(
        None,
        description="The file itself, or an address that serves it for a while. Default: b64_json; url for "
        "the model names dall-e-2 and dall-e-3, whose clients expect it.",
    )
    stream: bool = Field(False, description="Answer with server-sent events.")
    partial_images: Annotated[int, Field(ge=0, le=3), INTEGER] = Field(
        0, description="With stream: up to so many previews of each image, JPEG files."
    )


WITH_ADDRESSES = frozenset({"dall-e-2", "dall-e-3"})
"""Names of models for which OpenAI's own default was an address."""

GENERATION = Validator(ImageRequest, {})

EDIT_ONLY = frozenset({"image", "mask", "images", "strength", "mask_kind", "mask_blur_px"})
"""What a request without an image must not have."""

ALIASES: Mapping[str, str] = {**GENERATE_ALIASES, "num_images": "n", "image[]": "image"}
"""Other name -> name."""

REFUSED: Mapping[str, str] = {
    "dry_run": "cannot be used here, where it has no answer; POST /generate has one",
    "markup": "is not supported: drawings on top of an image do not guide the edit",
}
"""Fields that would change what is done, and why they cannot."""

EXTENSIONS: Mapping[str, dict[str, Any]] = {
    name: schema
    for name, schema in GENERATE.properties.items()
    if name not in ImageRequest.model_fields and name not in (*ALIASES, *REFUSED)
}
"""The fields of `/generate` that a request may have beside OpenAI's, with their schemas."""

EXTRA_BODY = "extra_body"
_REPEATED = frozenset({"image"})
_NESTED = re.compile(rf"{EXTRA_BODY}\[([^\[\]]+)\]")


def _known(name: str) -> dict[str, Any] | None:
    """Return the schema of a field by any of its names, if there is such a field."""
    if name == EXTRA_BODY:
        return {"type": "object"}
    name = ALIASES.get(name, name)
    own = FORM.properties.get(name) or EXTENSIONS.get(name)
    return None if own is None else schemas.without_null(own)


class FormFields(Validator[ImageRequest]):
    """Says what the texts of a form stand for."""

    def property(self, name: str) -> dict[str, Any] | None:
        """Return the schema of a field by any of its names, or of a part of one, as `loras[][name]`.

        `extra_body[seed]` is that of `seed`.
        """
        path = path_of(name)
        own = _field_parts(path)
        schema = _known(path[own - 1] if own else name)
        for part in path[own:] if own else ():
            schema = {} if schema is None else schema
            is_item = schema.get("type") == "array"
            inner = schema.get("items") if is_item else schema.get("properties", {}).get(part)
            schema = None if inner is None else schemas.without_null(inner)
        return schema


def _field_parts(path: Path) -> int:
    """Return how many parts of a form's name are its field's: two of `extra_body[loras][][name]`.

    0: it is no part of a field's value, but a field, or nothing that we know.
    """
    own = 2 if path[0] == EXTRA_BODY and len(path) > 1 else 1
    schema = _known(path[own - 1])
    is_file = schema is not None and schema.get("format") == "byte"
    return 0 if schema is None or is_file else own


def arranged(values: FormValues) -> FormValues:
    """Put together lists and objects that come in parts, as SDKs write them, and images."""
    return put_together(values, _field_parts, _REPEATED)


FORM = FormFields(ImageRequest, {})


def canonical(name: str) -> str:
    """Return the name of a field that a client gave by any of its names."""
    return ALIASES.get(name, name)


def unnested(body: Mapping[str, Any]) -> dict[str, Any]:
    """Return a body in which `extra_body[seed]`, as some forms have it, is `seed` of `extra_body`."""
    flat = {name: value for name, value in body.items() if not _NESTED.fullmatch(name)}
    nested = {found[1]: body[name] for name in body if (found := _NESTED.fullmatch(name))}
    if nested:
        given = flat.get(EXTRA_BODY)
        if given is not None and not isinstance(given, dict):
            return flat  # which is an error
        given = given or {}
        if twice := [name for name in nested if name in given]:
            raise InvalidRequest.of(f"{EXTRA_BODY}.{schemas.printable(twice[0])}", "is given twice")
        flat[EXTRA_BODY] = {**nested, **given}
    return flat
