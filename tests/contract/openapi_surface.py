"""What a client can rely on in the OpenAPI document, as lines of text: everything but prose.

After a change that is meant: python -m tests.contract.openapi_surface > tests/contract/openapi_surface.txt
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from atelier_gateway.app import create_app
from atelier_gateway.settings import GatewaySettings
from atelier_runtime.settings import load

COPY = Path(__file__).with_name("openapi_surface.txt")

_PROSE = ("description", "summary", "title", "example", "examples")


def current() -> list[str]:
    """Return the surface of today's document."""
    return surface(create_app(load(GatewaySettings)).openapi())


def surface(document: dict[str, Any]) -> list[str]:
    """Return a line for every property of every body, in a stable order."""
    lines: list[str] = []
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            lines += _operation(f"{method.upper()} {path}", operation)
    for name, schema in document["components"]["schemas"].items():
        lines += _schema(f"schema {name}", schema)
    return sorted(lines)


def _operation(name: str, operation: dict[str, Any]) -> Iterator[str]:
    yield f"{name}: {_line({key: operation.get(key) for key in ('operationId', 'tags', 'deprecated')})}"
    for parameter in operation.get("parameters", ()):
        yield f"{name} parameter {_line(parameter)}"
    for media_type, content in operation.get("requestBody", {}).get("content", {}).items():
        yield from _schema(f"{name} body {media_type}", content["schema"])
        if "encoding" in content:
            yield f"{name} body {media_type} encoding: {_line(content['encoding'])}"
    for status, response in operation["responses"].items():
        for header, content in response.get("headers", {}).items():
            yield f"{name} {status} header {header}: {_line(content)}"
        for media_type, content in response.get("content", {}).items():
            yield from _schema(f"{name} {status} {media_type}", content.get("schema", {}))


def _schema(name: str, schema: dict[str, Any]) -> Iterator[str]:
    whole = {key: value for key, value in schema.items() if key != "properties"}
    yield f"{name}: {_line(whole)}"
    for field, property_ in schema.get("properties", {}).items():
        yield f"{name} .{field}: {_line(property_)}"


def _line(value: Any) -> str:
    return json.dumps(_without_prose(value), sort_keys=True)


def _without_prose(value: Any, *, is_properties: bool = False) -> Any:
    if isinstance(value, list):
        return [_without_prose(part) for part in value]
    if not isinstance(value, dict):
        return value
    return {
        key: _without_prose(part, is_properties=key == "properties" and not is_properties)
        for key, part in value.items()
        if is_properties or key not in _PROSE
    }


if __name__ == "__main__":
    print(*current(), sep="\n")
