"""What the characters of a prompt mean: themselves (plain), or weights too (weighted).

Weighted is the syntax of AUTOMATIC1111's web UI (its `modules/prompt_parser.py`), but for what that draws at
some steps only and for combinations of prompts, which are refused. docs/decisions/prompt-weights.md lists the
differences.

    (word)       1.1 times the weight        (word:1.3)    1.3 times
    [word]       divided by 1.1              nested brackets multiply
    \\( \\) \\[ \\]  the characters themselves; a backslash makes any character literal
    BREAK        begins a new chunk for the text encoders
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from typing import Literal

from atelier_runtime import defaults
from atelier_runtime.checks import check_range
from atelier_runtime.errors import FieldViolation

PromptSyntax = Literal["plain", "weighted"]
PROMPT_SYNTAXES: tuple[PromptSyntax, ...] = ("plain", "weighted")

_STEP = 1.1
_TOKEN = re.compile(
    r"""
    \\(?P<literal>.?)
    | (?P<open>[(\[])
    | :(?P<weight>[+-]?[.0-9]+)(?P<close_weight>\))
    | (?P<close>[)\]])
    | (?P<text>[|:]|[^\\()\[\]:|]+)
    """,
    re.VERBOSE | re.DOTALL,
)
_BREAK = re.compile(r"\bBREAK\b")
_AND = re.compile(r"\bAND\b")
_STEP_NUMBER = re.compile(r"\s*[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")


@dataclass(frozen=True)
class Segment:
    """Text that the tokenizers see as one, and its weight."""

    text: str
    weight: float = 1.0


ParsedPrompt = tuple[tuple[Segment, ...], ...]
"""The parts between BREAKs, one if there is none; adjacent segments of a part differ in weight."""


class PromptSyntaxError(ValueError):
    """A prompt in the weighted syntax cannot be read; the message says why, and quotes none of its words."""


def parse(text: str, syntax: PromptSyntax) -> ParsedPrompt:
    """Return the segments of a prompt. Raises `PromptSyntaxError`; a plain prompt is one segment."""
    if syntax == "plain":
        return ((Segment(text),) if text else (),)
    return _Parser().parse(text)


def check_prompt(field: str, text: str | None, syntax: PromptSyntax) -> Iterator[FieldViolation]:
    """Check that a prompt can be read and that its weights are within limits."""
    if text is None:
        return
    try:
        parts = parse(text, syntax)
    except PromptSyntaxError as error:
        yield FieldViolation(field, str(error))
        return
    # Negative prompts are never combined: there, the word means itself.
    if syntax == "weighted" and field == "prompt" and _has_and(text):
        yield FieldViolation(
            field,
            "AND between prompts is not supported; for the word, write and (letter case does not matter)",
        )
    for segment in (segment for part in parts for segment in part):
        for violation in check_range(field, segment.weight, defaults.PROMPT_WEIGHT_RANGE):
            yield FieldViolation(field, f"a weight, with the brackets around it, {violation.message}")
            return


def _has_and(text: str) -> bool:
    return any(_AND.search(match["text"] or "") for match in _TOKEN.finditer(text))


@dataclass(eq=False)
class _Bracket:
    """An open bracket: the first segment inside, and where it is in the prompt."""

    kind: str
    segment: int
    start: int
    has_bar: bool = False


class _Parser:
    """Round and square brackets close independently of each other; those left open act to the end."""

    def __init__(self) -> None:
        self._texts: list[str | None] = []  # None: a BREAK
        self._weights: list[float] = []
        self._open: list[_Bracket] = []

    def parse(self, text: str) -> ParsedPrompt:
        for match in _TOKEN.finditer(text):
            innermost = self._open[-1] if self._open else None
            if match["open"]:
                self._open.append(_Bracket(match["open"], len(self._texts), match.start()))
            elif match["close_weight"] and (bracket := self._close("(")):
                self._multiply(bracket, _number(match["weight"], match.start() + 2))
            elif match["close"] and (bracket := self._close("(" if match["close"] == ")" else "[")):
                # With another bracket still open inside, what looks like editing is none.
                if bracket.kind == "[" and bracket is innermost:
                    _refuse_editing(bracket, text[bracket.start : match.start()])
                self._multiply(bracket, _STEP if bracket.kind == "(" else 1 / _STEP)
            elif match["literal"] is not None:
                self._add(match["literal"])
            else:
                self._add_text(match[0])
        for bracket in self._open:
            self._multiply(bracket, _STEP if bracket.kind == "(" else 1 / _STEP)
        return tuple(self._parts())

    def _add_text(self, text: str) -> None:
        if text == "|" and self._open:
            self._open[-1].has_bar = True
        for number, part in enumerate(_BREAK.split(text)):
            if number:
                self._add(None)
            self._add(part)

    def _add(self, text: str | None) -> None:
        if text != "":
            self._texts.append(text)
            self._weights.append(1.0)

    def _close(self, kind: str) -> _Bracket | None:
        """Remove the last open bracket of a kind; None if there is none: then the character is text."""
        for number in reversed(range(len(self._open))):
            if self._open[number].kind == kind:
                return self._open.pop(number)
        return None

    def _multiply(self, bracket: _Bracket, factor: float) -> None:
        for number in range(bracket.segment, len(self._weights)):
            self._weights[number] *= factor

    def _parts(self) -> Iterator[tuple[Segment, ...]]:
        part: list[tuple[str, float]] = []
        for text, weight in zip(self._texts, self._weights, strict=True):
            if text is None:
                yield _merged(part)
                part = []
            else:
                part.append((text, weight))
        yield _merged(part)


def _merged(pieces: list[tuple[str, float]]) -> tuple[Segment, ...]:
    return tuple(
        Segment("".join(text for text, _ in group), weight)
        for weight, group in groupby(pieces, key=lambda piece: piece[1])
    )


def _number(text: str, position: int) -> float:
    try:
        return float(text)
    except ValueError:
        raise PromptSyntaxError(
            f"the weight {text[:20]} at character {position} is not a number; write \\: for a colon that is "
            "text"
        ) from None


def _refuse_editing(bracket: _Bracket, inside: str) -> None:
    """Raise for `[from:to:when]`, `[to:when]`, `[from::when]` and `[a|b]`."""
    position = bracket.start + 1
    if bracket.has_bar:
        raise PromptSyntaxError(
            f"the bracket at character {position} alternates prompts, [a|b], which is not supported; write "
            "\\| for a bar that is text"
        )
    before, colon, when = inside.rpartition(":")
    escaped = (len(before) - len(before.rstrip("\\"))) % 2 == 1
    if colon and not escaped and _STEP_NUMBER.fullmatch(when):
        raise PromptSyntaxError(
            f"the bracket at character {position} changes the prompt at a step, [a:b:0.5], which is not "
            "supported; for less weight write (word:0.9)"
        )
