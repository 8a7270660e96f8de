"""`recipe_of`: a request to draw a picture again, by the recipe in its file."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, TypeGuard

from pydantic import Field, ValidationError

from atelier_gateway.api.native.generate_request import ALIASES
from atelier_gateway.api.native.image_field import ImageField
from atelier_gateway.http.schemas import describe_value, printable
from atelier_gateway.http.validation import RequestModel, Validator, refusal
from atelier_runtime import defaults
from atelier_runtime.errors import FieldViolation, InvalidRequest
from atelier_runtime.recipes import names, read_marks
from atelier_runtime.recipes.drawing import KIND
from atelier_runtime.recipes.marks import VERSION
from atelier_runtime.service_status import ServiceStatus

RECIPE_OF = "recipe_of"
ANY_MODEL_SET = "any_model_set"
_NOT_OF_THE_REQUEST = (RECIPE_OF, ANY_MODEL_SET)
_NEVER_WRITTEN = frozenset({"image", "mask", "dry_run", "metadata", "model", "face_size"})
"""What `POST /generate` takes, and no recipe says: it would be an order of whoever wrote the file."""


class Redraw(RequestModel):
    """What a request to draw a picture again says besides what `POST /generate` takes."""

    recipe_of: ImageField = Field(description="A file with a recipe: it is drawn again.", repr=False)
    any_model_set: bool = Field(False, description="Draw it with another model set than the recipe's too.")


REDRAW = Validator(Redraw, {})


@dataclass(frozen=True)
class Redrawing:
    """A request of `POST /generate` that draws a picture again.

    `body`: the recipe's, with the client's own fields in place of the recipe's. `given`: those fields.
    `model_sets`: field, name and hash of each that the recipe needs; empty if any will do. `number`: the only
    image of several that is wanted, from 1; None: all.
    """

    body: Mapping[str, Any]
    given: frozenset[str]
    model_sets: tuple[tuple[str, str, str], ...]
    number: int | None = None

    def check_sets(self, generator: ServiceStatus, restorer: ServiceStatus) -> None:
        """Raise `InvalidRequest` unless the services have loaded what the recipe names."""
        loaded = {"model_set": generator, "restoration.model_set": restorer}
        violations = []
        for field, name, sha256 in self.model_sets:
            status = loaded[field]
            if (status.model_set, status.model_set_hash) != (name, sha256):
                now = _shown(status.model_set, status.model_set_hash)
                message = (
                    f"its recipe's {field} is {_shown(name, sha256)}, but {now} is loaded: {ANY_MODEL_SET} "
                    "true draws it all the same, as another picture"
                )
                violations.append(FieldViolation(RECIPE_OF, message))
        if violations:
            raise InvalidRequest(violations)

    @property
    def kept(self) -> dict[str, Any]:
        """What carrying it out later must know of it besides the request."""
        return {"given": sorted(self.given), "number": self.number}

    def renamed(self, error: InvalidRequest) -> InvalidRequest:
        """Return an error in which fields of the recipe are named as such."""
        return renamed(error, self.given)


def renamed(error: InvalidRequest, given: Collection[str]) -> InvalidRequest:
    """Return an error in which all fields but those that the client gave are named as the recipe's."""
    return refusal(
        [
            each
            if each.field.partition(".")[0].partition("[")[0] in given
            else FieldViolation(RECIPE_OF, f"its recipe's {each.field} {each.message}")
            for each in error.fields
        ]
    )


class _Files(RequestModel):
    image: ImageField | None = None
    mask: ImageField | None = None


def _with_files(body: Mapping[str, Any]) -> dict[str, Any]:
    """Return a body with its image and mask decoded, as far as they can be: the request's own check says."""
    decoded = dict(body)
    for name in _Files.model_fields:
        with contextlib.suppress(ValidationError):
            if (file := getattr(_Files.model_validate({name: body.get(name)}), name)) is not None:
                decoded[name] = file
    return decoded


def read_redrawing(body: Mapping[str, Any]) -> Redrawing:
    """Return the request that draws a picture again. Decodes and hashes files: not for the event loop.

    Raises `InvalidRequest` if there is no such recipe, or if it needs files that are not given.
    """
    body = _with_files(body)
    validated = REDRAW.validate({name: body[name] for name in _NOT_OF_THE_REQUEST if name in body})
    asked = validated.request
    if asked is None or validated.violations:
        raise refusal(validated.violations)
    recipe = _drawing(asked.recipe_of)
    request = _request(recipe)
    number, count, seed = _place(recipe, request)
    given = {name: value for name, value in body.items() if name not in _NOT_OF_THE_REQUEST}
    replaced = {ALIASES.get(name, name) for name in given}
    if request.get("sampler") not in names.SAMPLERS:  # the model set's own, which no request can name
        replaced |= {"sampler", "schedule"}
    elif "sampler" in replaced:  # perhaps it names another schedule, or cannot follow the recipe's
        replaced.add("schedule")
    if replaced & {"seed", "num_images"}:
        request |= {"seed": seed, "num_images": None}
        count = 1
    else:
        request["seed"] = seed - (number - 1)
    _check_files(recipe.get("started_from"), given)
    merged = {name: value for name, value in request.items() if name not in replaced and value is not None}
    sets = () if asked.any_model_set else tuple(_model_sets(recipe))
    return Redrawing(merged | given, frozenset(given), sets, number if count > 1 else None)


def _request(recipe: Mapping[str, Any]) -> dict[str, Any]:
    request = recipe.get("request")
    if not isinstance(request, dict):
        raise InvalidRequest.of(RECIPE_OF, "has a recipe without a request")
    for name in request:
        if name in _NEVER_WRITTEN or name in ALIASES:
            raise InvalidRequest.of(RECIPE_OF, f"its recipe's {name} is in no recipe of Atelier's")
    sampler = request.get("sampler")
    if sampler is not None and not isinstance(sampler, str):
        raise InvalidRequest.of(RECIPE_OF, f"its recipe's sampler must be a string, not {_said(sampler)}")
    return dict(request)


def _place(recipe: Mapping[str, Any], request: Mapping[str, Any]) -> tuple[int, int, int]:
    """Return which image of how many a recipe is of, and its seed."""
    seed, image, count = recipe.get("seed"), recipe.get("image", [1, 1]), request.get("num_images", 1)
    low, high = defaults.SEED_RANGE
    if not _is_integer(seed) or not low <= seed <= high:
        message = f"its recipe's seed must be an integer from {low} to {high}, not {_said(seed)}"
        raise InvalidRequest.of(RECIPE_OF, message)
    least, most = defaults.NUM_IMAGES_RANGE
    if not _is_integer(count) or not least <= count <= most:
        message = f"its recipe's num_images must be an integer from {least} to {most}, not {_said(count)}"
        raise InvalidRequest.of(RECIPE_OF, message)
    if not isinstance(image, list) or not all(map(_is_integer, image)) or image[1:] != [count]:
        message = f"its recipe's image must be a number and that of all images, {count}, not {_said(image)}"
        raise InvalidRequest.of(RECIPE_OF, message)
    number = image[0]
    if not 1 <= number <= count or seed - (number - 1) < low:
        message = f"its recipe's image cannot be {number} of {count} with the seed {seed}"
        raise InvalidRequest.of(RECIPE_OF, message)
    first = request.get("seed", seed - (number - 1))
    if not _is_integer(first) or first != seed - (number - 1):
        message = (
            f"its recipe's request has the seed {_said(first)}, which image {number} does not follow from"
        )
        raise InvalidRequest.of(RECIPE_OF, message)
    return number, count, seed


def _is_integer(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)


def _said(value: object) -> str:
    return printable(describe_value(value))


def _drawing(file: bytes) -> dict[str, Any]:
    found = read_marks(file, field=RECIPE_OF)
    recipe = found.recipe
    if recipe is None:
        hint = "; AUTOMATIC1111's parameters, which it has, do not say all of it" if found.infotext else ""
        raise InvalidRequest.of(RECIPE_OF, f"has no recipe of Atelier's{hint}")
    if recipe.get("kind") != KIND:
        raise InvalidRequest.of(
            RECIPE_OF, "has the recipe of a restoration: only drawings can be drawn again"
        )
    version = recipe.get("version")
    if not _is_integer(version) or not 1 <= version <= VERSION:
        known = "version 1" if VERSION == 1 else f"versions 1 to {VERSION}"
        message = f"has a recipe of version {_said(version)}; this gateway knows {known}"
        raise InvalidRequest.of(RECIPE_OF, message)
    return recipe


def _check_files(started_from: object, given: Mapping[str, Any]) -> None:
    """Raise `InvalidRequest` unless the files that a drawing started from are given, the same ones."""
    if not isinstance(started_from, dict):
        return
    violations = []
    for field in ("image", "mask"):
        sha256 = started_from.get(f"{field}_sha256")
        if sha256 is None:
            continue
        if not isinstance(sha256, str):
            violations.append(FieldViolation(RECIPE_OF, f"its recipe's {field}_sha256 is no hash"))
            continue
        value = given.get(field)
        if value is None:
            message = f"is required: the drawing started from the file whose SHA-256 is {_hash(sha256)}"
            violations.append(FieldViolation(field, message))
        elif isinstance(value, bytes) and hashlib.sha256(value).hexdigest() != sha256:
            message = f"is another file than the drawing started from, whose SHA-256 is {_hash(sha256)}"
            violations.append(FieldViolation(field, message))
    if violations:
        raise InvalidRequest(violations)


def _model_sets(recipe: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    found = []
    restoration = recipe.get("restoration")
    for field, named in (
        ("model_set", recipe.get("model_set")),
        ("restoration.model_set", restoration.get("model_set") if isinstance(restoration, dict) else None),
    ):
        name, sha256 = (named.get("name"), named.get("hash")) if isinstance(named, dict) else (None, None)
        if isinstance(name, str) and isinstance(sha256, str):
            found.append((field, name, sha256))
        elif field == "model_set" or named is not None:
            raise InvalidRequest.of(RECIPE_OF, "has a recipe that names no model set")
    return found


def _shown(name: str, sha256: str) -> str:
    return f"{printable(name)} ({printable(sha256[:16]) or 'of unknown hash'})"


def _hash(sha256: str) -> str:
    return "".join(c if c.isalnum() and c.isascii() else "?" for c in sha256[:64])
