"""The text that AUTOMATIC1111's web UI writes into pictures, and that it and many programs read.

    a red fox, (detailed:1.2)
    Negative prompt: blurry
    Steps: 20, Sampler: Euler a, Schedule type: Automatic, CFG scale: 7.5, Seed: 1, Size: 1024x1024

The prompt, the negative prompt if there is one, and in the last line names and values. A value with a comma,
a colon or a line break is a JSON string. A prompt with a line that starts with `Negative prompt:` cannot be
told from one with a negative prompt: it is the recipe that is exact.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator

from atelier_runtime.recipes.whole import whole_text

MAX_CHARS = 2**18
"""What is longer is no infotext."""

_NEGATIVE = "Negative prompt:"
_NEEDS_QUOTES = re.compile(r'[,:\n\r]|^["\s]|\s$')
# Names are limited, or a long text without a colon would be searched again from each of its characters.
_PARAMETER = re.compile(r'\s*(\w[\w \-/]{1,99}):\s*("(?:\\.|[^\\"])+"|[^,]*)(?:,|$)')
_WEIGHTS = re.compile(r"<lora:[^<>]*>|[()\[\]\\]")
_SIZE = re.compile(r"(\d{1,9})x(\d{1,9})")
_FEWEST = 3
"""A last line with fewer parameters belongs to the prompt."""


def write(prompt: str, negative_prompt: str, parameters: Iterable[tuple[str, object]]) -> str:
    """Return the text. A parameter whose value is None or empty is left out."""
    written = [
        f"{name}: {_quoted(text)}" for name, value in parameters if (text := _as_text(value)) is not None
    ]
    lines = [prompt]
    if negative_prompt:
        lines.append(f"{_NEGATIVE} {negative_prompt}")
    lines.append(", ".join(written))
    return "\n".join(lines)


def escaped(prompt: str) -> str:
    """Return a prompt whose brackets mean themselves as one of the web UI's, where they would be weights.

    Tags of LoRAs, which are no part of the text, stay as they are.
    """
    return _WEIGHTS.sub(lambda match: match[0] if len(match[0]) > 1 else f"\\{match[0]}", prompt)


def read(text: str) -> dict[str, str]:
    """Return what a text says by the names in it, as the web UI reads it.

    `Prompt` and `Negative prompt` are always there. Of a size there are two numbers, `Size-1` and `Size-2`.
    Text that is no infotext is a prompt without parameters.
    """
    *lines, last = text[:MAX_CHARS].strip().split("\n")
    parameters = list(_parameters(last))
    if len(parameters) < _FEWEST:
        lines.append(last)
        parameters = []
    prompts: tuple[list[str], list[str]] = ([], [])
    is_negative = False
    for line in lines:
        line = line.strip()
        if line.startswith(_NEGATIVE):
            is_negative, line = True, line.removeprefix(_NEGATIVE).strip()
        prompts[is_negative].append(line)
    found = {"Prompt": "\n".join(prompts[False]), "Negative prompt": "\n".join(prompts[True])}
    for name, value in parameters:
        if size := _SIZE.fullmatch(value):
            found[f"{name}-1"], found[f"{name}-2"] = size.groups()
        else:
            found[name] = value
    return found


def has_parameters(text: str) -> bool:
    """Return whether a text has the line of parameters, without which it may be anything."""
    last = text[:MAX_CHARS].strip().rpartition("\n")[2]
    return sum(1 for _ in _parameters(last)) >= _FEWEST


def _parameters(line: str) -> Iterator[tuple[str, str]]:
    for match in _PARAMETER.finditer(line):
        yield match[1], _unquoted(match[2])


def _unquoted(value: str) -> str:
    if len(value) < 2 or value[0] != '"' or value[-1] != '"':
        return value
    try:
        text = json.loads(value)
    except (ValueError, RecursionError):
        return value
    return whole_text(text) if isinstance(text, str) else value


def _as_text(value: object) -> str | None:
    if value is None or value == "":
        return None
    return f"{value:.10g}" if isinstance(value, float) else str(value)


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False) if _NEEDS_QUOTES.search(text) else text
