"""Neck, shoulders and clothes, in a frame like the head's (see face.py) that stays upright."""

from . import palette
from .canvas import Canvas
from .face import skin_shade
from .palette import darker, lighter
from .person import Person
from .shapes import Points, flipped, mirrored, moved, oval, smooth

_SIDES = (-1.0, 1.0)


def _shoulders(person: Person) -> Points:
    half = {"man": 1.78, "woman": 1.5}[person.sex] * (0.84 if person.age == "child" else 1.0)
    return smooth(mirrored([(-0.3, 1.16), (-0.55, 1.32), (-half * 0.72, 1.5), (-half * 0.98, 1.86),
                            (-half * 1.1, 2.6),
                            (-half * 1.12, 5.0)]))  # fmt: skip


def draw_body(canvas: Canvas, person: Person) -> None:
    """Neck and dressed shoulders; what lies below the picture's edge is cut off by it."""
    color = palette.COLORS[person.shirt]
    dark, light = darker(color, 0.25), lighter(color, 0.22)
    skin = palette.SKIN[person.skin]
    body = _shoulders(person)
    neck_half = 0.37 if person.sex == "man" else 0.3
    neck = smooth(mirrored([(-neck_half, 0.4), (-neck_half, 1.0), (-neck_half * 1.3, 1.25),
                            (-neck_half * 1.15, 1.48),
                            (0.0, 1.62)]))  # fmt: skip
    canvas.fill(body, color)
    _shade_body(canvas, person, body)
    canvas.fill(neck, skin)
    canvas.blend(oval(0.06, 0.72, 0.75, 0.52), skin_shade(person), 1.0, neck, softness=0.03)
    if person.clothes in ("shirt", "hoodie"):
        edge = neck_half * 1.28
        canvas.stroke([(-edge * 1.12, 1.22), (-edge, 1.42), (-edge * 0.55, 1.58), (0.0, 1.63),
                       (edge * 0.55, 1.58),
                       (edge, 1.42), (edge * 1.12, 1.22)], 0.095, dark)  # fmt: skip
        if person.clothes == "hoodie":
            for side in _SIDES:
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
        canvas.stroke([(0.0, 1.7), (0.0, 5.0)], 0.05, dark)
        for y in (1.95, 2.4):
            canvas.fill(oval(0.0, y, 0.055, 0.055), palette.mix(dark, palette.INK, 0.4))
    else:
        _draw_suit(canvas, person, neck_half)


def _shade_body(canvas: Canvas, person: Person, body: Points) -> None:
    color = palette.COLORS[person.shirt]
    right = float(body[:, 0].max())
    canvas.blend(oval(right * 0.95, 3.0, 0.55, 1.6), darker(color, 0.32), 0.6, body, softness=0.08)
    for side in _SIDES:
        x = side * right * 0.68
        canvas.stroke([(x, 2.15), (x + side * 0.03, 2.6), (x, 3.4)], 0.045, darker(color, 0.35), taper=0.5)


def _draw_shirt_collar(canvas: Canvas, color: palette.Color, dark: palette.Color, neck_half: float) -> None:
    for side in _SIDES:
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
    for side in _SIDES:
        shade = lighter(jacket, 0.14) if side < 0 else lighter(jacket, 0.05)
        canvas.fill(flipped([(0.46, 1.24), (0.7, 1.36), (1.02, 1.85), (0.78, 1.95), (0.86, 2.08), (0.02, 3.3),
                             (0.34, 2.3)], side), shade)  # fmt: skip
        canvas.stroke(
            flipped([(1.02, 1.85), (0.78, 1.95), (0.86, 2.08), (0.02, 3.3)], side),
            0.035,
            darker(jacket, 0.45),
        )
