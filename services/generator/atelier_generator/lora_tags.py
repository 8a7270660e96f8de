"""LoRAs as a request names them: in its field `loras`, or as `<lora:name:0.8>` in its prompt.

The tags are those of AUTOMATIC1111's web UI. A tag is removed and nothing else: spaces and commas around it
stay, as there.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from atelier_runtime import defaults
from atelier_runtime.checks import check_length, check_range
from atelier_runtime.errors import FieldViolation

_BEGINNING = "<lora:"
_TAG = re.compile(r"<lora:([^<>]*)>", re.IGNORECASE)
_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)")
_MOST_QUOTED = 60


@dataclass(frozen=True, order=True)
class Lora:
    """A LoRA and how strongly it is applied; 0 is not at all. `field`: that of the request that names it."""

    name: str
    weight: float = defaults.LORA_WEIGHT
    field: str = field(default="loras", compare=False)


def without_tags(prompt: str) -> str:
    """Return a prompt without its tags."""
    return _TAG.sub("", prompt)


def read_tags(prompt: str) -> tuple[str, tuple[Lora, ...]]:
    """Return a prompt without its tags, and what they name; of a prompt without violations."""
    return without_tags(prompt), tuple(_lora(match[1]) for match in _TAG.finditer(prompt))


def in_effect(loras: Iterable[Lora]) -> tuple[Lora, ...]:
    """Return those with a weight, in an order that does not depend on the request's: sums do."""
    return tuple(sorted(lora for lora in loras if lora.weight))


def violations(prompt: str, negative_prompt: str | None, loras: Sequence[Lora]) -> Iterator[FieldViolation]:
    """Check both fields that name LoRAs, without knowing which there are."""
    named: list[str] = []
    for number, lora in enumerate(loras):
        where = f"loras[{number}]"
        yield from check_length(f"{where}.name", lora.name, defaults.LORA_NAME_CHARS)
        yield from check_range(f"{where}.weight", lora.weight, defaults.LORA_WEIGHT_RANGE)
        named.append(lora.name)
    problems = list(_problems_of_tags(prompt))
    yield from (FieldViolation("prompt", problem) for problem in problems)
    if _BEGINNING in (negative_prompt or "").lower():
        yield FieldViolation(
            "negative_prompt", "a LoRA applies to the whole image: name it in prompt or loras, not here"
        )
    if not problems:
        named += [lora.name for lora in read_tags(prompt)[1]]
    field = "loras" if loras else "prompt"
    if len(named) > defaults.MOST_LORAS:
        yield FieldViolation(
            field, f"at most {defaults.MOST_LORAS} LoRAs, in loras and prompt together, are {len(named)}"
        )
    for name in (name for name, count in Counter(named).items() if count > 1):
        yield FieldViolation(field, f"{_quoted(name)} is named more than once, in loras and prompt together")


def _problems_of_tags(prompt: str) -> Iterator[str]:
    if prompt.lower().count(_BEGINNING) > len(_TAG.findall(prompt)):
        yield "a <lora: has no end; write <lora:name> or <lora:name:0.8>"
    elif _BEGINNING in without_tags(prompt).lower():
        yield "a <lora:name> stands inside of another"
    for match in _TAG.finditer(prompt):
        tag = _quoted(match[0])
        name, *numbers = match[1].split(":")
        if not name.strip():
            yield f"{tag} has no name; write <lora:name> or <lora:name:0.8>"
        elif len(numbers) > 1:
            yield f"{tag} has several weights; there is one for the whole LoRA: <lora:name:0.8>"
        elif numbers and not _NUMBER.fullmatch(numbers[0].strip()):
            yield f"{tag}: {_quoted(numbers[0])} is not a number"
        else:
            for problem in check_range("prompt", _lora(match[1]).weight, defaults.LORA_WEIGHT_RANGE):
                yield f"{tag}: its weight {problem.message}"


def _lora(content: str) -> Lora:
    name, _, weight = content.partition(":")
    number = float(weight) if weight else defaults.LORA_WEIGHT
    return Lora(name.strip(), number if math.isfinite(number) else math.inf, "prompt")


def _quoted(text: str) -> str:
    return repr(text) if len(text) <= _MOST_QUOTED else f"{text[:_MOST_QUOTED]!r}..."
