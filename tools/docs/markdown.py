"""Tables, JSON schemas in words, and heading anchors as GitHub makes them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

_FENCE = re.compile(r"^ *(```|~~~)")
_HEADING = re.compile(r"^#{1,6} +(.*?) *#* *$")
_LINK = re.compile(r"\[([^\]]*)\]\([^)]*\)")


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table; a cell's line breaks and pipes are made harmless."""
    lines = [header, ["---"] * len(header), *rows]
    return "".join(f"| {' | '.join(_cell(cell) for cell in line)} |\n" for line in lines)


def code(text: str) -> str:
    """Return text as inline code."""
    return f"`{text}`"


def fenced(file: Path, language: str) -> str:
    """Return a file as a code block."""
    return f"```{language}\n{file.read_text(encoding='utf-8')}```\n"


def anchors(text: str) -> set[str]:
    """Return the anchors of a page's headings; repeated ones are numbered."""
    found: set[str] = set()
    for heading in headings(text):
        name = unique = slug(heading)
        number = 0
        while unique in found:
            number += 1
            unique = f"{name}-{number}"
        found.add(unique)
    return found


def headings(text: str) -> list[str]:
    """Return a page's headings, without those in code blocks."""
    return [match[1] for line in outside_code(text) if (match := _HEADING.match(line))]


def outside_code(text: str) -> list[str]:
    """Return a page's lines that are not in code blocks."""
    lines, fence = [], None
    for line in text.splitlines():
        mark = _FENCE.match(line)
        if mark and fence is None:
            fence = mark[1]
        elif mark and mark[1] == fence:
            fence = None
        elif fence is None:
            lines.append(line)
    return lines


def slug(heading: str) -> str:
    """Return the anchor of a heading: lower case, punctuation dropped, spaces to hyphens."""
    text = _LINK.sub(r"\1", heading).lower()
    return re.sub(r"[^\w\- ]", "", text).strip().replace(" ", "-")


def allowed(schema: Mapping[str, Any]) -> str:
    """Say in words which values a JSON schema allows; null is not mentioned."""
    options = [option for option in schema.get("anyOf", (schema,)) if option.get("type") != "null"]
    return " or ".join(_allowed(option) for option in options)


def _allowed(schema: Mapping[str, Any]) -> str:
    if "enum" in schema:
        return ", ".join(code(str(value)) for value in schema["enum"])
    if "const" in schema:
        return code(str(schema["const"]))
    kind = schema["type"]
    if kind == "boolean":
        return "bool"
    if kind == "object":
        return "object"
    if kind == "array":
        return _list(schema)
    if kind == "string":
        return _string(schema)
    return _number(schema)


def _list(schema: Mapping[str, Any]) -> str:
    lowest, highest = schema.get("minItems", 0), schema.get("maxItems")
    item = allowed(schema["items"])
    if highest is None:
        return f"list of {item}"
    return f"{lowest} x {item}" if lowest == highest else f"list of {lowest} to {highest}: {item}"


def _string(schema: Mapping[str, Any]) -> str:
    if schema.get("format") == "byte":
        return "file, base64 or data URI"
    lowest, highest = schema.get("minLength", 0), schema.get("maxLength")
    return "string" if highest is None else f"string, {lowest} to {highest} characters"


def _number(schema: Mapping[str, Any]) -> str:
    kind = "int" if schema["type"] == "integer" else "float"
    lowest, highest = schema.get("minimum"), schema.get("maximum")
    if "exclusiveMinimum" in schema:
        bounds = f"above {_figure(schema['exclusiveMinimum'])}"
        bounds += "" if highest is None else f", up to {_figure(highest)}"
    elif lowest is not None:
        bounds = f"from {_figure(lowest)}" if highest is None else f"{_figure(lowest)} to {_figure(highest)}"
    else:
        bounds = ""
    step = f"multiple of {_figure(schema['multipleOf'])}" if "multipleOf" in schema else ""
    return ", ".join(part for part in (kind, bounds, step) if part)


def default(value: object) -> str:
    """Return a default value as the reader would write it; empty if there is none."""
    if value is None or value == "" or value == [] or value == ():
        return ""
    if isinstance(value, bool):
        return code(str(value).lower())
    return code(_figure(value) if isinstance(value, int | float) else str(value))


def _figure(value: float) -> str:
    return f"{value:.16g}"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
