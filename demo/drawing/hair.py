"""Hair and hats, in the head's frame (see face.py)."""

import numpy as np

from . import palette
from .canvas import Canvas
from .face import HALF_WIDTH
from .palette import Color, darker, lighter
from .person import Person
from .shapes import Points, box, curve, flipped, mirrored, moved, oval, ribbon, smooth

PROBE = (0.27, -0.86)
"""A point of the head's frame that shows plain hair in every style but a bald one (or under a hat)."""

_LONG = ("long", "wavy", "bangs")
_SIDES = (-1.0, 1.0)


def _colors(person: Person) -> tuple[Color, Color, Color]:
    base = palette.HAIR[person.hair_color]
    light = lighter(base, 0.24) if sum(base) > 200 else lighter(base, 0.17)
    return base, darker(base, 0.3), light


def draw_back_hair(canvas: Canvas, person: Person) -> None:
    """The mass behind neck and shoulders."""
    base, dark, light = _colors(person)
    w = HALF_WIDTH * person.width
    style = person.hair_style
    if style in _LONG:
        short = 0.0 if person.sex == "woman" else 0.45
        canvas.fill(smooth(mirrored([(0.0, -1.18), (-w * 0.85, -0.95), (-w * 1.22, -0.3), (-w * 1.28, 0.5),
                                     (-w * 1.36, 1.3 - short), (-w * 0.9, 1.68 - short),
                                     (0.0, 1.5 - short)])), dark)  # fmt: skip
    elif style == "short" and person.sex == "woman":
        canvas.fill(smooth(mirrored([(0.0, -1.16), (-w * 0.85, -0.95), (-w * 1.2, -0.3), (-w * 1.27, 0.4),
                                     (-w * 1.12, 0.82), (-w * 0.5, 0.8), (0.0, 0.7)])), dark)  # fmt: skip
    elif style == "curly":
        for degrees in np.linspace(158, 382, 11):
            x, y = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
            canvas.fill(oval(w * 1.1 * x, -0.16 + 0.96 * y, 0.33, 0.33), dark)
        if person.sex == "woman":
            for side in _SIDES:
                canvas.fill(oval(side * w * 1.2, 0.22, 0.34, 0.34), dark)
                canvas.fill(oval(side * w * 1.18, 0.6, 0.32, 0.32), dark)
    elif style == "bun":
        canvas.fill(oval(0.0, -1.2, 0.4, 0.36), base)
        canvas.blend(oval(0.2, -1.12, 0.3, 0.3), dark, 0.6, oval(0.0, -1.2, 0.4, 0.36), softness=0.05)
        canvas.fill(oval(-0.13, -1.32, 0.13, 0.08, -25), light)
    elif style == "ponytail":
        canvas.fill(smooth([(w * 0.5, -1.0), (w * 1.25, -0.95), (w * 1.62, -0.3), (w * 1.6, 0.5),
                            (w * 1.3, 1.1),
                            (w * 1.2, 0.4), (w * 1.0, -0.2)]), dark)  # fmt: skip
        canvas.stroke([(w * 1.22, -0.75), (w * 1.45, -0.2), (w * 1.42, 0.5)], 0.1, base, taper=0.8)


def draw_locks(canvas: Canvas, person: Person) -> None:
    """Long hair that falls over the shoulders."""
    if person.hair_style not in _LONG:
        return
    base, dark, light = _colors(person)
    w = HALF_WIDTH * person.width
    shorter = 0.0 if person.sex == "woman" else 0.5
    for side in _SIDES:
        if person.hair_style == "wavy":
            lock = smooth(flipped([(w * 1.0, -0.5), (w * 1.3, 0.0), (w * 1.22, 0.45), (w * 1.46, 0.9),
                                   (w * 1.34, 1.35),
                                   (w * 1.42, 1.75), (w * 0.95, 2.0), (w * 0.72, 1.6), (w * 0.9, 1.2),
                                   (w * 0.74, 0.8),
                                   (w * 0.84, 0.3)], side))  # fmt: skip
        else:
            lock = smooth(flipped([(w * 1.0, -0.5), (w * 1.25, 0.1), (w * 1.33, 0.9),
                                   (w * 1.34, 1.6 - shorter),
                                   (w * 1.1, 1.85 - shorter), (w * 0.78, 1.5 - shorter), (w * 0.82, 0.9),
                                   (w * 0.84, 0.3)], side))  # fmt: skip
        canvas.fill(lock, base)
        canvas.blend(flipped(oval(w * 0.85, 0.9, 0.14, 1.1), side), dark, 0.7, lock, softness=0.04)
        if side < 0:
            canvas.blend(smooth(flipped([(w * 1.1, 0.2), (w * 1.2, 0.8), (w * 1.16, 1.4 - shorter),
                                         (w * 1.08, 0.8)],
                                        side)), light, 0.9, lock, softness=0.02)  # fmt: skip


def _crown(w: float, lift: float, ends_at: float) -> Points:
    """Upper edge of the hair from the left temple over the crown to the right temple."""
    return curve([(-w * 1.05, ends_at), (-w * 1.13, -0.4), (-w * 0.86, -0.93), (-w * 0.05, -1.12 - lift),
                  (w * 0.82, -0.95), (w * 1.13, -0.4), (w * 1.05, ends_at)])  # fmt: skip


def _hairline(person: Person, w: float) -> tuple[Points, Points]:
    """Upper edge and lower edge (right to left) of the hair over the forehead."""
    style = person.hair_style
    if style == "swept":
        top = curve([(-w * 1.03, 0.02), (-w * 1.12, -0.45), (-w * 0.98, -0.98), (-w * 0.3, -1.3),
                     (w * 0.55, -1.24),
                     (w * 1.06, -0.8), (w * 1.12, -0.4), (w * 1.03, 0.02)])  # fmt: skip
        return top, curve([(w * 0.92, 0.0), (w * 0.88, -0.34), (w * 0.66, -0.6), (w * 0.1, -0.68),
                           (-w * 0.5, -0.6),
                           (-w * 0.84, -0.36), (-w * 0.92, 0.0)])  # fmt: skip
    if style == "bangs":
        return _crown(w, 0.04, 0.2), curve([(w * 0.93, 0.15), (w * 0.85, -0.22), (w * 0.45, -0.3),
                                            (0.0, -0.33),
                                            (-w * 0.45, -0.3), (-w * 0.85, -0.22),
                                            (-w * 0.93, 0.15)])  # fmt: skip
    if style in ("long", "wavy"):
        return _crown(w, 0.05, 0.35), curve([(w * 0.96, 0.4), (w * 0.88, -0.1), (w * 0.55, -0.48),
                                             (-w * 0.2, -0.8),
                                             (-w * 0.55, -0.52), (-w * 0.88, -0.1),
                                             (-w * 0.96, 0.4)])  # fmt: skip
    if style in ("bun", "ponytail"):
        return _crown(w, 0.0, 0.02), curve([(w * 0.95, 0.0), (w * 0.86, -0.34), (w * 0.5, -0.57),
                                            (0.0, -0.64),
                                            (-w * 0.5, -0.57), (-w * 0.86, -0.34),
                                            (-w * 0.95, 0.0)])  # fmt: skip
    if person.sex == "woman" or person.age == "child":  # a bob, or a child's fringe
        low = 0.3 if person.sex == "woman" else 0.05
        return _crown(w, 0.05, low), curve([(w * 0.93, low), (w * 0.84, -0.2), (w * 0.3, -0.44),
                                            (-w * 0.35, -0.6),
                                            (-w * 0.84, -0.22), (-w * 0.93, low)])  # fmt: skip
    return _crown(w, 0.05, 0.02), curve([(w * 0.92, 0.0), (w * 0.88, -0.32), (w * 0.5, -0.5),
                                         (-w * 0.1, -0.52),
                                         (-w * 0.52, -0.62), (-w * 0.86, -0.36),
                                         (-w * 0.92, 0.0)])  # fmt: skip


def draw_front_hair(canvas: Canvas, person: Person) -> None:
    """Hair over skull and forehead."""
    base, dark, light = _colors(person)
    w = HALF_WIDTH * person.width
    if person.hair_style == "bald":
        if person.age == "old":
            for side in _SIDES:
                canvas.fill(smooth(flipped([(w * 1.0, 0.05), (w * 1.08, -0.2), (w * 1.0, -0.5),
                                            (w * 0.9, -0.3)], side)),
                            base)  # fmt: skip
        skin = palette.SKIN[person.skin]
        canvas.glow(-w * 0.38, -0.7, 0.3, 0.17, lighter(skin, 0.7), 0.8)
        return
    if person.hair_style == "curly":
        _draw_curls(canvas, w, base, light)
        return
    top, hairline = _hairline(person, w)
    hair = np.concatenate([top, hairline])
    canvas.blend(moved(hair, 0.0, 0.075), darker(palette.SKIN[person.skin], 0.3), 0.55, oval(0, 0, w * 0.97,
                                                                                         0.99),
                 softness=0.025)  # fmt: skip
    canvas.fill(hair, base)
    shade = smooth([(w * 0.72, -1.1), (w * 0.92, -0.6), (w * 0.9, 0.4), (w * 1.3, 0.4), (w * 1.4, -0.6)])
    canvas.blend(shade, dark, 0.8, hair, softness=0.04)
    shine = curve([(-w * 0.92, -0.42), (-w * 0.76, -0.72), (-w * 0.4, -0.9), (w * 0.1, -0.95)])
    canvas.blend(ribbon(shine, 0.15, 0.85), light, 0.85, hair, softness=0.012)


def _draw_curls(canvas: Canvas, w: float, base: Color, light: Color) -> None:
    for degrees in np.linspace(178, 362, 8):
        x, y = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
        canvas.fill(oval(w * 0.98 * x, -0.24 + 0.86 * y, 0.29, 0.27), base)
    canvas.fill(mirrored([(0.0, -1.1), (-w * 0.9, -0.85), (-w * 0.85, -0.52), (0.0, -0.72)]), base)
    for degrees in np.linspace(205, 335, 6):
        x, y = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
        canvas.fill(oval(w * 0.74 * x, -0.3 + 0.52 * y, 0.2, 0.18), base)
    for x, y in ((-w * 0.82, -0.62), (-w * 0.5, -0.94), (-w * 0.05, -1.06), (-w * 0.3, -0.68)):
        canvas.stroke(oval(x, y, 0.14, 0.12, 0, 180, 310)[::8], 0.05, light, taper=0.6)


def draw_hat(canvas: Canvas, person: Person) -> None:
    """Hat with a brim, cap with a peak, or knitted beanie."""
    if person.hat is None or person.hat_color is None:
        return
    color = palette.COLORS[person.hat_color]
    dark, light = darker(color, 0.28), lighter(color, 0.3)
    w = HALF_WIDTH * person.width
    dome = oval(0.0, -0.5, w * 1.12, 0.84, 0, 180, 360)
    if person.hat == "hat":
        crown = smooth([(-w * 1.02, -0.45), (-w * 0.98, -0.9), (-w * 0.72, -1.36), (-w * 0.15, -1.32),
                        (w * 0.2, -1.34),
                        (w * 0.74, -1.36), (w * 0.98, -0.9), (w * 1.02, -0.45)])  # fmt: skip
        canvas.fill(crown, color)
        canvas.blend(oval(w * 0.9, -0.9, 0.3, 0.6), dark, 0.7, crown, softness=0.06)
        canvas.blend(box(-w * 1.2, -0.78, w * 1.2, -0.56), darker(color, 0.62), 1.0, crown)
        canvas.fill(oval(0.0, -0.5, w * 1.62, 0.17), color)
        canvas.blend(oval(0.0, -0.43, w * 1.62, 0.13), dark, 0.75, oval(0.0, -0.5, w * 1.62, 0.17))
    elif person.hat == "cap":
        canvas.fill(dome, color)
        canvas.blend(oval(w * 0.9, -0.8, 0.35, 0.6), dark, 0.7, dome, softness=0.06)
        canvas.blend(oval(-w * 0.5, -1.0, 0.14, 0.2, 40), light, 0.8, dome, softness=0.03)
        canvas.fill(smooth([(-w * 1.02, -0.5), (0.0, -0.68), (w * 1.02, -0.5), (w * 0.7, -0.3), (0.0, -0.36),
                            (-w * 0.7, -0.3)]), dark)  # fmt: skip
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
