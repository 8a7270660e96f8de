"""Hair, in the head's frame (see plan.py)."""

import numpy as np

from . import palette
from .canvas import Canvas
from .face import head_outline
from .palette import Color, darker, lighter
from .person import Person
from .plan import SIDES, HeadPlan
from .shapes import Points, curve, flipped, mirrored, moved, oval, ribbon, smooth

PROBE = (0.27, -0.77)
"""A point of the head's frame that shows plain hair in every style, except on bald heads and under hats."""

_LONG = ("long", "wavy", "bangs")
SHOWS_EARS = ("swept", "spiky", "parted", "bun", "ponytail", "pigtails", "braids", "bald")
"""Styles that hide no ear; a man's short hair does not either."""


def _colors(person: Person) -> tuple[Color, Color, Color]:
    base = palette.HAIR[person.hair_color]
    light = lighter(base, 0.24) if sum(base) > 200 else lighter(base, 0.17)
    return base, darker(base, 0.3), light


def draw_back_hair(canvas: Canvas, person: Person, plan: HeadPlan) -> None:
    """The hair behind neck and shoulders."""
    base, dark, light = _colors(person)
    w = plan.half_width
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
            for side in SIDES:
                canvas.fill(oval(side * w * 1.2, 0.22, 0.34, 0.34), dark)
                canvas.fill(oval(side * w * 1.18, 0.6, 0.32, 0.32), dark)
    elif style == "bun":
        canvas.fill(oval(0.0, -1.2, 0.4, 0.36), base)
        canvas.blend(oval(plan.shadow * 0.2, -1.12, 0.3, 0.3), dark, 0.6, oval(0.0, -1.2, 0.4, 0.36),
                     softness=0.05)  # fmt: skip
        shine = plan.light.side
        canvas.fill(oval(shine * 0.13, -1.32, 0.13, 0.08, shine * 25), light)
    elif style == "ponytail":
        # A turned head shows the tail at its back; otherwise it hangs on the shadow side.
        side = -float(np.sign(plan.yaw)) if plan.strongly_turned else plan.shadow
        tail = smooth([(w * 0.5, -1.0), (w * 1.25, -0.95), (w * 1.62, -0.3), (w * 1.6, 0.5), (w * 1.3, 1.1),
                       (w * 1.2, 0.4), (w * 1.0, -0.2)])  # fmt: skip
        canvas.fill(flipped(tail, side), dark)
        line = [(side * w * 1.22, -0.75), (side * w * 1.45, -0.2), (side * w * 1.42, 0.5)]
        canvas.stroke(line, 0.1, base, taper=0.8)
    elif style == "afro":
        canvas.fill(_cloud(w * 1.62, 1.42, -0.42), dark)
    elif style == "pigtails":
        for side in SIDES:
            tail = smooth(flipped([(w * 0.9, -0.72), (w * 1.5, -0.86), (w * 1.95, -0.4), (w * 1.9, 0.25),
                                   (w * 1.62, 0.62), (w * 1.45, 0.1), (w * 1.05, -0.35)], side))  # fmt: skip
            canvas.fill(tail, dark)
            canvas.blend(flipped(oval(w * 1.55, -0.25, 0.2, 0.42, -12), side), base, 0.9, tail, softness=0.04)
            canvas.fill(oval(side * w * 1.08, -0.62, 0.13, 0.15), darker(palette.COLORS[person.shirt], 0.1))
    elif style == "braids":
        canvas.fill(smooth(mirrored([(0.0, -1.16), (-w * 0.85, -0.95), (-w * 1.14, -0.3), (-w * 1.12, 0.4),
                                     (-w * 0.7, 0.7), (0.0, 0.6)])), dark)  # fmt: skip


def draw_locks(canvas: Canvas, person: Person, plan: HeadPlan) -> None:
    """Long hair that falls over the shoulders."""
    base, dark, light = _colors(person)
    if person.hair_style == "braids":
        _draw_braids(canvas, plan, base, dark, darker(palette.COLORS[person.shirt], 0.2))
    if person.hair_style not in _LONG:
        return
    w = plan.half_width
    shorter = 0.0 if person.sex == "woman" else 0.5
    for side in SIDES:
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
        if side == plan.light.side:
            canvas.blend(smooth(flipped([(w * 1.1, 0.2), (w * 1.2, 0.8), (w * 1.16, 1.4 - shorter),
                                         (w * 1.08, 0.8)],
                                        side)), light, 0.9, lock, softness=0.02)  # fmt: skip


def _draw_braids(canvas: Canvas, plan: HeadPlan, base: Color, dark: Color, ribbon_color: Color) -> None:
    w = plan.half_width
    for side in SIDES:
        for knot in range(6):
            x, y = side * (w * 1.04 + 0.03 * knot), 0.42 + 0.235 * knot
            size = 0.2 - 0.012 * knot
            canvas.fill(oval(x, y, size, size * 0.92), dark)
            canvas.fill(oval(x + plan.light.side * 0.02, y - 0.03, size * 0.86, size * 0.72), base)
            canvas.stroke(
                [(x - size * 0.6, y - 0.1), (x, y + 0.02), (x + size * 0.6, y - 0.1)], 0.035, dark, 0.5
            )
        x = side * (w * 1.04 + 0.18)
        canvas.fill(oval(x, 1.8, 0.13, 0.08), ribbon_color)
        canvas.fill(smooth([(x - 0.07, 1.84), (x + 0.07, 1.84), (x + 0.1, 2.06), (x, 2.14),
                            (x - 0.1, 2.06)]), base)  # fmt: skip


def _cloud(rx: float, ry: float, y: float, start: float = 0.0, end: float = 360.0) -> Points:
    """Outline of a round mass of hair with a bumpy edge, or its part from `start` to `end` degrees."""
    angles = np.radians(np.linspace(start, end, 90))
    swell = 1 + 0.05 * np.abs(np.sin(6.5 * angles))
    return np.stack([rx * swell * np.cos(angles), y + ry * 0.82 * swell * np.sin(angles)], axis=1)


def _spikes(w: float) -> Points:
    """Upper edge of hair that stands up in tufts."""
    angles = np.radians(np.linspace(184, 356, 15))
    reach = np.where(np.arange(15) % 2 == 1, 1.26, 1.04)
    tufts = np.stack([w * 1.1 * reach * np.cos(angles), -0.2 + 1.0 * reach * np.sin(angles)], axis=1)
    return np.concatenate([[(-w * 1.04, 0.02)], tufts, [(w * 1.04, 0.02)]])


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
    if style == "spiky":
        return _spikes(w), curve([(w * 0.92, 0.0), (w * 0.86, -0.34), (w * 0.6, -0.6), (w * 0.34, -0.48),
                                  (w * 0.05, -0.62), (-w * 0.25, -0.47), (-w * 0.55, -0.6),
                                  (-w * 0.86, -0.34), (-w * 0.92, 0.0)])  # fmt: skip
    if style == "parted":
        top = curve([(-w * 1.03, 0.04), (-w * 1.14, -0.45), (-w * 0.92, -0.98), (-w * 0.5, -1.12),
                     (-w * 0.1, -1.27), (w * 0.6, -1.17), (w * 1.08, -0.72), (w * 1.14, -0.35),
                     (w * 1.03, 0.04)])  # fmt: skip
        return top, curve([(w * 0.92, 0.02), (w * 0.9, -0.24), (w * 0.66, -0.4), (w * 0.15, -0.5),
                           (-w * 0.42, -0.84), (-w * 0.6, -0.62), (-w * 0.86, -0.36),
                           (-w * 0.92, 0.02)])  # fmt: skip
    if style in ("bun", "ponytail", "pigtails", "braids"):
        return _crown(w, 0.0, 0.02), curve([(w * 0.95, 0.0), (w * 0.86, -0.34), (w * 0.5, -0.57),
                                            (0.0, -0.64),
                                            (-w * 0.5, -0.57), (-w * 0.86, -0.34),
                                            (-w * 0.95, 0.0)])  # fmt: skip
    if person.sex == "woman" or person.age == "child":  # a bob, or a child's bangs
        low = 0.3 if person.sex == "woman" else 0.05
        return _crown(w, 0.05, low), curve([(w * 0.93, low), (w * 0.84, -0.2), (w * 0.3, -0.44),
                                            (-w * 0.35, -0.6),
                                            (-w * 0.84, -0.22), (-w * 0.93, low)])  # fmt: skip
    return _crown(w, 0.05, 0.02), curve([(w * 0.92, 0.0), (w * 0.88, -0.32), (w * 0.5, -0.5),
                                         (-w * 0.1, -0.52),
                                         (-w * 0.52, -0.62), (-w * 0.86, -0.36),
                                         (-w * 0.92, 0.0)])  # fmt: skip


def draw_front_hair(canvas: Canvas, person: Person, plan: HeadPlan) -> None:
    """Hair over skull and forehead."""
    base, dark, light = _colors(person)
    w = plan.half_width
    if person.hair_style == "bald":
        if person.age == "old":
            for side in SIDES:
                canvas.fill(smooth(flipped([(w * 1.0, 0.05), (w * 1.08, -0.2), (w * 1.0, -0.5),
                                            (w * 0.9, -0.3)], side)),
                            base)  # fmt: skip
        skin = palette.SKIN[person.skin]
        canvas.glow(plan.light.side * w * 0.38, -0.7, 0.3, 0.17, lighter(skin, 0.7), 0.8)
        return
    if person.hair_style == "curly":
        _draw_curls(canvas, plan, base, light)
        return
    if person.hair_style == "afro":
        _draw_afro(canvas, person, plan)
        return
    top, hairline = _hairline(person, w)
    hairline = plan.projected(hairline)
    hair = np.concatenate([top, hairline])
    _cast_shade(canvas, person, plan, hair)
    canvas.fill(hair, base)
    shade = smooth([(w * 0.72, -1.1), (w * 0.92, -0.6), (w * 0.9, 0.4), (w * 1.3, 0.4), (w * 1.4, -0.6)])
    canvas.blend(flipped(shade, plan.shadow), dark, 0.8, hair, softness=0.04)
    shine = curve([(w * 0.92, -0.42), (w * 0.76, -0.72), (w * 0.4, -0.9), (-w * 0.1, -0.95)])
    canvas.blend(ribbon(flipped(shine, plan.light.side), 0.15, 0.85), light, 0.85, hair, softness=0.012)
    if person.hair_style == "parted":
        parting = plan.projected([(-w * 0.42, -0.8), (-w * 0.44, -0.95), (-w * 0.4, -1.08)])
        canvas.stroke(parting, 0.05, dark, taper=0.6)
    if plan.light.rim:
        edge = flipped(oval(0.0, -0.1, w * 1.06, 0.93, 0, -78, -8), plan.shadow)
        canvas.blend(ribbon(edge, 0.08, 0.9), lighter(base, 0.55), 0.7, hair, softness=0.012)


def _cast_shade(canvas: Canvas, person: Person, plan: HeadPlan, hair: Points) -> None:
    """The shadow that the hair casts on the forehead, down and away from the light."""
    color = darker(palette.SKIN[person.skin], 0.3)
    canvas.blend(moved(hair, 0.04 * plan.shadow, 0.08), color, 0.55, head_outline(person), softness=0.025)


def _draw_afro(canvas: Canvas, person: Person, plan: HeadPlan) -> None:
    base, dark, light = _colors(person)
    w = plan.half_width
    crown = _cloud(w * 1.5, 1.3, -0.5, start=156, end=384)
    line = curve([(w * 1.25, 0.1), (w * 0.9, -0.1), (w * 0.82, -0.36), (w * 0.45, -0.56), (0.0, -0.6),
                  (-w * 0.45, -0.56), (-w * 0.82, -0.36), (-w * 0.9, -0.1), (-w * 1.25, 0.1)])  # fmt: skip
    mass = np.concatenate([crown, plan.projected(line)])
    _cast_shade(canvas, person, plan, mass)
    canvas.fill(mass, base)
    canvas.blend(oval(plan.shadow * w * 1.25, -0.5, 0.5, 0.95), dark, 0.8, mass, softness=0.07)
    for x, y in ((0.75, -0.95), (0.4, -1.2), (0.9, -0.55), (0.12, -1.0), (0.55, -0.75)):
        spot = oval(plan.light.side * x * w, y, 0.1, 0.08, 0, 180, 320)[::6]
        canvas.stroke(spot, 0.05, light, taper=0.6)


def _draw_curls(canvas: Canvas, plan: HeadPlan, base: Color, light: Color) -> None:
    w = plan.half_width
    for degrees in np.linspace(178, 362, 8):
        x, y = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
        canvas.fill(oval(w * 0.98 * x, -0.24 + 0.86 * y, 0.29, 0.27), base)
    canvas.fill(mirrored([(0.0, -1.1), (-w * 0.9, -0.85), (-w * 0.85, -0.52), (0.0, -0.72)]), base)
    for degrees in np.linspace(205, 335, 6):
        x, y = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
        canvas.fill(plan.projected(oval(w * 0.74 * x, -0.3 + 0.52 * y, 0.2, 0.18)), base)
    for x, y in ((0.82, -0.62), (0.5, -0.94), (0.05, -1.06), (0.3, -0.68)):
        spot = oval(plan.light.side * w * x, y, 0.14, 0.12, 0, 180, 310)[::8]
        canvas.stroke(spot, 0.05, light, taper=0.6)
