"""Neck, shoulders and clothes, in a frame like the head's (see plan.py) that stays upright."""

import numpy as np

from . import palette
from .canvas import Canvas
from .face import skin_shade
from .palette import darker, lighter
from .person import Person
from .plan import SIDES, HeadPlan
from .shapes import Points, box, curve, flipped, mirrored, moved, oval, ribbon, smooth


def _shoulders(person: Person, standing: bool) -> Points:
    half = {"man": 1.78, "woman": 1.5}[person.sex] * (0.84 if person.age == "child" else 1.0)
    if standing:
        return smooth(mirrored([(-0.3, 1.16), (-0.55, 1.32), (-half * 0.66, 1.5), (-half * 0.9, 1.86),
                                (-half * 0.82, 2.8), (-half * 0.8, 4.1), (-half * 0.72, 4.62),
                                (0.0, 4.7)]))  # fmt: skip
    return smooth(mirrored([(-0.3, 1.16), (-0.55, 1.32), (-half * 0.72, 1.5), (-half * 0.98, 1.86),
                            (-half * 1.1, 2.6), (-half * 1.12, 5.0), (-half * 1.12, 8.0)]))  # fmt: skip


def draw_body(canvas: Canvas, person: Person, plan: HeadPlan, standing: bool = False) -> None:
    """Neck and clothed shoulders, cut off at the image's lower edge.

    `standing` people have a waist, and legs below it (see stance.py).
    """
    color = palette.COLORS[person.shirt]
    dark, light = darker(color, 0.25), lighter(color, 0.22)
    skin = palette.SKIN[person.skin]
    body = _shoulders(person, standing)
    neck_half = 0.37 if person.sex == "man" else 0.3
    neck = smooth(mirrored([(-neck_half, 0.4), (-neck_half, 1.0), (-neck_half * 1.3, 1.25),
                            (-neck_half * 1.15, 1.48),
                            (0.0, 1.62)]))  # fmt: skip
    canvas.fill(body, color)
    if person.clothes == "stripes":
        stripe = lighter(color, 0.75) if sum(color) < 560 else darker(color, 0.35)
        for y in np.arange(1.72, 4.0 if standing else 8.0, 0.36):
            line = ribbon(curve([(-2.0, y + 0.1), (-0.9, y), (0.9, y), (2.0, y + 0.1)]), 0.13)
            canvas.blend(line, stripe, 1.0, body)
    _shade_body(canvas, person, plan, body)
    canvas.fill(neck, skin)
    canvas.blend(oval(0.06 * plan.shadow, 0.72, 0.75, 0.52), skin_shade(person), 1.0, neck, softness=0.03)
    dim_side = box(0.45 * plan.shadow * neck_half, 0.9, plan.shadow * 0.8, 1.7)
    canvas.blend(dim_side, skin_shade(person), 0.6, neck, softness=0.05)
    if person.clothes in ("shirt", "stripes", "hoodie"):
        edge = neck_half * 1.28
        canvas.stroke([(-edge * 1.12, 1.22), (-edge, 1.42), (-edge * 0.55, 1.58), (0.0, 1.63),
                       (edge * 0.55, 1.58),
                       (edge, 1.42), (edge * 1.12, 1.22)], 0.095, dark)  # fmt: skip
        if person.clothes == "hoodie":
            for side in SIDES:
                hood = smooth(
                    flipped(
                        [(0.28, 1.0), (0.66, 1.2), (0.8, 1.5), (0.5, 1.72), (0.08, 1.82), (0.42, 1.5)], side
                    )
                )
                canvas.fill(hood, light if side < 0 else dark)
                canvas.stroke(
                    [(side * 0.16, 1.74), (side * 0.19, 2.0), (side * 0.17, 2.25)], 0.055, palette.WHITE
                )
    elif person.clothes == "sweater":
        roll = smooth(
            mirrored(
                [(-neck_half * 1.2, 0.98), (-neck_half * 1.35, 1.3), (-neck_half * 1.5, 1.58), (0.0, 1.7)]
            )
        )
        canvas.fill(roll, light)
        for x in (-0.6, -0.2, 0.2, 0.6):
            canvas.stroke([(x * neck_half, 1.1), (x * neck_half * 1.25, 1.56)], 0.035, dark, taper=0.4)
    elif person.clothes == "collar":
        _draw_shirt_collar(canvas, light, dark, neck_half)
        canvas.stroke([(0.0, 1.7), (0.0, 4.6 if standing else 8.0)], 0.05, dark)
        for y in (1.95, 2.4):
            canvas.fill(oval(0.0, y, 0.055, 0.055), palette.mix(dark, palette.INK, 0.4))
    else:
        _draw_suit(canvas, person, neck_half)


def _shade_body(canvas: Canvas, person: Person, plan: HeadPlan, body: Points) -> None:
    color = palette.COLORS[person.shirt]
    right = float(body[:, 0].max())
    side = plan.shadow
    canvas.blend(oval(side * right * 0.95, 3.0, 0.55, 1.6), darker(color, 0.32), 0.6, body, softness=0.08)
    canvas.blend(oval(side * 0.12, 1.42, 0.72, 0.24), darker(color, 0.4), 0.45, body, softness=0.06)
    if plan.light.rim:
        half = right / 1.12
        edge = curve([(side * half * 0.55, 1.42), (side * half * 0.78, 1.54), (side * half * 0.96, 1.86),
                      (side * half * 1.05, 2.5)])  # fmt: skip
        canvas.blend(ribbon(edge, 0.09, 0.8), lighter(color, 0.5), 0.7, body, softness=0.015)
    for side in SIDES:
        x = side * right * 0.68
        canvas.stroke([(x, 2.15), (x + side * 0.03, 2.6), (x, 3.4)], 0.045, darker(color, 0.35), taper=0.5)


def draw_scarf(canvas: Canvas, person: Person, plan: HeadPlan) -> None:
    """A scarf around the neck with one end hanging down."""
    if person.scarf is None:
        return
    color = palette.COLORS[person.scarf]
    dark, light = darker(color, 0.3), lighter(color, 0.28)
    x = plan.light.side * 0.42
    tail = smooth([(x - 0.22, 1.35), (x + 0.22, 1.35), (x + 0.28, 2.6), (x + 0.24, 2.95), (x - 0.24, 2.95),
                   (x - 0.26, 2.6)])  # fmt: skip
    canvas.fill(tail, darker(color, 0.12))
    for fringe in (-0.16, 0.0, 0.16):
        canvas.stroke([(x + fringe, 2.9), (x + fringe, 3.12)], 0.07, color)
    band = smooth(
        mirrored([(0.0, 1.14), (-0.5, 1.02), (-0.72, 1.14), (-0.74, 1.4), (-0.5, 1.6), (0.0, 1.68)])
    )
    canvas.fill(band, color)
    canvas.blend(oval(plan.shadow * 0.6, 1.36, 0.34, 0.36), dark, 0.7, band, softness=0.06)
    canvas.stroke([(-0.62, 1.22), (0.0, 1.36), (0.62, 1.22)], 0.045, dark, taper=0.6)
    canvas.stroke([(-0.6, 1.42), (0.0, 1.54), (0.5, 1.46)], 0.04, light, taper=0.7)


def draw_necklace(canvas: Canvas, person: Person) -> None:
    """A row of pearls on the collar."""
    if not person.necklace:
        return
    for x, y in oval(0.0, 1.36, 0.46, 0.36, start=20, end=160)[::5]:
        canvas.fill(oval(x, y, 0.06, 0.06), (226, 218, 206))
        canvas.fill(oval(x - 0.01, y - 0.012, 0.046, 0.046), (252, 248, 240))


def _draw_shirt_collar(canvas: Canvas, color: palette.Color, dark: palette.Color, neck_half: float) -> None:
    for side in SIDES:
        flap = flipped(
            [(neck_half * 0.98, 1.08), (neck_half * 1.4, 1.2), (0.66, 1.56), (0.36, 1.9), (0.0, 1.66)], side
        )
        canvas.fill(moved(flap, 0.0, 0.055), dark)
        canvas.fill(flap, color if side < 0 else palette.mix(color, dark, 0.3))


def _draw_suit(canvas: Canvas, person: Person, neck_half: float) -> None:
    jacket = palette.COLORS[person.shirt]
    cloth: palette.Color = (247, 247, 249)
    fold: palette.Color = (196, 200, 214)
    canvas.fill([(-0.6, 1.45), (0.0, 1.66), (0.6, 1.45), (0.3, 2.4), (0.0, 3.3), (-0.3, 2.4)], cloth)
    _draw_shirt_collar(canvas, cloth, fold, neck_half * 0.95)
    if person.tie:
        tie = palette.COLORS[person.tie]
        canvas.fill([(-0.1, 1.86), (0.1, 1.86), (0.21, 3.0), (0.0, 3.4), (-0.21, 3.0)], tie)
        canvas.fill([(-0.17, 1.62), (0.17, 1.62), (0.11, 1.92), (-0.11, 1.92)], darker(tie, 0.25))
    for side in SIDES:
        shade = lighter(jacket, 0.14) if side < 0 else lighter(jacket, 0.05)
        canvas.fill(flipped([(0.46, 1.24), (0.7, 1.36), (1.02, 1.85), (0.78, 1.95), (0.86, 2.08), (0.02, 3.3),
                             (0.34, 2.3)], side), shade)  # fmt: skip
        canvas.stroke(
            flipped([(1.02, 1.85), (0.78, 1.95), (0.86, 2.08), (0.02, 3.3)], side),
            0.035,
            darker(jacket, 0.45),
        )
