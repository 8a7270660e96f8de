"""One whole person on the canvas, and where the face is."""

from dataclasses import dataclass

import numpy as np

from . import clothes, cover, face, hair, hat, palette, stance
from .canvas import Canvas
from .person import Person
from .plan import SIDES, HeadPlan, Light
from .pose import Pose
from .shapes import Points, oval

_CHIN = 1.0


@dataclass(frozen=True)
class Placement:
    """Where a drawn face is, in fractions of the image's side."""

    outline: Points
    """Outline of the face from hairline to chin."""
    landmarks: Points
    """(5, 2): left eye, right eye, nose tip, left and right mouth corner as seen in the image."""
    hair_probe: tuple[float, float] | None
    """A point of plain hair; None when bald or under a hat."""
    middle: Points
    """Points all over the face, from the brows to the chin."""
    owner: int
    """The face's own number in `Canvas.owners`."""


def draw_person(canvas: Canvas, person: Person, pose: Pose, light: Light, number: int) -> Placement:
    """Draw head and body; the head rolls about the chin, the shoulders stay level.

    `number`, from 0, distinguishes people in `Canvas.owners`: a face's own paint is 2 n + 1, what the same
    person wears or holds in front of it 2 n + 2.
    """
    own, before = 2 * number + 1, 2 * number + 2
    upright = canvas.placed(pose.x, pose.y, pose.half_height)
    head = upright.placed(0.0, _CHIN, 1.0, pose.roll).placed(0.0, -_CHIN, 1.0)
    plan = HeadPlan(person, light)
    skull, front = head.bent(plan.leaned), head.bent(plan.seen)

    canvas.owners.now = before
    if pose.standing:
        stance.draw_legs(upright, person, plan)
    hair.draw_back_hair(skull, person, plan)
    clothes.draw_body(upright, person, plan, standing=pose.standing)
    clothes.draw_necklace(upright, person)
    if pose.standing:
        stance.draw_arms(upright, person, plan)
    clothes.draw_scarf(upright, person, plan)
    hair.draw_locks(skull, person, plan)
    canvas.owners.now = own
    face.draw_skin(skull, front, person, plan)
    hair.draw_front_hair(skull, person, plan)
    face.draw_beard(skull, front, person, plan)
    _draw_near_ear(skull, person, plan)
    face.draw_nose(front, person, plan)
    face.draw_mouth(front, person, plan)
    face.draw_eyes(front, person, plan)
    face.draw_glasses(front, person, plan)
    _draw_earrings(skull, person, plan)
    canvas.owners.now = before
    hat.draw_hat(head, person, plan)
    cover.draw_cover(head, person, plan)
    canvas.owners.now = 0

    outline = face.head_outline(person)
    below_hairline = outline[outline[:, 1] > -0.72]
    x, y = skull.to_picture([hair.PROBE])[0]
    return Placement(
        outline=skull.to_picture(below_hairline),
        landmarks=head.to_picture(plan.landmarks()),
        hair_probe=(float(x), float(y)) if person.has_hair_on_top else None,
        middle=skull.to_picture(_spread(outline)),
        owner=own,
    )


def _draw_near_ear(skull: Canvas, person: Person, plan: HeadPlan) -> None:
    """On a strongly turned head the nearer ear is drawn over the hair, if the style shows it."""
    boyish = person.hair_style == "short" and person.sex == "man"
    if plan.strongly_turned and (boyish or person.hair_style in hair.SHOWS_EARS):
        face.draw_ear(skull, person, plan, -float(np.sign(plan.yaw)))


def _draw_earrings(skull: Canvas, person: Person, plan: HeadPlan) -> None:
    if not person.earrings:
        return
    for side in SIDES:
        if plan.ear_shows(side):
            x, y = plan.ear(side)
            skull.fill(oval(x + side * 0.045, y + 0.29, 0.075, 0.075), palette.GOLD)
            skull.fill(
                oval(x + side * 0.045 + plan.light.side * 0.02, y + 0.27, 0.028, 0.028), (255, 240, 190)
            )


def _spread(outline: Points) -> Points:
    """Points on rings inside the face's outline, none above the brows."""
    rings = np.concatenate([outline[::4] * share for share in (0.15, 0.35, 0.55, 0.75, 0.92)])
    return rings[rings[:, 1] > -0.3]


def bounding_box(outline: Points) -> tuple[float, float, float, float]:
    """Left, top, right, bottom of the part of an outline inside the image."""
    low, high = np.clip(outline.min(axis=0), 0, 1), np.clip(outline.max(axis=0), 0, 1)
    return float(low[0]), float(low[1]), float(high[0]), float(high[1])
