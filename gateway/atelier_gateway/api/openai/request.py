"""Reads an image request of OpenAI's interface and makes one of `/generate` of it, which checks the rest."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from atelier_gateway.api.native.generate_request import ParsedRequest, parse_request
from atelier_gateway.api.openai import quality
from atelier_gateway.api.openai.errors import (
    Refusal,
    told_by_client_names,
    unsupported_parameter,
    unsupported_value,
)
from atelier_gateway.api.openai.fields import (
    EDIT_ONLY,
    EXTENSIONS,
    EXTRA_BODY,
    GENERATION,
    REFUSED,
    USE_EDITS,
    ImageRequest,
    canonical,
    unnested,
)
from atelier_gateway.api.openai.pictures import fitted_size, one_image, one_mask
from atelier_gateway.api.openai.quality import QUALITIES, Quality
from atelier_gateway.core.values import GenerateSpec
from atelier_gateway.http.long_text import LongText
from atelier_gateway.http.schemas import describe_value
from atelier_gateway.http.validation import refusal
from atelier_runtime import defaults
from atelier_runtime.errors import FieldViolation
from atelier_runtime.outcomes import ResponseWarning
from atelier_runtime.sizes import Size

_SIZE = re.compile(r"([0-9]{3,4})x([0-9]{3,4})")
_OTHER_PASSES = frozenset({"hires_fix", "hires_fix_simple", "hires_pass"})
"""What decides in place of `quality`."""
_HEAD = re.compile(r"[A-Za-z_]+")


@dataclass(frozen=True)
class ClientFields:
    """How to name a field of `/generate` to the client.

    `given`: what the client gave by itself, by whatever name. `derived`: what follows from one of OpenAI's.
    """

    given: Mapping[str, str]
    derived: Mapping[str, str]

    def __call__(self, field: str) -> str:
        """Return the client's name of a field, or of a part of it."""
        found = _HEAD.match(field)
        head = found[0] if found else field
        if head in self.derived:
            return self.derived[head]
        return self.given.get(head, head) + field[len(head) :]


@dataclass(frozen=True)
class Prepared:
    """A request whose own fields are valid. `body`: that of `/generate`, but for steps by `quality`."""

    own: ImageRequest
    body: Mapping[str, Any]
    names: ClientFields
    ignored: tuple[str, ...]
    quality: Quality
    own_steps: bool
    """The client says how many steps."""
    edits: bool

    @property
    def needs_steps(self) -> bool:
        """Whether the steps, or what follows from them, depend on those of the model set."""
        return not self.own_steps and (self.quality.steps is not None or self.needs_strength)

    @property
    def needs_strength(self) -> bool:
        """Whether it is ours to say how much of an image is drawn anew."""
        return self.edits and "strength" not in self.body

    @property
    def needs_size(self) -> bool:
        """Whether the image to edit decides on the size."""
        return self.edits and not {"width", "height"} & self.body.keys()


@dataclass(frozen=True)
class ImageWork:
    """A valid request: what to draw, and how to answer. `body`: as a request of `/generate`."""

    own: ImageRequest
    body: Mapping[str, Any]
    parsed: ParsedRequest
    client_fields: ClientFields
    ignored: tuple[str, ...]
    quality: Quality
    warnings: tuple[ResponseWarning, ...] = ()
    """What was changed before `/generate` saw it."""

    @property
    def spec(self) -> GenerateSpec:
        """What to draw."""
        return self.parsed.spec

    def names(self, field: str) -> str:
        """Return the client's name of a spec's field."""
        return self.client_fields(self.parsed.names(field))


def prepare(given: Mapping[str, Any], *, edits: bool) -> Prepared:
    """Check OpenAI's own fields, and sort the others. `edits`: there is an image to edit.

    Raises `InvalidRequest`.
    """
    merged, ignored = _merged(unnested(given))
    names = {name: client for name, (client, _) in merged.items()}
    values = {name: value for name, (_, value) in merged.items()}
    for name in REFUSED.keys() & values.keys():
        if values[name] is not False:
            raise unsupported_parameter(names[name], REFUSED[name])
    pictures: dict[str, Any] = {}
    if edits:
        pictures["image"] = one_image(values, names)
        if "mask" in values:
            pictures["mask"] = one_mask(values["mask"], names["mask"])
            pictures["mask_kind"] = values.get("mask_kind", "transparent")
    elif of_edits := sorted(EDIT_ONLY & values.keys()):
        raise unsupported_parameter(names[of_edits[0]], USE_EDITS)
    own = _own(values, names)
    body = {name: value for name, value in values.items() if name in EXTENSIONS} | pictures
    derived: dict[str, str] = {}

    def derive(field: str, client_field: str, value: Any) -> None:
        body[field], derived[field] = value, names.get(client_field, client_field)

    derive("prompt", "prompt", own.prompt)
    derive("num_images", "n", own.n)
    derive("output_format", "output_format", own.output_format)
    if own.output_compression is not None:
        if own.output_format == "png":
            ignored.append(names["output_compression"])
        else:
            derive("quality", "output_compression", max(defaults.QUALITY_RANGE[0], own.output_compression))
    if own.partial_images and not own.stream:
        ignored.append(names["partial_images"])
    if own.stream and own.response_format == "url":
        raise unsupported_value(names["response_format"], "cannot be url with stream: events hold the file")
    size = _size(own.size, names.get("size", "size"))
    if size is not None:
        for side, length in (("width", size.width), ("height", size.height)):
            if body.get(side, length) != length:
                message = f"is {length} in {names['size']}: give only one of them"
                raise Refusal(names[side], message, "invalid_value")
            derive(side, "size", length)
    chosen = QUALITIES[own.quality]
    if chosen.hires and not edits and not _OTHER_PASSES & body.keys():
        _add_second_pass(body, names, derive)
    own_steps = "num_inference_steps" in body
    return Prepared(own, body, ClientFields(names, derived), tuple(ignored), chosen, own_steps, edits)


def complete(
    prepared: Prepared,
    set_steps: int | None,
    find_violations: Callable[[GenerateSpec], list[FieldViolation]],
    *,
    max_image_bytes: int,
    max_pixels: int,
) -> ImageWork:
    """Check all of a request. `set_steps`: the model set's own steps, if they are needed.

    `max_pixels`: of the image to edit, which is decoded if it is too large to be drawn at its own size.

    Large images take a while: not for the event loop. Raises `InvalidRequest`.
    """
    body, names = dict(prepared.body), prepared.names
    derived = dict(names.derived)
    names = replace(names, derived=derived)
    steps = body.get("num_inference_steps", set_steps)
    if set_steps is not None and (of_quality := quality.steps_of(prepared.quality, set_steps)) is not None:
        steps = body["num_inference_steps"] = of_quality
        derived["num_inference_steps"] = names.given.get("quality", "quality")
    if prepared.needs_strength and (strength := quality.strength_of(steps)) is not None:
        body["strength"] = strength
        derived["strength"] = names.given.get("num_inference_steps", "quality")
    warnings: tuple[ResponseWarning, ...] = ()
    with told_by_client_names(names):
        if prepared.needs_size:
            parsed = parse_request(body, _no_violations, max_image_bytes=max_image_bytes)
            _keep_files(body, parsed)
            image = names.given.get("image") or names.given.get("images", "image")
            if (fitted := fitted_size(body["image"], image, max_pixels=max_pixels)) is not None:
                body |= {"width": fitted.size.width, "height": fitted.size.height}
                derived |= {"width": image, "height": image}
                warnings = (fitted.warning,)
        parsed = parse_request(body, find_violations, max_image_bytes=max_image_bytes)
    _keep_files(body, parsed)
    return ImageWork(prepared.own, body, parsed, names, prepared.ignored, prepared.quality, warnings)


def _no_violations(spec: GenerateSpec) -> list[FieldViolation]:
    """Check a spec whose size is not known yet."""
    return []


def _keep_files(body: dict[str, Any], parsed: ParsedRequest) -> None:
    """Put the files alone into a body: what they came in would be kept while the images are drawn."""
    body |= {name: getattr(parsed.request, name) for name in ("image", "mask") if name in body}


def _merged(body: Mapping[str, Any]) -> tuple[dict[str, tuple[str, Any]], list[str]]:
    """Return field -> the client's name of it and its value, and the names that mean nothing here."""
    extra = body.get(EXTRA_BODY)
    if extra is not None and not isinstance(extra, dict):
        raise Refusal(EXTRA_BODY, f"must be an object, not {describe_value(extra)}", "invalid_type")
    every = [(name, name, value) for name, value in body.items() if name != EXTRA_BODY]
    every += [(f"{EXTRA_BODY}.{name}", name, value) for name, value in (extra or {}).items()]
    merged: dict[str, tuple[str, Any]] = {}
    ignored: list[str] = []
    for client, name, value in every:
        if value is None:
            continue
        field = canonical(name)
        if not (field in ImageRequest.model_fields or field in EXTENSIONS or field in (*REFUSED, "images")):
            ignored.append(client)
        elif field in merged and not _same(merged[field][1], value):
            other, _ = merged[field]
            raise Refusal(client, f"differs from {other}: give only one of them", "invalid_value")
        else:
            merged.setdefault(field, (client, value))
    return merged, ignored


def _same(one: Any, other: Any) -> bool:
    return type(one) is type(other) and bool(one == other)


def _own(values: Mapping[str, Any], names: Mapping[str, str]) -> ImageRequest:
    """Return OpenAI's own fields. Raises `InvalidRequest`."""
    low, high = defaults.PROMPT_CHARS
    prompt = values.get("prompt")
    if prompt is None:
        message = f"is required: a string of {low} to {high} characters"
        raise Refusal("prompt", message, "missing_required_parameter")
    if isinstance(prompt, str | LongText) and len(prompt) > high:
        message = f"has {len(prompt)} characters, the limit is {high}"
        raise Refusal(names["prompt"], message, "string_above_max_length")
    own = {name: value for name, value in values.items() if name in ImageRequest.model_fields}
    validated = GENERATION.validate(own)
    if validated.request is None or validated.violations:
        violations = [FieldViolation(names.get(v.field, v.field), v.message) for v in validated.violations]
        raise refusal(violations)
    if validated.request.background == "transparent":
        message = "cannot be transparent: pictures have no alpha channel; auto and opaque work"
        raise unsupported_value(names["background"], message)
    return validated.request


def _size(text: str, field: str) -> Size | None:
    """Return the size that a text names; None: auto."""
    if text == "auto":
        return None
    found = _SIZE.fullmatch(text)
    sides = (int(found[1]), int(found[2])) if found else ()
    (low, high), multiple = defaults.SIDE_PX_RANGE, defaults.SIDE_PX_MULTIPLE
    if not sides or not all(low <= side <= high and side % multiple == 0 for side in sides):
        message = (
            f"must be auto, or WIDTHxHEIGHT with multiples of {multiple} from {low} to {high}, "
            f"not {describe_value(text)}"
        )
        raise Refusal(field, message, "invalid_value")
    return Size(*sides)


def _add_second_pass(
    body: dict[str, Any], names: Mapping[str, str], derive: Callable[[str, str, Any], None]
) -> None:
    """Draw at a part of the size first, and again at all of it, unless the size is too small for that."""
    sides = [body.get(side, defaults.SIDE_PX) for side in ("width", "height")]
    if not all(isinstance(side, int) for side in sides):  # the check of the rest says so
        return
    size = Size(*sides)
    base = quality.base_of(size)
    if base is None:
        return
    derive("hires_pass", "quality", {"width": size.width, "height": size.height})
    for side, length in (("width", base.width), ("height", base.height)):
        derive(side, side if side in names else "size", length)
