"""Puts people or a scene on a canvas and returns the image with all its annotations."""

from dataclasses import asdict, dataclass, replace
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from . import caption
from .backdrop import OUTDOORS, draw_backdrop, sample_backdrop
from .canvas import Canvas
from .figure import Placement, bounding_box, draw_person
from .person import Person, Theme, sample_person
from .plan import Light
from .pose import sample_poses
from .scene import SCENES, Facts
from .things import THINGS

PEOPLE_KINDS: dict[str, tuple[int, ...]] = {
    "portrait": (1,), "pair": (2,), "group": (3,), "crowd": (4, 5), "far": (1, 2, 3),
}  # fmt: skip
"""Kinds of images with people, and how many people each can have."""
_EMPTY_KINDS = {**SCENES, **THINGS}
KINDS = (*PEOPLE_KINDS, *_EMPTY_KINDS)

_WEIGHTS = {
    "portrait": 0.48, "pair": 0.15, "group": 0.06, "crowd": 0.015, "far": 0.02,
    "hills": 0.022, "mountains": 0.022, "sunset": 0.035, "sea": 0.022, "night": 0.014, "house": 0.024,
    "car": 0.03, "apple": 0.028, "flower": 0.015, "tree": 0.012, "empty": 0.01,
    "clock": 0.005, "wheel": 0.004, "windows": 0.005, "sun": 0.01, "apples": 0.006, "bicycle": 0.004,
    "ball": 0.004, "sign": 0.004, "cat": 0.004, "dog": 0.004,
}  # fmt: skip
_RIM_SHARE = 0.25
_CUT_SHARE = 0.03
_THEMES: tuple[Theme, ...] = ("any", "headshot", "businessman", "businesswoman")
_THEME_SHARES = (0.87, 0.07, 0.04, 0.02)


@dataclass(frozen=True)
class FaceAnnotation:
    """Where one face is, in pixels of the image ((0, 0) is the top left corner of the first pixel)."""

    box: tuple[float, float, float, float]
    """Left, top, right, bottom, from hairline to chin, clipped to the image."""
    landmarks: NDArray[np.float32]
    """(5, 2): left eye, right eye, nose tip, left and right mouth corner as seen in the image; including
    those that are hidden, and those outside the image if its edge cuts the face."""
    visible: tuple[bool, bool, bool, bool, bool]
    """Whether each landmark is visible."""
    hidden: float
    """Share of the face from brows to chin that is occluded or outside the image, 0 to 1."""


@dataclass(frozen=True)
class Drawing:
    """One image and its ground truth."""

    image: NDArray[np.uint8]
    """(size, size, 3) RGB."""
    caption: str
    faces: tuple[FaceAnnotation, ...]
    """From left to right; empty for scenes."""
    attributes: dict[str, Any]
    """The "kind", the "background" (a name or None), and "people": for each face, in the same order, a dict
    of the fields of `Person` and "hair_probe" (a pixel position that shows plain hair, or None).
    For scenes and things also the "facts" that the caption was made from."""

    @property
    def kind(self) -> str:
        """One of `KINDS`."""
        return str(self.attributes["kind"])


def draw(rng: np.random.Generator, size: int = 256, kind: str | None = None) -> Drawing:
    """Draw one image; the same state of `rng` gives the same image at any size.

    `size` is the side in pixels, 16 to 4096; `kind` one of `KINDS`, or None for the usual mixture.
    Raises ValueError for any other size or kind.
    """
    if not 16 <= size <= 4096:
        raise ValueError(f"size must be from 16 to 4096 pixels, got {size}")
    if kind is None:
        shares = np.array(list(_WEIGHTS.values()))
        kind = str(rng.choice(list(_WEIGHTS), p=shares / shares.sum()))
    if kind not in KINDS:
        raise ValueError(f"kind must be one of {', '.join(KINDS)}, got {kind!r}")
    canvas = Canvas(_canvas_side(size))
    if kind in PEOPLE_KINDS:
        text, faces, attributes = _draw_people(canvas, rng, kind, size)
    else:
        facts: Facts = _EMPTY_KINDS[kind](canvas, rng)
        text, faces = caption.scene_caption(rng, kind, facts), ()
        attributes = {"kind": kind, "background": facts.get("background"), "people": (), "facts": facts}
    image = np.asarray(cv2.resize(canvas.pixels, (size, size), interpolation=cv2.INTER_AREA), np.uint8)
    return Drawing(image, text, faces, attributes)


def draw_portrait(
    rng: np.random.Generator, person: Person, size: int
) -> tuple[NDArray[np.uint8], FaceAnnotation]:
    """One more picture of a person: the image (size, size, 3) and where the face is.

    Backdrop, light and pose are sampled; what the person looks like is as given.
    """
    canvas = Canvas(_canvas_side(size))
    draw_backdrop(canvas, rng, sample_backdrop(rng, (person,), False))
    light = Light(-1.0 if rng.random() < 0.8 else 1.0, bool(rng.random() < _RIM_SHARE))
    (pose,) = sample_poses(rng, (person,), "portrait", cut=False)
    placement = draw_person(canvas, person, pose, light, 0)
    image = np.asarray(cv2.resize(canvas.pixels, (size, size), interpolation=cv2.INTER_AREA), np.uint8)
    return image, _annotate(canvas, placement, size)


def _canvas_side(size: int) -> int:
    # Edges are drawn anti-aliased; twice the size makes them smooth. Large images need that less.
    return max(size * 2, 128) if size <= 512 else size * 3 // 2


def _draw_people(
    canvas: Canvas, rng: np.random.Generator, kind: str, size: int
) -> tuple[str, tuple[FaceAnnotation, ...], dict[str, Any]]:
    counts = PEOPLE_KINDS[kind]
    count = counts[int(rng.integers(len(counts)))]
    theme = _THEMES[int(rng.choice(len(_THEMES), p=_THEME_SHARES))] if kind == "portrait" else "any"
    people = tuple(sample_person(rng, theme) for _ in range(count))
    if kind in ("pair", "group"):  # a hand or a scarf on so small a face teaches faces without mouths
        people = tuple(replace(person, cover=None) for person in people)
    places = OUTDOORS if kind == "far" else None
    backdrop = str(rng.choice(places)) if places else sample_backdrop(rng, people, theme != "any")
    draw_backdrop(canvas, rng, backdrop)
    light = Light(-1.0 if rng.random() < 0.8 else 1.0, bool(rng.random() < _RIM_SHARE))
    cut = kind == "portrait" and theme == "any" and rng.random() < _CUT_SHARE and not people[0].cover
    poses = sample_poses(rng, people, kind, cut)
    placed: list[Placement] = [
        draw_person(canvas, people[number], poses[number], light, number)
        for number in sorted(range(count), key=lambda number: poses[number].depth)
    ]
    placed.sort(key=lambda placement: placement.owner)
    faces = tuple(_annotate(canvas, placement, size) for placement in placed)
    records = []
    for person, placement in zip(people, placed, strict=True):
        probe = placement.hair_probe
        if probe is not None and canvas.owners.at(np.array([probe]))[0] != placement.owner:
            probe = None  # somebody else is in front of it
        records.append({**asdict(person), "hair_probe": probe and (probe[0] * size, probe[1] * size)})
    if count == 1:
        text = caption.portrait_caption(rng, people[0], backdrop, theme, far=kind == "far")
    else:
        text = caption.group_caption(rng, people, backdrop, far=kind == "far")
    attributes = {"kind": kind, "background": backdrop, "people": tuple(records), "light": asdict(light)}
    return text, faces, attributes


def _annotate(canvas: Canvas, placement: Placement, size: int) -> FaceAnnotation:
    left, top, right, bottom = (edge * size for edge in bounding_box(placement.outline))
    seen = canvas.owners.at(placement.landmarks) == placement.owner
    first, second, third, fourth, fifth = (bool(value) for value in seen)
    return FaceAnnotation(
        box=(left, top, right, bottom),
        landmarks=(placement.landmarks * size).astype(np.float32),
        visible=(first, second, third, fourth, fifth),
        hidden=float(np.mean(canvas.owners.at(placement.middle) != placement.owner)),
    )
