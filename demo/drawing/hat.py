"""Hats, in the head's frame (see plan.py)."""

import numpy as np

from . import palette
from .canvas import Canvas
from .palette import darker, lighter
from .person import Person
from .plan import HeadPlan
from .shapes import box, moved, oval, smooth


def draw_hat(canvas: Canvas, person: Person, plan: HeadPlan) -> None:
    """Hat with a brim, cap with a visor, or knitted beanie."""
    if person.hat is None or person.hat_color is None:
        return
    color = palette.COLORS[person.hat_color]
    dark, light = darker(color, 0.28), lighter(color, 0.3)
    w = plan.half_width
    if person.cover == "brim":  # pulled down over the eyes, farther on one side
        tilted = canvas.placed(0.0, 0.0, 1.0, 7.0 * plan.light.side)
        canvas = tilted.bent(lambda points: plan.leaned(points * (1.08, 1.32) + (0.0, 0.58)))
    else:
        canvas = canvas.bent(plan.leaned)
    dome = oval(0.0, -0.5, w * 1.12, 0.84, 0, 180, 360)
    if person.hat == "hat":
        crown = smooth([(-w * 1.02, -0.45), (-w * 0.98, -0.9), (-w * 0.72, -1.36), (-w * 0.15, -1.32),
                        (w * 0.2, -1.34),
                        (w * 0.74, -1.36), (w * 0.98, -0.9), (w * 1.02, -0.45)])  # fmt: skip
        canvas.fill(crown, color)
        canvas.blend(oval(plan.shadow * w * 0.9, -0.9, 0.3, 0.6), dark, 0.7, crown, softness=0.06)
        canvas.blend(box(-w * 1.2, -0.78, w * 1.2, -0.56), darker(color, 0.62), 1.0, crown)
        canvas.fill(oval(0.0, -0.5, w * 1.62, 0.17), color)
        canvas.blend(oval(0.0, -0.43, w * 1.62, 0.13), dark, 0.75, oval(0.0, -0.5, w * 1.62, 0.17))
    elif person.hat == "cap":
        canvas.fill(dome, color)
        canvas.blend(oval(plan.shadow * w * 0.9, -0.8, 0.35, 0.6), dark, 0.7, dome, softness=0.06)
        canvas.blend(
            oval(plan.light.side * w * 0.5, -1.0, 0.14, 0.2, -40 * plan.light.side),
            light,
            0.8,
            dome,
            softness=0.03,
        )
        peak = smooth([(-w * 1.02, -0.5), (0.0, -0.68), (w * 1.02, -0.5), (w * 0.7, -0.3), (0.0, -0.36),
                       (-w * 0.7, -0.3)])  # fmt: skip
        canvas.fill(moved(peak, 0.45 * float(np.sin(plan.yaw)), 0.0), dark)
        canvas.fill(oval(0.0, -1.33, 0.09, 0.06), dark)
    else:
        canvas.fill(oval(0.0, -1.46, 0.24, 0.23), light)
        canvas.fill(oval(0.0, -0.45, w * 1.12, 0.92, 0, 180, 360), color)
        for x in (-0.5, 0.0, 0.5):
            canvas.stroke(
                [(x * w * 1.4, -0.6), (x * w * 1.1, -1.0), (x * w * 0.6, -1.25)], 0.045, dark, taper=0.5
            )
        band = smooth([(-w * 1.14, -0.66), (0.0, -0.74), (w * 1.14, -0.66), (w * 1.16, -0.4), (0.0, -0.5),
                       (-w * 1.16, -0.4)])  # fmt: skip
        canvas.fill(band, light)
