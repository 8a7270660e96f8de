"""Puts people or a scene on a canvas and returns the picture with everything that is known about it."""

from dataclasses import asdict, dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from . import caption, scene
from .backdrop import draw_backdrop, sample_backdrop
from .canvas import Canvas
from .figure import Pose, bounding_box, draw_person
from .person import Person, Theme, sample_person

PEOPLE_KINDS = {"portrait": 1, "pair": 2, "group": 3}
KINDS = (*PEOPLE_KINDS, *scene.SCENES)

_WEIGHTS = {
    "portrait": 0.62, "pair": 0.08, "group": 0.02, "hills": 0.03, "mountains": 0.025, "sunset": 0.04,
    "sea": 0.025,
    "night": 0.015, "house": 0.03, "car": 0.035, "apple": 0.035, "flower": 0.02, "tree": 0.015, "empty": 0.01,
}  # fmt: skip
_THEMES: tuple[Theme, ...] = ("any", "headshot", "businessman", "businesswoman")
_THEME_SHARES = (0.87, 0.07, 0.04, 0.02)


@dataclass(frozen=True)
class FaceAnnotation:
    """Where one face is, in pixels of the picture ((0, 0) is the top left corner of the first pixel)."""

    box: tuple[float, float, float, float]
    """Left, top, right, bottom, from hairline to chin, cut at the picture's edge."""
    landmarks: NDArray[np.float32]
    """(5, 2): left eye, right eye, nose tip, left and right mouth corner as seen in the picture."""


@dataclass(frozen=True)
class Drawing:
    """One picture and the truth about it."""

    image: NDArray[np.uint8]
    """(size, size, 3) RGB."""
    caption: str
    faces: tuple[FaceAnnotation, ...]
    """From left to right; empty for scenes."""
    attributes: dict[str, Any]
    """The "kind", the "background" (a name or None), and "people": for each face, in the same order, a dict
    of the fields of `Person` and "hair_probe" (where in the picture, in pixels, plain hair shows, or None).
    For scenes also the "facts" that the caption was made from."""

    @property
    def kind(self) -> str:
        """One of `KINDS`."""
        return str(self.attributes["kind"])


def draw(rng: np.random.Generator, size: int = 256, kind: str | None = None) -> Drawing:
    """Draw one picture; the same state of `rng` gives the same picture at any size.

    `size` is the side in pixels, 16 to 4096; `kind` one of `KINDS`, or None for the usual mixture.
    Raises ValueError for any other size or kind.
    """
    if not 16 <= size <= 4096:
        raise ValueError(f"size must be from 16 to 4096 pixels, got {size}")
    if kind is None:
        kind = str(rng.choice(list(_WEIGHTS), p=list(_WEIGHTS.values())))
    if kind not in KINDS:
        raise ValueError(f"kind must be one of {', '.join(KINDS)}, got {kind!r}")
    canvas = Canvas(_canvas_side(size))
    if kind in PEOPLE_KINDS:
        text, faces, attributes = _draw_people(canvas, rng, kind, size)
    else:
        facts = scene.SCENES[kind](canvas, rng)
        text, faces = caption.scene_caption(rng, kind, facts), ()
        attributes = {"kind": kind, "background": facts.get("background"), "people": (), "facts": facts}
    image = np.asarray(cv2.resize(canvas.pixels, (size, size), interpolation=cv2.INTER_AREA), np.uint8)
    return Drawing(image, text, faces, attributes)


def _canvas_side(size: int) -> int:
    # Edges are anti-aliased as they are drawn; twice the size makes them smooth. Large pictures need it less.
    return max(size * 2, 128) if size <= 512 else size * 3 // 2


def _draw_people(
    canvas: Canvas, rng: np.random.Generator, kind: str, size: int
) -> tuple[str, tuple[FaceAnnotation, ...], dict[str, Any]]:
    count = PEOPLE_KINDS[kind]
    theme = _THEMES[int(rng.choice(len(_THEMES), p=_THEME_SHARES))] if count == 1 else "any"
    people = tuple(sample_person(rng, theme) for _ in range(count))
    backdrop = sample_backdrop(rng, people, theme != "any")
    draw_backdrop(canvas, rng, backdrop)
    poses = _sample_poses(rng, people)
    faces, records = [], []
    for person, pose in zip(people, poses, strict=True):
        placed = draw_person(canvas, person, pose)
        left, top, right, bottom = (edge * size for edge in bounding_box(placed.outline))
        faces.append(FaceAnnotation((left, top, right, bottom), (placed.landmarks * size).astype(np.float32)))
        probe = placed.hair_probe
        records.append({**asdict(person), "hair_probe": probe and (probe[0] * size, probe[1] * size)})
    if count == 1:
        text = caption.portrait_caption(rng, people[0], backdrop, theme)
    else:
        text = caption.group_caption(rng, people, backdrop)
    return text, tuple(faces), {"kind": kind, "background": backdrop, "people": tuple(records)}


def _sample_poses(rng: np.random.Generator, people: tuple[Person, ...]) -> list[Pose]:
    if len(people) == 1:
        half = float(rng.uniform(0.205, 0.3) if rng.random() < 0.88 else rng.uniform(0.175, 0.205))
        crown = 1.72 if people[0].hat or people[0].hair_style == "bun" else 1.3
        middle = max(0.46 + (0.27 - half) * 0.2 + float(rng.normal(0, 0.018)), half * crown)
        x = 0.5 + float(np.clip(rng.normal(0, 0.03), -0.07, 0.07))
        return [Pose(x, middle, half, _sample_roll(rng))]
    spacing, half = (0.46, 0.17) if len(people) == 2 else (0.31, 0.118)
    poses = []
    for index, person in enumerate(people):
        x = 0.5 + (index - (len(people) - 1) / 2) * spacing + float(rng.uniform(-0.01, 0.01))
        size = half * float(rng.uniform(0.94, 1.06)) * (0.88 if person.age == "child" else 1.0)
        drop = 0.07 if person.age == "child" else 0.0
        poses.append(Pose(x, 0.46 + drop + float(rng.normal(0, 0.02)), size, _sample_roll(rng)))
    return poses


def _sample_roll(rng: np.random.Generator) -> float:
    return float(np.clip(rng.normal(0, 5), -15, 15))
