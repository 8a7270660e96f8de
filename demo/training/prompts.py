"""Prompts to score a set with, and what an image of each must show, parsed from its words."""

import re
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from drawing import palette

_PEOPLE = re.compile(
    r"\b(?:man|men|woman|women|boy|girl|child|kid|person|people|guy|gentleman|lady|male|female|teenager"
    r"|grandfather|grandmother|businessman|businesswoman|manager|doctor|teacher|student|king|queen"
    r"|couple|friends?|family|headshot|portrait|selfie|face)\b"
)
_NOBODY = ("no people", "nobody", "without people", "empty")
_SPELLINGS = {"blonde": "blond", "ginger": "red", "grey": "gray"}
_HAIR = "|".join([*palette.HAIR, "blonde", "ginger", "grey"])
_STYLED = r"(?:\w+\s+)?(?:hair|curls|bun|ponytail|afro|braids|pigtails)"
_BACKGROUND = "|".join([*palette.BACKGROUNDS, "grey"])
_STYLES: tuple[tuple[str, tuple[str, ...]], ...] = (
    (r"\bbald\b", ("bald",)),
    (r"\bafro\b", ("afro", "curly")),
    (r"\b(?:curly|curls)\b", ("curly", "afro")),
    (r"\bbraids\b", ("braids",)),
    (r"\bpigtails\b", ("pigtails",)),
    (r"\bbun\b", ("bun",)),
    (r"\bponytail\b", ("ponytail",)),
    (r"\bbangs\b", ("bangs",)),
    (r"\bspiky\b", ("spiky",)),
    (r"\bcombed back\b", ("short",)),
    (r"\bwavy\b", ("long",)),
    (r"\blong\b[^,]*\bhair\b", ("long", "bangs")),
    (r"\bshort\b[^,]*\bhair\b", ("short", "spiky")),
)
_HATS = ("hat", "cap", "beanie")
_GROUP_WORDS = frozenset({"people", "couple", "friends", "beside", "family"})

STANDARD_PORTRAITS = (
    "portrait of an old man with a white beard and round glasses, blue background",
    "professional headshot, sharp eyes, natural skin",
)
STANDARD_SCENES = ("a red sports car", "sunset over mountains")
"""The prompts that everybody tries first; they are included for every seed."""


@dataclass(frozen=True)
class Expectation:
    """A prompt and what it requests; None where it says nothing that can be checked."""

    prompt: str
    person: bool
    hair: str | None
    """A name of `palette.HAIR`; also None if a hat or a bald head leaves nothing to see."""
    background: str | None
    """A name of `palette.BACKGROUNDS`."""
    expected: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """For each attribute that the judge predicts and the prompt requests, the classes that satisfy it.

    Glasses, beards and hats that are not mentioned are expected to be absent, if the prompt describes one
    person in any way.
    """


def read_expectation(prompt: str) -> Expectation:
    """What a prompt requests. Hair and the like are only parsed for single people, not for groups."""
    text = prompt.lower()
    words = set(re.findall(r"[a-z]+", text))
    person = bool(_PEOPLE.search(text)) and not any(phrase in text for phrase in _NOBODY)
    is_single = not _GROUP_WORDS & words and " next to " not in text
    hides_hair = {*_HATS, "bald"} & words
    hair = re.search(rf"\b({_HAIR})\s+{_STYLED}\b", text)
    wall = re.search(rf"\b({_BACKGROUND})\s+(?:background|backdrop|wall)\b", text)
    color = _color_name(hair) if person and is_single and not hides_hair else None
    background = _color_name(wall)
    expected: dict[str, tuple[str, ...]] = {}
    if person and is_single:
        expected = _expected_attributes(
            text, words, described=hair is not None or bool(hides_hair) or "beard" in words
        )
        if color:
            expected["hair_color"] = (color,)
        if background:
            expected["background"] = (background,)
    return Expectation(prompt, person, color, background, expected)


def _expected_attributes(text: str, words: set[str], described: bool) -> dict[str, tuple[str, ...]]:
    expected: dict[str, tuple[str, ...]] = {}
    hat = next((name for name in _HATS if name in words), None)
    if hat is None:
        for pattern, styles in _STYLES:
            if re.search(pattern, text):
                expected["hair_style"] = styles
                break
    if "glasses" in words:
        shape = next((shape for shape in ("round", "square") if f"{shape} glasses" in text), None)
        expected["glasses"] = (shape,) if shape else ("round", "square")
    elif described:
        expected["glasses"] = ("none",)
    if {"moustache", "mustache"} & words:
        expected["beard"] = ("moustache",)
    elif "beard" in words:
        expected["beard"] = ("beard",)
    elif described:
        expected["beard"] = ("none",)
    if hat:
        expected["hat"] = ("hat", "cap", "beanie") if hat == "hat" else (hat,)
    elif described:
        expected["hat"] = ("none",)
    return expected


def _color_name(found: re.Match[str] | None) -> str | None:
    return _SPELLINGS.get(found.group(1), found.group(1)) if found else None


def read_prompts(path: Path) -> list[Expectation]:
    """One prompt per line; blank lines and lines that begin with # are skipped.

    Raises ValueError if there is none.
    """
    lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    prompts = [read_expectation(line) for line in lines if line and not line.startswith("#")]
    if not prompts:
        raise ValueError(f"{path} does not contain prompts")
    return prompts


def portrait_prompts(seed: int, count: int) -> list[Expectation]:
    """The standard portraits, then random portraits of one person on a plain background."""
    rng = np.random.default_rng([seed, 1])

    def one(options: tuple[str, ...]) -> str:
        return options[int(rng.integers(len(options)))]

    prompts = list(STANDARD_PORTRAITS[:count])
    while len(prompts) < count:
        sex, hair, wall = one(("man", "woman")), one(tuple(palette.HAIR)), one(palette.BACKGROUNDS)
        if palette.distance(palette.HAIR[hair], palette.COLORS[wall]) < 150:
            continue  # the two could not be told apart
        hat = f"{one(('red', 'blue', 'green', 'black'))} {one(_HATS)}" if rng.random() < 0.22 else ""
        if hat.startswith(wall):
            continue
        styles = ("short ", "long ") if hat else ("short ", "long ", "curly ")  # no hats on curls
        style = one(styles if sex == "man" or hat else (*styles, "wavy "))
        features = [f"{style}{hair} hair"]
        if sex == "man" and rng.random() < 0.4:
            features.append(one(("a beard", f"a {hair} beard", "a moustache")))
        if rng.random() < 0.35:
            features.append(one(("glasses", "round glasses", "square glasses")))
        worn = hat
        if not worn and rng.random() < 0.5:
            worn = f"{one(palette.CLOTHES)} {one(('shirt', 'sweater', 'hoodie'))}"
        age = "old " if hair in ("gray", "white") else one(("smiling ", "serious ", "happy ", ""))
        person = re.sub(r"\ba (?=[aeiou])", "an ", f"a {age}{sex}")
        described_features = ", ".join(features[:-1]) + (" and " if features[1:] else "") + features[-1]
        dressed = re.sub(r"\ba (?=[aeiou])", "an ", f", wearing a {worn}") if worn else ""
        prefix = one(("a portrait of", "portrait of", "a picture of", "a drawing of", "a photo of"))
        prompts.append(f"{prefix} {person} with {described_features}{dressed}, {wall} background")
    return [read_expectation(prompt) for prompt in prompts]


def scene_prompts(seed: int, count: int) -> list[Expectation]:
    """The standard scenes, then other images without people."""
    rng = np.random.default_rng([seed, 2])
    colors = ("red", "green", "yellow", "blue", "white", "orange", "purple", "pink")
    templates = (
        *("green hills and the sun", "mountains with snow", "a boat on the sea", "a tree on green grass"),
        *("a {} house with a {} roof", "a small {} house on green grass", "a {} car on a road"),
        *("a {} sports car", "a {} apple on a table", "{} apple", "a {} flower", "{} clock"),
        *("{} flower with green leaves", "the sea at sunset", "night sky with moon and stars"),
        *("a picture of a {} car", "a drawing of a {} house", "windows of a {} house", "a {} ball"),
        *("a round {} clock", "a wooden wheel", "the sun with rays", "a {} bicycle", "apples on a table"),
    )
    prompts = [read_expectation(prompt) for prompt in STANDARD_SCENES[:count]]
    for number in range(count - len(prompts)):
        template = templates[number % len(templates)]
        chosen = [colors[int(rng.integers(len(colors)))] for _ in range(template.count("{}"))]
        prompts.append(read_expectation(template.format(*chosen)))
    return prompts
