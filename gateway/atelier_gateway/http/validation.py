"""Validates a JSON object against a pydantic model, and reports everything that is wrong with it at once.

What all routes have in common:
- an alias works like the full name, but not together with it;
- an explicit null means the default;
- an unknown field, a wrong type or a value out of range is refused; every offending field is named as the
  client named it, one inside another as `faces[2].fidelity`.

JSON types are taken literally (true is not 1, "30" is not 30), except that 30.0 is the integer 30, because
some clients send all numbers as floats.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError
from pydantic_core import PydanticCustomError

from atelier_gateway.http import schemas
from atelier_runtime.errors import FieldViolation, InvalidRequest

_MAX_VIOLATIONS = 100  # a body of a million unknown fields gets a short response
_CUSTOM = "custom"

ModelT = TypeVar("ModelT", bound=BaseModel)
Location = tuple[int | str, ...]


class RequestModel(BaseModel):
    """The base of request models: frozen, strict JSON types, no unknown fields."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid", allow_inf_nan=False)


def _integer(value: object) -> object:
    if isinstance(value, bool):  # Python's True equals 1, JSON's true does not
        raise ValueError("not a number")
    return int(value) if isinstance(value, float) and value.is_integer() else value


INTEGER = BeforeValidator(_integer)
"""Lets 30.0 pass as the integer 30, and no boolean."""


def field_error(message: str) -> PydanticCustomError:
    """Return an error for a validator to raise; the client reads `message` after the field's name."""
    return PydanticCustomError(_CUSTOM, "{message}", {"message": message})


@dataclass(frozen=True)
class Validated(Generic[ModelT]):
    """The outcome of a validation. `request` is None if it failed; even with one, there may be violations."""

    request: ModelT | None
    names: Mapping[str, str]
    """Full name -> the name that the client used, for violations that are found later."""
    violations: list[FieldViolation]


class Validator(Generic[ModelT]):
    """Validates bodies against one request model."""

    def __init__(
        self, model: type[ModelT], aliases: Mapping[str, str], elsewhere: Mapping[str, str] | None = None
    ) -> None:
        """`aliases`: alias -> full name. `elsewhere`: field of another request -> why not of this one."""
        self.model = model
        self.aliases = aliases
        self.elsewhere = elsewhere or {}
        self.schema = schemas.inline(model.model_json_schema())
        self.properties: dict[str, dict[str, Any]] = self.schema["properties"]

    def property(self, name: str) -> dict[str, Any] | None:
        """Return the schema of a field by either name, without null; None if there is no such field."""
        schema = self.properties.get(self.aliases.get(name, name))
        return None if schema is None else schemas.without_null(schema)

    def validate(self, body: Mapping[str, Any]) -> Validated[ModelT]:
        """Validate a JSON object."""
        violations: list[FieldViolation] = []
        values: dict[str, Any] = {}
        names: dict[str, str] = {}
        unknown: list[str] = []
        for given, value in body.items():
            field = self.aliases.get(given, given)
            if field not in self.properties:
                unknown.append(given)
            elif given != field and field in body:
                violations += [
                    FieldViolation(given, f"is an alias of {field}: give only one of them"),
                    FieldViolation(field, f"is the full name of {given}: give only one of them"),
                ]
            else:
                names[field] = given
                if value is not None:
                    values[field] = value
        violations += self._unknown_fields(unknown)
        return Validated(self._parse(values, names, violations), names, violations)

    def _unknown_fields(self, unknown: Sequence[str]) -> Iterable[FieldViolation]:
        known = [*self.properties, *self.aliases]
        for position, given in enumerate(unknown):
            if given in self.elsewhere:
                yield FieldViolation(given, self.elsewhere[given])
                continue
            # finding similar names takes time, so only the first few get a hint
            similar = difflib.get_close_matches(given[:50], known, n=1) if position < 10 else []
            hint = f"; did you mean {similar[0]}?" if similar else ""
            yield FieldViolation(schemas.printable(given), f"is not a field of this request{hint}")

    def _parse(
        self, values: dict[str, Any], names: Mapping[str, str], violations: list[FieldViolation]
    ) -> ModelT | None:
        for field, value in list(values.items()):
            if isinstance(value, str) and not _is_unicode(value):
                violations.append(FieldViolation(names[field], "contains half of a surrogate pair"))
                values[field] = "?"  # keeps a required field from being reported as missing too
        try:
            return self.model.model_validate(values)
        except ValidationError as error:
            problems = {problem["loc"]: problem for problem in error.errors(include_url=False)}
            for location, problem in problems.items():
                first = str(location[0])
                name = _path((names.get(first, first), *location[1:]))
                violations.append(FieldViolation(name, self._message(problem, location, values)))
            return None

    def _message(self, problem: Any, location: Location, values: Mapping[str, Any]) -> str:
        if problem["type"] == _CUSTOM:
            return str(problem["msg"])
        if problem["type"] == "extra_forbidden":
            return "is not a field of this object"
        schema = self.schema
        for part in location:
            inner = schemas.without_null(schema)
            schema = inner["items"] if isinstance(part, int) else inner["properties"][part]
        if problem["type"] == "missing":
            return f"is required: {schemas.describe(schema)}"
        value: Any = values
        for part in location:
            value = value[part]
        is_length = problem["type"] in ("too_short", "too_long")
        given = str(len(value)) if is_length else schemas.describe_value(value)
        return f"must be {schemas.describe(schema)}, not {given}"


def refusal(violations: Sequence[FieldViolation]) -> InvalidRequest:
    """Put violations into one error; the message shows the first few, `fields` the first hundred."""
    shown = "; ".join(f"{v.field}: {v.message}" for v in violations[:5])
    more = f"; and {len(violations) - 5} more" if len(violations) > 5 else ""
    fields = list(violations[:_MAX_VIOLATIONS])
    if len(violations) > _MAX_VIOLATIONS:
        fields.append(FieldViolation("...", f"and {len(violations) - _MAX_VIOLATIONS} more"))
    return InvalidRequest(fields, shown + more)


def _path(location: Location) -> str:
    """Write ("faces", 2, "box") as faces[2].box."""
    path = ""
    for part in location:
        if isinstance(part, int):
            path += f"[{part}]"
        else:
            path += f".{schemas.printable(part)}" if path else schemas.printable(part)
    return path


def _is_unicode(text: str) -> bool:
    if text.isascii():  # takes no time, however long an image's base64 is
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


@contextmanager
def fields_renamed(new_name: Callable[[str], str]) -> Iterator[None]:
    """Rename the fields of an `InvalidRequest` that is raised inside to what the client called them."""
    try:
        yield
    except InvalidRequest as error:
        raise error.rename_fields(new_name) from error
