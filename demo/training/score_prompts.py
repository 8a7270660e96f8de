"""Draws prompts with the generator's own code and asks the judge whether the pictures show what was asked."""

import sys
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from training.attributes import Judge, head_view, judge
from training.figures import Figure
from training.probes import background_name, hair_name
from training.prompts import Expectation
from training.studio import Studio

NAMES = {
    "hair_color": "hair colour",
    "hair_style": "hair style",
    "glasses": "glasses",
    "beard": "beard",
    "hat": "hat",
    "background": "background",
}


@dataclass(frozen=True)
class Drawn:
    """A prompt's picture and what was found on it."""

    expectation: Expectation
    seed: int
    picture: NDArray[np.uint8]
    faces: int
    answers: dict[str, str]
    """What the judge sees, by attribute: around the surest face, or in the whole picture."""
    probed: dict[str, str | None]
    """Hair and background colour as read off single places, by attribute."""


def draw_prompts(studio: Studio, network: Judge, expectations: list[Expectation], seed: int) -> list[Drawn]:
    """Draws and looks at each prompt with a seed of its own."""
    drawn = []
    for number, expectation in enumerate(expectations):
        own_seed = 1_000_000 * (seed + 1) + number
        picture = studio.draw(expectation.prompt, own_seed)
        faces = studio.faces(picture)
        small = np.asarray(cv2.resize(picture, (256, 256), interpolation=cv2.INTER_AREA), np.uint8)
        answers = judge(network, [head_view(picture, faces[0].box if faces else None)])[0]
        probed = {"hair_color": hair_name(small), "background": background_name(small)}
        drawn.append(Drawn(expectation, own_seed, picture, len(faces), answers, probed))
        if (number + 1) % 10 == 0:
            print(f"drawn {number + 1} of {len(expectations)}", file=sys.stderr, flush=True)
    return drawn


def score_prompts(drawn: list[Drawn]) -> list[Figure]:
    """Faces where people were asked for and elsewhere, and each attribute that was asked for."""
    people = [d for d in drawn if d.expectation.person]
    others = [d for d in drawn if not d.expectation.person]
    figures = [
        Figure.share("portrait prompts with a face", sum(d.faces > 0 for d in people), len(people), 0.95),
        Figure.share(
            "prompts without people with a face", sum(d.faces > 0 for d in others), len(others), most=0.03
        ),
    ]
    for attribute, name in NAMES.items():
        asked = [d for d in people if attribute in d.expectation.asked]
        obeyed = [d.answers[attribute] in d.expectation.asked[attribute] for d in asked]
        figures.append(Figure.share(f"{name} as asked", sum(obeyed), len(asked), least=0.85))
        if attribute in ("glasses", "beard", "hat"):
            # Absence is easy: those that were asked to be there are told apart.
            there = [
                ok
                for d, ok in zip(asked, obeyed, strict=True)
                if "none" not in d.expectation.asked[attribute]
            ]
            figures.append(Figure.share(f"{name} as asked, where it should be there", sum(there), len(there)))
    for attribute in ("hair_color", "background"):  # a second opinion, of no network
        asked = [d for d in people if attribute in d.expectation.asked]
        right = sum(d.probed[attribute] in d.expectation.asked[attribute] for d in asked)
        figures.append(Figure.share(f"{NAMES[attribute]} as asked, read off one place", right, len(asked)))
    return figures


def describe(drawn: Drawn) -> str:
    """One line about a prompt's picture: faces, and what was asked and seen of each attribute."""
    seen = [
        f"{NAMES[name]} {drawn.answers[name]}"
        + ("" if drawn.answers[name] in wanted else f" (asked: {wanted[0]})")
        for name, wanted in drawn.expectation.asked.items()
    ]
    return f"{drawn.expectation.prompt}: faces {drawn.faces}" + "".join(f", {part}" for part in seen)
