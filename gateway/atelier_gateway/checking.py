"""Checks a JSON object against a request model, and tells all that is wrong with it in one answer.

What every address has in common:
- an older name works like the full one, but not beside it;
- explicit null means the default;
- an unknown field, a wrong type or a value out of range is refused, and every offending field is named, by
  the name that the client used; one inside another as `faces[2].fidelity`.
JSON types are taken at their word (true is not 1, "30" is not 30), save that 30.0 is the integer 30,
because some clients' numbers are all floats.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic_core import PydanticCustomError

from atelier_runtime import defaults
from atelier_runtime.errors import FieldViolation, InvalidRequest

A_PICTURE = "a PNG, JPEG or WebP file, as base64 or as a data URI with base64"

_MOST_VIOLATIONS = 100  # a body of a million unknown fields gets a short answer
_MOST_GIVEN_CHARS = 60
_SAID = "said"

ModelT = TypeVar("ModelT", bound=BaseModel)
Location = tuple[int | str, ...]


class RequestModel(BaseModel):
    """Base of the request models: frozen, JSON types at their word, nothing unknown."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid", allow_inf_nan=False)


def _whole(value: object) -> object:
    if isinstance(value, bool):  # Python's True equals 1, JSON's true does not
        raise ValueError("a truth value is no number")
    return int(value) if isinstance(value, float) and value.is_integer() else value


WHOLE = BeforeValidator(_whole)
QUALITY_RANGE = Field(ge=defaults.QUALITY_RANGE[0], le=defaults.QUALITY_RANGE[1])


def said(message: str) -> PydanticCustomError:
    """Return an error for a validator to raise; the client reads `message` after the field's name."""
    return PydanticCustomError(_SAID, "{message}", {"message": message})


@dataclass(frozen=True)
class Checked(Generic[ModelT]):
    """What a body came to. `request` is None if it could not be read; violations may remain beside one."""

    request: ModelT | None
    names: dict[str, str]
    """Full name -> the name that the client used, for messages that come later."""
    violations: list[FieldViolation]


class Checker(Generic[ModelT]):
    """Checks bodies against one request model."""

    def __init__(self, model: type[ModelT], aliases: Mapping[str, str]) -> None:
        """`aliases`: older clients' name -> full name."""
        self.model = model
        self.aliases = aliases
        described = model.model_json_schema()
        self.schema: dict[str, Any] = _inlined(described, described.get("$defs", {}))
        self.properties: dict[str, dict[str, Any]] = self.schema["properties"]

    def property(self, name: str) -> dict[str, Any] | None:
        """Return the JSON schema of a field by either of its names, without null; None for an unknown one."""
        described = self.properties.get(self.aliases.get(name, name))
        return None if described is None else _not_null(described)

    def check(self, body: Mapping[str, Any]) -> Checked[ModelT]:
        """Check a JSON object."""
        violations: list[FieldViolation] = []
        values: dict[str, Any] = {}
        names: dict[str, str] = {}
        unknown: list[str] = []
        for given, value in body.items():
            field = self.aliases.get(given, given)
            if field not in self.properties:
                unknown.append(given)
            elif given != field and field in body:
                violations.append(
                    FieldViolation(given, f"is an older name of {field}: give only one of them")
                )
                violations.append(
                    FieldViolation(field, f"is the full name of {given}: give only one of them")
                )
            else:
                names[field] = given
                if value is not None:
                    values[field] = value
        violations += self._unknown_fields(unknown)
        return Checked(self._validate(values, names, violations), names, violations)

    def _unknown_fields(self, unknown: Sequence[str]) -> list[FieldViolation]:
        known = [*self.properties, *self.aliases]
        violations = []
        for position, given in enumerate(unknown):
            # likeness costs time, so only the first few get a hint
            alike = difflib.get_close_matches(given[:50], known, n=1) if position < 10 else []
            hint = f"; did you mean {alike[0]}?" if alike else ""
            violations.append(FieldViolation(_printable(given), f"is not a field of this request{hint}"))
        return violations

    def _validate(
        self, values: dict[str, Any], names: Mapping[str, str], violations: list[FieldViolation]
    ) -> ModelT | None:
        for field, value in list(values.items()):
            if isinstance(value, str) and not _is_unicode(value):
                violations.append(
                    FieldViolation(names[field], "holds half of a surrogate pair, which is no character")
                )
                # the stand-in keeps a required field from being reported as missing too
                values[field] = "?"
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
        if problem["type"] == _SAID:
            return str(problem["msg"])
        if problem["type"] == "extra_forbidden":
            return "is not a field of this object"
        schema = self.schema
        for part in location:
            inner = _not_null(schema)
            schema = inner["items"] if isinstance(part, int) else inner["properties"][part]
        if problem["type"] == "missing":
            return f"is required: {_expected(schema)}"
        value: Any = values
        for part in location:
            value = value[part]
        wrong_length = problem["type"] in ("too_short", "too_long")
        return f"must be {_expected(schema)}, not {len(value) if wrong_length else _given(value)}"


def refusal(violations: list[FieldViolation]) -> InvalidRequest:
    """Put violations into one error; the message shows the first few, `fields` the first hundred."""
    shown = "; ".join(f"{v.field}: {v.message}" for v in violations[:5])
    more = f"; and {len(violations) - 5} more" if len(violations) > 5 else ""
    fields = violations[:_MOST_VIOLATIONS]
    if len(violations) > _MOST_VIOLATIONS:
        fields.append(FieldViolation("...", f"and {len(violations) - _MOST_VIOLATIONS} more"))
    return InvalidRequest(fields, shown + more)


def openapi_schema(checker: Checker[Any], title: str) -> dict[str, Any]:
    """Return the JSON schema of a body: with null for every option, and the older names as deprecated."""
    required = checker.schema["required"]
    properties: dict[str, Any] = {}
    for field, described in checker.properties.items():
        schema = dict(described)
        if field not in required and not _is_nullable(schema):
            outside: dict[str, Any] = {
                key: schema.pop(key) for key in ("description", "default") if key in schema
            }
            schema = {"anyOf": [*schema.get("anyOf", (schema,)), {"type": "null"}], **outside}
        properties[field] = schema
    for older, field in checker.aliases.items():
        properties[older] = {
            **{key: value for key, value in properties[field].items() if key != "default"},
            "description": f"Older name of {field}; not together with it.",
            "deprecated": True,
        }
    return {
        "title": title,
        "type": "object",
        "properties": properties,
        "required": required,
        "additionalProperties": False,
    }


def _inlined(schema: Any, definitions: Mapping[str, Any]) -> Any:
    """Return a schema without references and without the titles that pydantic makes up."""
    if isinstance(schema, list):
        return [_inlined(part, definitions) for part in schema]
    if not isinstance(schema, dict):
        return schema
    if "$ref" in schema:
        return _inlined(definitions[schema["$ref"].rsplit("/", 1)[1]], definitions)
    return {key: _inlined(part, definitions) for key, part in schema.items() if key not in ("title", "$defs")}


def _is_nullable(schema: Mapping[str, Any]) -> bool:
    return any(part.get("type") == "null" for part in schema.get("anyOf", ()))


def _not_null(schema: dict[str, Any]) -> dict[str, Any]:
    return next((part for part in schema.get("anyOf", ()) if part.get("type") != "null"), schema)


def _path(location: Location) -> str:
    """Write ("faces", 2, "box") as faces[2].box."""
    path = ""
    for part in location:
        path += f"[{part}]" if isinstance(part, int) else f".{_printable(part)}" if path else _printable(part)
    return path


def _is_unicode(text: str) -> bool:
    if text.isascii():  # takes no time, however long a picture's base64 is
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _printable(text: str) -> str:
    cut = text if len(text) <= _MOST_GIVEN_CHARS else text[: _MOST_GIVEN_CHARS - 3] + "..."
    return "".join(c if c.isprintable() else "?" for c in cut)


def _given(value: object) -> str:
    if isinstance(value, str) and len(value) > _MOST_GIVEN_CHARS:
        return f"{len(value)} characters"
    if isinstance(value, dict):
        return "an object"
    if isinstance(value, list):
        return "a list"
    return _printable(json.dumps(value, ensure_ascii=False))


def _expected(schema: dict[str, Any]) -> str:
    """Say in words what a property's JSON schema allows."""
    parts = [part for part in schema.get("anyOf", ()) if part.get("type") != "null"]
    if parts:
        return " or ".join(_expected(part) for part in parts)
    choices = schema.get("enum") or ([schema["const"]] if "const" in schema else [])
    if choices:
        shown = [str(choice) for choice in choices]
        return " or ".join([", ".join(shown[:-1]), shown[-1]] if len(shown) > 1 else shown)
    if schema["type"] == "boolean":
        return "true or false"
    if schema["type"] == "object":
        return "an object"
    if schema["type"] == "array":
        low, high = schema.get("minItems", 0), schema["maxItems"]
        return f"a list of {low if low == high else f'{low} to {high}'}, each {_expected(schema['items'])}"
    if schema.get("format") == "byte":
        return A_PICTURE
    if schema["type"] == "string":
        return f"a string of {schema.get('minLength', 0)} to {schema['maxLength']} characters"
    kind = "a whole number" if schema["type"] == "integer" else "a number"
    step = f" and a multiple of {schema['multipleOf']}" if "multipleOf" in schema else ""
    bounds = [schema.get("minimum"), schema.get("maximum")]
    low, high = (int(b) if b is not None and b == int(b) else b for b in bounds)
    if low is None:
        return kind + step
    return f"{kind} of {low} or more{step}" if high is None else f"{kind} from {low} to {high}{step}"
