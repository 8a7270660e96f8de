"""The face: skin, ears, eyes, brows, nose, mouth, beard and glasses, in a head's own frame (see plan.py).

The front of the face is drawn on a view that is bent by a turn of the head.
"""

import numpy as np

from . import palette
from .canvas import Canvas
from .palette import Color, darker, lighter, mix
from .person import Person
from .plan import HALF_WIDTH, SIDES, HeadPlan
from .shapes import Points, curve, flipped, moved, oval, ribbon, smooth


def head_outline(person: Person) -> Points:
    """Outline of skull and jaw."""
    angles = np.radians(np.linspace(0, 360, 72, endpoint=False))
    across, down = np.cos(angles), np.sin(angles)
    jaw = np.maximum(down, 0)
    squareness = 1 - (0.20 if person.sex == "man" else 0.08) * person.jaw
    across = np.sign(across) * np.abs(across) ** np.where(down > 0, squareness, 1)
    narrowing = 0.1 if person.age == "child" else 0.17
    half = HALF_WIDTH * person.width
    return np.stack([half * across * (1 - narrowing * jaw**2), down], axis=1)


def draw_ear(canvas: Canvas, person: Person, plan: HeadPlan, side: float) -> None:
    """One ear; `canvas` is the view of the head's silhouette."""
    shade = skin_shade(person)
    x, y = plan.ear(side)
    canvas.fill(oval(x, y, 0.15, 0.22, -side * 8), shade)
    canvas.fill(oval(x + side * 0.008, y, 0.085, 0.14, -side * 8), mix(shade, (160, 60, 60), 0.22))


def draw_skin(canvas: Canvas, front: Canvas, person: Person, plan: HeadPlan) -> None:
    """Ears, head, the soft shadow on one side, the light on the other, cheeks and wrinkles."""
    skin = palette.SKIN[person.skin]
    shade = skin_shade(person)
    for side in SIDES:
        if plan.ear_shows(side):
            draw_ear(canvas, person, plan, side)
    outline = head_outline(person)
    canvas.fill(outline, skin)
    half = plan.half_width
    far_side = smooth([(half * 0.62, -1.05), (half * 0.8, -0.2), (half * 0.74, 0.4), (half * 0.3, 0.93),
                       (-half * 0.2, 1.1), (half * 0.6, 1.25), (half * 1.4, 0.5),
                       (half * 1.4, -0.6)])  # fmt: skip
    canvas.blend(flipped(far_side, plan.shadow), shade, 0.75, outline, softness=0.05)
    canvas.glow(plan.light.side * half * 0.45, -0.22, 0.42, 0.5, lighter(skin, 0.6), 0.35, outline)
    if plan.light.rim:
        edge = flipped(oval(0.0, 0.0, half * 0.955, 0.955, 0, -38, 62), plan.shadow)
        canvas.blend(ribbon(edge, 0.07, 0.9), lighter(skin, 0.5), 0.75, outline, softness=0.012)
    # The same red on every skin tone would glow on dark ones.
    blush = mix(skin, (224, 84, 84), 0.5 if sum(skin) > 560 else 0.34)
    for side in SIDES:
        x, y = plan.projected([(side * half * 0.6, plan.eye_y + 0.31)])[0]
        canvas.glow(x, y, 0.29, 0.23, blush, 0.7, outline)
    if person.age == "old":
        _draw_wrinkles(front, plan, mix(skin, shade, 1.0))


def skin_shade(person: Person) -> Color:
    """Color of skin in shadow."""
    return mix(palette.SKIN[person.skin], (122, 44, 44), 0.24)


def _draw_wrinkles(canvas: Canvas, plan: HeadPlan, color: Color) -> None:
    for y, half in ((-0.44, 0.26), (-0.34, 0.32)):
        line = [(-half, y + 0.03), (0.0, y), (half, y + 0.03)]
        canvas.stroke(line, 0.034, color, taper=0.7)
    for side in SIDES:
        x, y = plan.eye(side)
        outer = x + side * 0.25
        canvas.stroke([(outer, y + 0.03), (outer + side * 0.09, y - 0.02)], 0.028, color, 0.5)
        canvas.stroke([(outer, y + 0.07), (outer + side * 0.09, y + 0.09)], 0.028, color, 0.5)
        canvas.stroke([(x - 0.13, y + 0.21), (x, y + 0.245), (x + 0.13, y + 0.21)], 0.03, color, 0.7)
        fold_x = side * 0.2
        canvas.stroke(
            [(fold_x, 0.36), (fold_x + side * 0.12, 0.45), (fold_x + side * 0.15, 0.56)], 0.036, color, 0.7
        )


def brow_color(person: Person) -> Color:
    """Brows have the hair's color, darkened until they stand out from the skin."""
    color = darker(palette.HAIR[person.hair_color], 0.3)
    if person.age == "old":
        return mix(palette.HAIR[person.hair_color], (120, 118, 126), 0.6)
    while palette.distance(color, palette.SKIN[person.skin]) < 200:
        color = darker(color, 0.25)
        if sum(color) < 150:
            break
    return color


def draw_eyes(canvas: Canvas, person: Person, plan: HeadPlan) -> None:
    """Eyes with iris, pupil, highlight and lid, and the brows above them."""
    iris = palette.EYES[person.eye_color]
    woman = person.sex == "woman"
    rx, ry = plan.eye_size
    if person.expression == "laughing":
        ry *= 0.93
    for side in SIDES:
        x, y = plan.eye(side)
        lens = smooth([(x - rx, y + 0.02), (x - rx * 0.62, y - ry * 0.78), (x, y - ry),
                       (x + rx * 0.62, y - ry * 0.78),
                       (x + rx, y + 0.02), (x + rx * 0.55, y + ry * 0.82), (x, y + ry),
                       (x - rx * 0.55, y + ry * 0.82)])  # fmt: skip
        canvas.fill(lens, (253, 252, 250))
        canvas.blend(oval(x, y - ry * 1.05, rx * 1.1, ry * 0.6), (176, 180, 200), 0.55, lens)
        canvas.blend(oval(x, y, 0.125, 0.128), darker(iris, 0.45), 1.0, lens)
        canvas.blend(oval(x, y + 0.008, 0.105, 0.108), iris, 1.0, lens)
        canvas.blend(oval(x, y + 0.06, 0.075, 0.05), lighter(iris, 0.35), 0.7, lens, softness=0.015)
        canvas.fill(oval(x, y, 0.064, 0.068), palette.INK)
        canvas.fill(oval(x + plan.light.side * 0.052, y - 0.058, 0.034, 0.034), palette.WHITE)
        lid = [(x - rx * 1.06, y + 0.03), (x - rx * 0.62, y - ry * 0.82), (x, y - ry * 1.05),
               (x + rx * 0.62, y - ry * 0.82), (x + rx * 1.06, y + 0.03)]  # fmt: skip
        canvas.stroke(lid, 0.062 if woman else 0.048, palette.INK, taper=0.6)
        if woman:
            flick = [(x + side * rx * 0.78, y - ry * 0.5), (x + side * rx * 1.15, y - ry * 0.62),
                     (x + side * rx * 1.38, y - ry * 1.05)]  # fmt: skip
            canvas.stroke(flick, 0.045, palette.INK, taper=0.55)
        _draw_brow(canvas, person, x, y - ry - 0.16, side)


def _draw_brow(canvas: Canvas, person: Person, x: float, y: float, side: float) -> None:
    inner, arch = {"laughing": (-0.03, -0.085), "smiling": (-0.01, -0.06), "serious": (0.02, -0.02)}[
        person.expression
    ]
    width = 0.092 if person.sex == "man" else 0.062
    line = flipped([(-0.2, y + inner), (-0.04, y + arch), (0.12, y + arch + 0.02), (0.23, y + 0.055)], side)
    canvas.stroke(moved(line, x, 0.0), width, brow_color(person), taper=0.55)


def draw_nose(canvas: Canvas, person: Person, plan: HeadPlan) -> None:
    """Nose: a soft side, the curve under its tip and a highlight."""
    skin, shade = palette.SKIN[person.skin], skin_shade(person)
    line = darker(shade, 0.22)
    x, y = plan.nose
    # The ridge casts its shadow away from the light; on a turned head, on the side that faces away from us.
    away = np.sign(plan.yaw) if plan.strongly_turned else plan.shadow
    ridge = smooth([(0.05, plan.eye_y - 0.06), (0.05, y - 0.12), (0.13, y + 0.03), (0.02, y + 0.08),
                    (0.0, y - 0.05)])  # fmt: skip
    canvas.blend(flipped(ridge, away), shade, 0.8, softness=0.018)
    canvas.blend(oval(x + plan.shadow * 0.04, y + 0.125, 0.12, 0.045), shade, 0.6, softness=0.03)
    canvas.stroke([(x - 0.115, y + 0.015), (x - 0.06, y + 0.07), (x, y + 0.085), (x + 0.06, y + 0.07),
                   (x + 0.115, y + 0.015)], 0.042, line, taper=0.6)  # fmt: skip
    if plan.strongly_turned:
        profile = flipped([(0.045, plan.eye_y), (0.05, y - 0.14), (0.1, y - 0.02), (0.085, y + 0.06)], away)
        canvas.stroke(profile, 0.034, line, taper=0.8)
    canvas.glow(x + plan.light.side * 0.02, y - 0.02, 0.075, 0.075, lighter(skin, 0.55), 0.75)


def draw_mouth(canvas: Canvas, person: Person, plan: HeadPlan) -> None:
    """Laughing with teeth, smiling with closed lips, or serious."""
    skin = palette.SKIN[person.skin]
    lip = mix(skin, (196, 34, 66), 0.72) if person.sex == "woman" else mix(skin, (150, 44, 48), 0.62)
    line = darker(mix(lip, (110, 20, 34), 0.5), 0.2)
    (left, y), (right, _) = plan.mouth_corner(-1), plan.mouth_corner(1)
    x, half = (left + right) / 2, (right - left) / 2
    if person.expression == "laughing":
        inside = smooth([(left, y - 0.01), (x - half * 0.5, y + 0.01), (x, y + 0.022),
                         (x + half * 0.5, y + 0.01),
                         (right, y - 0.01), (x + half * 0.72, y + 0.14), (x, y + 0.215),
                         (x - half * 0.72, y + 0.14)])  # fmt: skip
        canvas.fill((inside - (x, y)) * (1.06, 1.12) + (x, y - 0.002), lip)
        canvas.fill((inside - (x, y)) * (0.96, 0.92) + (x, y), (118, 28, 40))
        canvas.blend(oval(x, y + 0.2, half * 0.5, 0.075), (226, 104, 108), 1.0, inside)
        teeth = smooth([(left + 0.02, y - 0.03), (x, y - 0.01), (right - 0.02, y - 0.03),
                        (x + half * 0.66, y + 0.075),
                        (x, y + 0.1), (x - half * 0.66, y + 0.075)])  # fmt: skip
        canvas.blend(teeth, (255, 254, 250), 1.0, (inside - (x, y)) * (0.96, 0.92) + (x, y))
    elif person.expression == "smiling":
        upper = smooth([(left, y), (x - half * 0.3, y + 0.035), (x, y + 0.05),
                        (x + half * 0.3, y + 0.035), (right, y),
                        (x + half * 0.55, y + 0.115), (x, y + 0.16),
                        (x - half * 0.55, y + 0.115)])  # fmt: skip
        canvas.fill(upper, lip)
        canvas.stroke([(left, y), (x - half * 0.55, y + 0.065), (x, y + 0.09),
                       (x + half * 0.55, y + 0.065), (right, y)],
                      0.042, line, taper=0.45)  # fmt: skip
    else:
        canvas.fill(smooth([(left, y), (x - half * 0.35, y - 0.05), (x, y - 0.035),
                            (x + half * 0.35, y - 0.05),
                            (right, y), (x + half * 0.4, y + 0.075),
                            (x - half * 0.4, y + 0.075)]), lip)  # fmt: skip
        canvas.stroke([(left, y), (x, y + 0.008), (right, y)], 0.038, line, taper=0.45)
    if person.expression != "laughing" and person.beard != "beard":
        canvas.stroke(
            [(x - 0.1, y + 0.25), (x, y + 0.27), (x + 0.1, y + 0.25)], 0.035, skin_shade(person), taper=0.7
        )
    if person.expression != "serious" and person.beard != "beard":
        for side in SIDES:
            edge = x + side * (half + 0.015)
            canvas.stroke([(edge, y - 0.05), (edge + side * 0.035, y),
                           (edge + side * 0.02, y + 0.045)], 0.036,
                          darker(skin_shade(person), 0.12), taper=0.7)  # fmt: skip


def draw_beard(canvas: Canvas, front: Canvas, person: Person, plan: HeadPlan) -> None:
    """Beard along the jaw, or only a mustache."""
    if person.beard is None:
        return
    color = palette.HAIR[person.hair_color]
    x, y = 0.0, plan.mouth_y
    if person.beard == "beard":
        half = plan.half_width
        angles = np.radians(np.linspace(-8, 188, 34))
        outer = np.stack([half * 1.02 * np.cos(angles) * (1 - 0.14 * np.maximum(np.sin(angles), 0) ** 2),
                          0.14 + 1.0 * np.sin(angles)], axis=1)  # fmt: skip
        inner = curve([(-half * 0.9, 0.0), (-half * 0.85, 0.2), (-half * 0.7, 0.37), (x - 0.4, y - 0.1),
                       (x - 0.16, y - 0.14), (x, y - 0.11),
                       (x + 0.16, y - 0.14), (x + 0.4, y - 0.1), (half * 0.7, 0.37), (half * 0.85, 0.2),
                       (half * 0.9, 0.0)])  # fmt: skip
        beard = np.concatenate([outer, plan.projected(inner)])
        canvas.fill(beard, color)
        canvas.blend(flipped(oval(half * 0.75, 0.7, 0.42, 0.75, 20), plan.shadow), darker(color, 0.3), 0.6,
                     beard, softness=0.05)  # fmt: skip
        around = plan.projected(oval(x, y + 0.02, plan.mouth_half * 1.25, 0.16))
        canvas.blend(around, darker(color, 0.25), 0.8, beard, softness=0.03)
    for side in SIDES:
        lobe = flipped([(0.0, -0.13), (0.16, -0.15), (0.33, -0.06), (0.4, 0.05), (0.26, 0.015), (0.12, -0.02),
                        (0.0, -0.03)], side)  # fmt: skip
        front.fill(moved(smooth(lobe), x, y), darker(color, 0.06) if person.beard == "beard" else color)


def draw_glasses(canvas: Canvas, person: Person, plan: HeadPlan) -> None:
    """Round or square frames with a faint reflection on the lens."""
    if person.glasses is None:
        return
    frame: Color = (36, 32, 42)
    rims = []
    for side in SIDES:
        x, y = plan.eye(side)
        if person.glasses == "round":
            rim = oval(x, y + 0.01, 0.285, 0.265)
        else:
            rim = smooth([(x - 0.29, y - 0.2), (x, y - 0.225), (x + 0.29, y - 0.2), (x + 0.3, y),
                          (x + 0.25, y + 0.2),
                          (x, y + 0.225), (x - 0.25, y + 0.2), (x - 0.3, y)])  # fmt: skip
        rims.append(rim)
        glint = np.array(
            [(x + 0.13, y - 0.24), (x + 0.2, y - 0.24), (x + 0.04, y + 0.26), (x - 0.03, y + 0.26)]
        )
        canvas.blend(moved(glint, 0.09, 0.0), palette.WHITE, 0.28, rim)
        temple = [(x + side * 0.285, y - 0.03), (side * plan.half_width * 0.99, y - 0.03)]
        canvas.stroke(temple, 0.05, frame)
    for rim in rims:
        closed = np.concatenate([rim, rim[:1]])
        center = rim.mean(axis=0)
        canvas.fill(
            np.concatenate([(closed - center) * 1.09 + center, ((closed - center) * 0.91 + center)[::-1]]),
            frame,
        )
    left, right = plan.eye(-1)[0] + 0.27, plan.eye(1)[0] - 0.27
    if left < right:
        canvas.stroke(
            [(left, plan.eye_y), ((left + right) / 2, plan.eye_y - 0.04), (right, plan.eye_y)], 0.05, frame
        )
