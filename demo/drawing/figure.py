"""One whole person on the canvas, and where its face is."""

from dataclasses import dataclass

import numpy as np

from . import clothes, face, hair, palette
from .canvas import Canvas
from .person import Person
from .shapes import Points, oval

_CHIN = 1.0


@dataclass(frozen=True)
class Pose:
    """Place of a head: middle and half its height as fractions of the picture, clockwise roll in degrees."""

    x: float
    y: float
    half_height: float
    roll: float


@dataclass(frozen=True)
class Placement:
    """Where a drawn face is, all as fractions of the picture's side."""

    outline: Points
    """Outline of the face from hairline to chin."""
    landmarks: Points
    """(5, 2): left eye, right eye, nose tip, left and right mouth corner as seen in the picture."""
    hair_probe: tuple[float, float] | None
    """A point of plain hair; None when bald or under a hat."""


def draw_person(canvas: Canvas, person: Person, pose: Pose) -> Placement:
    """Draw head and shoulders; the head rolls about the chin, the shoulders stay level."""
    upright = canvas.placed(pose.x, pose.y, pose.half_height)
    head = upright.placed(0.0, _CHIN, 1.0, pose.roll).placed(0.0, -_CHIN, 1.0)
    plan = face.FacePlan(person)

    hair.draw_back_hair(head, person)
    clothes.draw_body(upright, person)
    hair.draw_locks(head, person)
    face.draw_skin(head, person, plan)
    hair.draw_front_hair(head, person)
    face.draw_beard(head, person, plan)
    face.draw_nose(head, person, plan)
    face.draw_mouth(head, person, plan)
    face.draw_eyes(head, person, plan)
    face.draw_glasses(head, person, plan)
    if person.earrings:
        for side in (-1.0, 1.0):
            head.fill(oval(side * plan.half_width * 1.03, 0.42, 0.075, 0.075), palette.GOLD)
    hair.draw_hat(head, person)

    outline = face.head_outline(person)
    below_hairline = outline[outline[:, 1] > -0.72]
    probe = head.to_picture([hair.PROBE])[0]
    return Placement(
        outline=head.to_picture(below_hairline),
        landmarks=head.to_picture(plan.landmarks()),
        hair_probe=(float(probe[0]), float(probe[1])) if person.has_hair_on_top else None,
    )


def bounding_box(outline: Points) -> tuple[float, float, float, float]:
    """Left, top, right, bottom of the part of an outline that is inside the picture."""
    low, high = np.clip(outline.min(axis=0), 0, 1), np.clip(outline.max(axis=0), 0, 1)
    return float(low[0]), float(low[1]), float(high[0]), float(high[1])
