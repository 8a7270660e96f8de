"""The text of AUTOMATIC1111's web UI, checked with a reader written from what is known of its own."""

from __future__ import annotations

import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atelier_runtime.recipes import infotext


def its_parameters(line: str) -> list[tuple[str, str]]:
    """Read parameters as its reader does: a JSON string, if one follows the colon, or all up to a comma.

    A name has at least two characters: word characters, then spaces, hyphens and slashes too.
    """
    found, place = [], 0
    while (colon := line.find(":", place)) >= 0:
        name = line[place:colon].strip()
        value = line[colon + 1 :].lstrip()
        start = len(line) - len(value)
        end = start
        if value.startswith('"'):
            end += 1
            while end < len(line) and line[end] != '"':
                end += 2 if line[end] == "\\" else 1
            end += 1
        if not value.startswith('"') or line[end : end + 1] not in ("", ","):
            comma = line.find(",", start)
            end = len(line) if comma < 0 else comma
        if len(name) >= 2 and all(c.isalnum() or c in "_ -/" for c in name):
            found.append((name, line[start:end]))
        place = end + 1
    return found


def its_reader(text: str) -> dict[str, str]:
    """Three parameters make the last line one of them; what comes before is the prompts."""
    lines = text.strip().split("\n")
    last = lines.pop() if len(its_parameters(lines[-1])) >= 3 else ""
    prompt: list[str] = []
    negative: list[str] = []
    is_negative = False
    for line in (line.strip() for line in lines):
        if line.startswith("Negative prompt:"):
            is_negative, line = True, line[16:].strip()
        (negative if is_negative else prompt).append(line)
    result = {"Prompt": "\n".join(prompt), "Negative prompt": "\n".join(negative)}
    for name, value in its_parameters(last):
        if value and value[0] == value[-1] == '"':
            value = json.loads(value)
        width, times, height = value.partition("x")
        if times and width.isdecimal() and height.isdecimal():
            result[f"{name}-1"], result[f"{name}-2"] = width, height
        else:
            result[name] = value
    return result


PARAMETERS = (
    ("Steps", 20),
    ("Sampler", "DPM++ 2M"),
    ("Schedule type", "Karras"),
    ("CFG scale", 7.5),
    ("Seed", 9007199254740991),
    ("Face restoration", None),
    ("Size", "832x1216"),
    ("Model", "a, b: c"),
    ("Hires upscaler", 'with "quotes"\nand a line break'),
)


def test_as_the_web_ui_writes() -> None:
    text = infotext.write("a fox, (red:1.2)\nat night", "blurry", PARAMETERS[:7])
    assert text == (
        "a fox, (red:1.2)\nat night\nNegative prompt: blurry\n"
        "Steps: 20, Sampler: DPM++ 2M, Schedule type: Karras, CFG scale: 7.5, Seed: 9007199254740991, "
        "Size: 832x1216"
    )
    assert infotext.write("a fox", "", [("Steps", 1)]) == "a fox\nSteps: 1"


def test_its_reader_and_ours_say_the_same() -> None:
    text = infotext.write("a fox\nat night", "blurry\ndark", PARAMETERS)
    expected = {
        "Prompt": "a fox\nat night",
        "Negative prompt": "blurry\ndark",
        "Steps": "20",
        "Sampler": "DPM++ 2M",
        "Schedule type": "Karras",
        "CFG scale": "7.5",
        "Seed": "9007199254740991",
        "Size-1": "832",
        "Size-2": "1216",
        "Model": "a, b: c",
        "Hires upscaler": 'with "quotes"\nand a line break',
    }
    assert infotext.read(text) == expected
    assert its_reader(text) == expected


_values = st.text(st.characters(codec="utf-8", exclude_characters="\r"), max_size=40)


@given(_values, _values, _values)
def test_every_value_comes_back(model: str, upscaler: str, refiner: str) -> None:
    given_values = {"Model": model, "Hires upscaler": upscaler, "Refiner": refiner}
    text = infotext.write("p", "n", [("Steps", 1), ("Size", "8x9"), ("Seed", 3), *given_values.items()])
    for read in (infotext.read, its_reader):
        found = read(text)
        for name, value in given_values.items():
            if size := re.fullmatch(r"(\d{1,9})x(\d{1,9})", value):
                assert (found[f"{name}-1"], found[f"{name}-2"]) == size.groups()
            elif value:
                assert found[name] == value


@pytest.mark.parametrize(
    "text", ["", "\n", "no parameters", "a: b", "Negative prompt: only", "x\nSteps: 1, Seed: 2", "\ud800"]
)
def test_what_is_no_infotext_is_a_prompt(text: str) -> None:
    found = infotext.read(text)
    assert set(found) == {"Prompt", "Negative prompt"}


@given(st.text())
def test_reads_anything(text: str) -> None:
    infotext.read(text)


@pytest.mark.parametrize("piece", ["a", 'a:"', 'aa:"\\"', "a b-", ": ,", "\\", 'aa:"\\",'])
def test_long_texts_cost_little(piece: str) -> None:
    # With names of any length the search was quadratic: for this many characters, an hour.
    infotext.read(piece * (2**20 // len(piece)))
