"""Texts of strangers without halves of surrogate pairs, which JSON can say and UTF-8 cannot."""

from __future__ import annotations

from typing import Any


def whole_text(text: str) -> str:
    """Return a text with U+FFFD in place of each half of a pair whose other half is missing."""
    if text.isascii():
        return text
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def whole_json(value: Any) -> Any:
    """Return a JSON value all of whose texts, names included, are whole."""
    if isinstance(value, str):
        return whole_text(value)
    if isinstance(value, list):
        return [whole_json(each) for each in value]
    if isinstance(value, dict):
        return {whole_text(name): whole_json(each) for name, each in value.items()}
    return value
