"""`recipe_of`: a request to draw a picture again, by the recipe in its file."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import Field, ValidationError

from atelier_gateway.api.native.generate_request import ALIASES
from atelier_gateway.api.native.image_field import ImageField
from atelier_gateway.http.validation import RequestModel, Validator, refusal
from atelier_runtime.errors import FieldViolation, InvalidRequest
from atelier_runtime.recipes import names, read_marks
from atelier_runtime.recipes.drawing import KIND
from atelier_runtime.recipes.marks import VERSION
from atelier_runtime.service_status import ServiceStatus

RECIPE_OF = "recipe_of"
ANY_MODEL_SET = "any_model_set"
_NOT_OF_THE_REQUEST = (RECIPE_OF, ANY_MODEL_SET)


class Redraw(RequestModel):
    """What a request to draw a picture again says besides what `POST /generate` takes."""

    recipe_of: ImageField = Field(description="A file with a recipe: it is drawn again.", repr=False)
    any_model_set: bool = Field(False, description="Draw it with another model set than the recipe's too.")


REDRAW = Validator(Redraw, {})


@dataclass(frozen=True)
class Redrawing:
    """A request of `POST /generate` that draws a picture again.

    `body`: the recipe's, with the client's own fields in place of the recipe's. `given`: those fields.
    `model_sets`: field, name and hash of each that the recipe needs; empty if any will do.
    """

    body: Mapping[str, Any]
    given: frozenset[str]
    model_sets: tuple[tuple[str, str, str], ...]

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

    def renamed(self, error: InvalidRequest) -> InvalidRequest:
        """Return an error in which fields of the recipe are named as such."""
        return refusal(
            [
                each
                if each.field.partition(".")[0].partition("[")[0] in self.given
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
    request, seed = recipe.get("request"), recipe.get("seed")
    if not isinstance(request, dict):
        raise InvalidRequest.of(RECIPE_OF, "has a recipe without a request")
    given = {name: value for name, value in body.items() if name not in _NOT_OF_THE_REQUEST}
    replaced = {ALIASES.get(name, name) for name in given}
    if request.get("sampler") not in names.SAMPLERS:  # the model set's own, which no request can name
        replaced |= {"sampler", "schedule"}
    kept = {name: value for name, value in request.items() if name != "num_images"} | {"seed": seed}
    _check_files(recipe.get("started_from"), given)
    merged = {name: value for name, value in kept.items() if name not in replaced} | given
    sets = () if asked.any_model_set else tuple(_model_sets(recipe))
    return Redrawing(merged, frozenset(given), sets)


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
    if not isinstance(version, int) or version > VERSION:
        message = f"has a recipe of version {version!r:.20}; this gateway knows those up to {VERSION}"
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
        value = given.get(field)
        if value is None:
            message = f"is required: the drawing started from the file whose SHA-256 is {sha256!s:.64}"
            violations.append(FieldViolation(field, message))
        elif isinstance(value, bytes) and hashlib.sha256(value).hexdigest() != sha256:
            message = f"is another file than the drawing started from, whose SHA-256 is {sha256!s:.64}"
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
        if isinstance(named, dict):
            found.append((field, str(named.get("name")), str(named.get("hash"))))
        elif field == "model_set":
            raise InvalidRequest.of(RECIPE_OF, "has a recipe that names no model set")
    return found


def _shown(name: str, sha256: str) -> str:
    return f"{name:.100} ({sha256[:16] or 'of unknown hash'})"
