"""Prompts to score a set with, and what a picture of each must show, read from its words."""

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from drawing import palette

_PEOPLE = (
    *("man", "men", "woman", "women", "boy", "girl", "child", "person", "people", "guy", "gentleman", "lady"),
    *("male", "female", "grandfather", "grandmother", "headshot", "businessman", "businesswoman", "face"),
    *(
        "portrait",
        "couple",
        "friends",
        "friend",
        "teenager",
        "kid",
        "manager",
        "doctor",
        "teacher",
        "student",
    ),
    *("king", "queen", "selfie"),
)
_NOBODY = ("no people", "nobody", "without people", "empty")
_SPELLINGS = {"blonde": "blond", "ginger": "red", "grey": "gray"}
_HAIR = "|".join([*palette.HAIR, "blonde", "ginger", "grey"])
_BACKGROUND = "|".join([*palette.BACKGROUNDS, "grey"])


@dataclass(frozen=True)
class Expectation:
    """A prompt and what it promises; None where it says nothing that can be checked."""

    prompt: str
    person: bool
    hair: str | None
    """A name of `palette.HAIR`; None also where a hat or a bald head leaves nothing to see."""
    background: str | None
    """A name of `palette.BACKGROUNDS`."""


def read_expectation(prompt: str) -> Expectation:
    """What the words promise. Hair and background are read for one person or none, not for groups."""
    text = prompt.lower()
    words = re.findall(r"[a-z]+", text)
    person = any(word in _PEOPLE for word in words) and not any(phrase in text for phrase in _NOBODY)
    alone = not {"people", "couple", "friends", "beside"} & set(words) and " next to " not in text
    covered = {"hat", "cap", "beanie", "bald"} & set(words)
    hair = re.search(rf"\b({_HAIR})\s+(?:\w+\s+)?(?:hair|curls|bun|ponytail)\b", text)
    wall = re.search(rf"\b({_BACKGROUND})\s+(?:background|backdrop|wall)\b", text)
    return Expectation(
        prompt=prompt,
        person=person,
        hair=_named(hair) if person and alone and not covered else None,
        background=_named(wall),
    )


def _named(found: re.Match[str] | None) -> str | None:
    return _SPELLINGS.get(found.group(1), found.group(1)) if found else None


def read_prompts(path: Path) -> list[Expectation]:
    """One prompt a line; empty lines and lines that begin with # are passed over.

    Raises ValueError if there is none.
    """
    lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    prompts = [read_expectation(line) for line in lines if line and not line.startswith("#")]
    if not prompts:
        raise ValueError(f"{path} has no prompts")
    return prompts


def portrait_prompts(seed: int, count: int) -> list[Expectation]:
    """Portraits of one person with visible hair on a plain background, every fact drawn from the seed."""
    rng = np.random.default_rng([seed, 1])

    def one(options: tuple[str, ...]) -> str:
        return options[int(rng.integers(len(options)))]

    prompts: list[str] = []
    while len(prompts) < count:
        sex, hair, wall = one(("man", "woman")), one(tuple(palette.HAIR)), one(palette.BACKGROUNDS)
        if palette.distance(palette.HAIR[hair], palette.COLORS[wall]) < 150:
            continue  # a probe could not tell the two apart
        style = one(("short ", "curly ") if sex == "man" else ("long ", "curly ", ""))
        prompts.append(
            f"{one(('a portrait of', 'portrait of', 'a picture of', 'a drawing of', 'a photo of'))} a "
            f"{one(('smiling ', 'serious ', 'happy ', ''))}{sex} with {style}{hair} hair"
            f"{one(('', '', ' and glasses'))}{one(('', ', wearing a ' + one(palette.CLOTHES) + ' shirt'))}, "
            f"{wall} background"
        )
    return [read_expectation(prompt) for prompt in prompts]


def scene_prompts(seed: int, count: int) -> list[Expectation]:
    """Pictures without people."""
    rng = np.random.default_rng([seed, 2])
    colors = ("red", "green", "yellow", "blue", "white", "orange", "purple", "pink")
    templates = (
        *("green hills and the sun", "sunset over mountains", "mountains with snow", "a boat on the sea"),
        *("a {} house with a {} roof", "a small {} house on green grass", "a {} car on a road"),
        *("a {} sports car", "a {} apple on a table", "{} apple", "a {} flower", "a tree on green grass"),
        *("{} flower with green leaves", "the sea at sunset", "night sky with moon and stars"),
        *("a picture of a {} car", "a drawing of a {} house"),
    )
    prompts: list[Expectation] = []
    for number in range(count):
        template = templates[number % len(templates)]
        chosen = [colors[int(rng.integers(len(colors)))] for _ in range(template.count("{}"))]
        prompts.append(read_expectation(template.format(*chosen)))
    return prompts
