"""JSON schemas of request bodies: inlined for validation, shown by OpenAPI, put into words for messages."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from atelier_gateway.http.long_text import LongText

AN_IMAGE = "a PNG, JPEG or WebP file, as base64 or as a data URI with base64"

_MAX_SHOWN_CHARS = 60

Schema = dict[str, Any]


def inline(schema: Schema) -> Schema:
    """Return a model's schema without references and without the titles that pydantic generates."""
    result: Schema = _inline(schema, schema.get("$defs", {}))
    return result


def _inline(schema: Any, definitions: Mapping[str, Any]) -> Any:
    if isinstance(schema, list):
        return [_inline(part, definitions) for part in schema]
    if not isinstance(schema, dict):
        return schema
    if "$ref" in schema:
        return _inline(definitions[schema["$ref"].rsplit("/", 1)[1]], definitions)
    return {key: _inline(part, definitions) for key, part in schema.items() if key not in ("title", "$defs")}


def without_null(schema: Schema) -> Schema:
    """Return the schema of a nullable field's value."""
    return next((part for part in schema.get("anyOf", ()) if part.get("type") != "null"), schema)


def body_schema(title: str, schema: Schema, aliases: Mapping[str, str]) -> Schema:
    """Return the documented schema of a JSON body: every option nullable, aliases deprecated."""
    required: Sequence[str] = schema["required"]
    properties: Schema = {
        field: dict(property_) if field in required else _nullable(property_)
        for field, property_ in schema["properties"].items()
    }
    for alias, field in aliases.items():
        properties[alias] = {
            **{key: value for key, value in properties[field].items() if key != "default"},
            "description": f"Alias of {field}; not together with it.",
            "deprecated": True,
        }
    return {
        "title": title,
        "type": "object",
        "properties": properties,
        "required": required,
        "additionalProperties": False,
    }


def form_schema(title: str, schema: Schema, aliases: Mapping[str, str]) -> Schema:
    """Return the documented schema of a form: base64 fields are files, and nothing is null."""
    documented = body_schema(title, schema, aliases)
    for property_ in documented["properties"].values():
        parts = [part for part in property_.pop("anyOf", ()) if part.get("type") != "null"]
        property_ |= {"anyOf": parts} if len(parts) > 1 else parts[0] if parts else {}
        if property_.get("default", 0) is None:
            del property_["default"]
        if property_.get("format") == "byte":
            property_["format"] = "binary"
    return documented


def _nullable(schema: Schema) -> Schema:
    if any(part.get("type") == "null" for part in schema.get("anyOf", ())):
        return dict(schema)
    outer: Schema = {key: schema[key] for key in ("description", "default") if key in schema}
    inner = {key: value for key, value in schema.items() if key not in outer}
    return {"anyOf": [*inner.get("anyOf", (inner,)), {"type": "null"}], **outer}


def describe(schema: Schema) -> str:
    """Say in words which values a schema allows."""
    parts = [part for part in schema.get("anyOf", ()) if part.get("type") != "null"]
    if parts:
        return " or ".join(describe(part) for part in parts)
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
        return f"a list of {low if low == high else f'{low} to {high}'}, each {describe(schema['items'])}"
    if schema.get("format") == "byte":
        return AN_IMAGE
    if schema["type"] == "string":
        return f"a string of {schema.get('minLength', 0)} to {schema['maxLength']} characters"
    return _describe_number(schema)


def _describe_number(schema: Schema) -> str:
    kind = "an integer" if schema["type"] == "integer" else "a number"
    step = f" and a multiple of {schema['multipleOf']}" if "multipleOf" in schema else ""
    bounds = [schema.get("minimum"), schema.get("maximum")]
    low, high = (int(b) if b is not None and b == int(b) else b for b in bounds)
    if low is None:
        return kind + step
    return f"{kind} of {low} or more{step}" if high is None else f"{kind} from {low} to {high}{step}"


def describe_value(value: object) -> str:
    """Show a value that a client sent, if it is short."""
    if isinstance(value, bytes | bytearray | memoryview):
        return f"a file of {len(value)} bytes"
    if isinstance(value, str | LongText) and len(value) > _MAX_SHOWN_CHARS:
        return f"{len(value)} characters"
    if isinstance(value, dict):
        return "an object"
    if isinstance(value, list):
        return "a list"
    return printable(json.dumps(value, ensure_ascii=False))


def printable(text: str) -> str:
    """Return a text of a client for a message: short, without control characters."""
    cut = text if len(text) <= _MAX_SHOWN_CHARS else text[: _MAX_SHOWN_CHARS - 3] + "..."
    return "".join(c if c.isprintable() else "?" for c in cut)
