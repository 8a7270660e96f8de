"""Where the heads of the people in an image are: close up, side by side, in two rows, or far away."""

from dataclasses import dataclass

import numpy as np

from . import stance
from .person import Person


@dataclass(frozen=True)
class Pose:
    """Position of a head: center and half its height in fractions of the image, clockwise roll in degrees.

    `standing` people are drawn down to their shoes. Those with a greater `depth` are in front of the others.
    """

    x: float
    y: float
    half_height: float
    roll: float
    standing: bool = False
    depth: float = 0.0


def sample_poses(rng: np.random.Generator, people: tuple[Person, ...], kind: str, cut: bool) -> list[Pose]:
    """One pose for each person, from left to right; `cut` moves a single face across the image's edge."""
    if kind == "far":
        return _far(rng, people)
    if len(people) == 1:
        return [_single(rng, people[0], cut)]
    if len(people) > 3:
        return _two_rows(rng, people)
    spacing, half = (0.46, 0.178) if len(people) == 2 else (0.315, 0.124)
    if rng.random() < 0.08:  # close together: one face may half hide another
        spacing *= float(rng.uniform(0.58, 0.8))
    poses = []
    for index, person in enumerate(people):
        x = 0.5 + (index - (len(people) - 1) / 2) * spacing + float(rng.uniform(-0.01, 0.01))
        size = half * float(rng.uniform(0.94, 1.06)) * (0.88 if person.age == "child" else 1.0)
        drop = 0.07 if person.age == "child" else 0.0
        y = 0.46 + drop + float(rng.normal(0, 0.02))
        poses.append(Pose(x, y, size, _sample_roll(rng), depth=index))
    return poses


def _single(rng: np.random.Generator, person: Person, cut: bool) -> Pose:
    half = float(rng.uniform(0.255, 0.295) if rng.random() < 0.8 else rng.uniform(0.175, 0.255))
    crown = {"afro": 1.66, "bun": 1.72}.get(person.hair_style, 1.72 if person.hat else 1.3)
    if person.cover == "brim":
        crown = 1.3
    middle = max(0.46 + (0.27 - half) * 0.2 + float(rng.normal(0, 0.01)), half * crown)
    x = 0.5 + float(np.clip(rng.normal(0, 0.015), -0.05, 0.05))
    if cut:
        side = float(rng.choice([-1.0, 1.0]))
        x = 0.5 + side * (0.5 - half * float(rng.uniform(0.1, 0.6)))
    return Pose(x, middle, half, 0.6 * _sample_roll(rng))


def _two_rows(rng: np.random.Generator, people: tuple[Person, ...]) -> list[Pose]:
    """Four or five people: every other one is lower and in front."""
    count = len(people)
    spacing = 0.86 / count
    half = 0.108 if count == 4 else 0.092
    poses = []
    for index, person in enumerate(people):
        before = index % 2 == 1 if count == 5 else index in (1, 2)
        x = 0.5 + (index - (count - 1) / 2) * spacing + float(rng.uniform(-0.012, 0.012))
        size = half * float(rng.uniform(0.94, 1.06)) * (0.88 if person.age == "child" else 1.0)
        y = (0.6 if before else 0.37) + float(rng.normal(0, 0.015))
        poses.append(Pose(x, y, size, _sample_roll(rng), depth=index + (10 if before else 0)))
    return poses


def _far(rng: np.random.Generator, people: tuple[Person, ...]) -> list[Pose]:
    """People standing on the ground at some distance."""
    poses = []
    spacing = float(rng.uniform(0.24, 0.3))
    for index, person in enumerate(people):
        half = float(rng.uniform(0.038, 0.062)) * (0.9 if person.age == "child" else 1.0)
        ground = float(rng.uniform(0.86, 0.94))
        x = 0.5 + (index - (len(people) - 1) / 2) * spacing + float(rng.uniform(-0.05, 0.05))
        roll = _sample_roll(rng) * 0.5
        poses.append(Pose(x, ground - stance.feet(person) * half, half, roll, True, depth=ground))
    return poses


def _sample_roll(rng: np.random.Generator) -> float:
    return float(np.clip(rng.normal(0, 5), -15, 15))
