"""What hides part of a face: a raised scarf or a hand in front of it, in the head's frame (see plan.py)."""

from . import palette
from .canvas import Canvas
from .face import skin_shade
from .palette import darker, lighter
from .person import Person
from .plan import HeadPlan
from .shapes import curve, mirrored, oval, ribbon, smooth


def draw_cover(canvas: Canvas, person: Person, plan: HeadPlan) -> None:
    """Draw the person's cover; hat.py draws a hat that is pulled down."""
    if person.cover == "scarf":
        _draw_raised_scarf(canvas.bent(plan.leaned), person, plan)
    elif person.cover == "hand":
        _draw_hand(canvas, person, plan)


def _draw_raised_scarf(canvas: Canvas, person: Person, plan: HeadPlan) -> None:
    color = palette.COLORS[person.scarf or "red"]
    w = plan.half_width
    band = smooth(mirrored([(0.0, 0.32), (-w * 0.6, 0.36), (-w * 1.04, 0.3), (-w * 1.02, 0.75),
                            (-w * 0.86, 1.12), (-w * 0.4, 1.3), (0.0, 1.34)]))  # fmt: skip
    canvas.fill(band, color)
    canvas.blend(oval(plan.shadow * w * 0.8, 0.85, 0.4, 0.6), darker(color, 0.3), 0.75, band, softness=0.07)
    for y, bend in ((0.56, 0.06), (0.82, 0.1), (1.04, 0.12)):
        line = curve([(-w * 0.9, y), (plan.light.side * 0.1, y + bend), (w * 0.9, y - 0.03)])
        canvas.blend(ribbon(line, 0.04, 0.7), darker(color, 0.35), 0.8, band)


def _draw_hand(canvas: Canvas, person: Person, plan: HeadPlan) -> None:
    """A hand in front of the mouth, or of the cheek and eye on the lit side."""
    skin, line = palette.SKIN[person.skin], darker(skin_shade(person), 0.25)
    sleeve = palette.COLORS[person.shirt]
    side = plan.light.side
    x, y = plan.seen([(side * 0.3, 0.55)])[0]
    hand = canvas.placed(x, y, 1.0, -side * 24)
    arm = ribbon(curve([(0.0, 0.3), (0.0, 1.0), (side * 0.06, 1.6)]), 0.46)
    hand.fill(arm, skin)
    cuff = ribbon(curve([(0.0, 0.85), (side * 0.02, 1.5), (side * 0.1, 2.5)]), 0.68)
    hand.fill(oval(side * 0.1, 2.48, 0.34, 0.3), sleeve)
    hand.fill(cuff, sleeve)
    hand.blend(oval(-side * 0.35, 1.6, 0.3, 0.9), darker(sleeve, 0.3), 0.6, cuff, softness=0.06)
    hand.fill(
        ribbon(curve([(-side * 0.2, 0.28), (-side * 0.42, 0.04), (-side * 0.45, -0.2)]), 0.19, 0.25), line
    )
    hand.fill(
        ribbon(curve([(-side * 0.2, 0.26), (-side * 0.42, 0.03), (-side * 0.45, -0.19)]), 0.15, 0.25), skin
    )
    for finger, length in ((-0.24, 0.5), (-0.08, 0.62), (0.08, 0.6), (0.23, 0.46)):
        top = [(finger * 0.95, 0.15), (finger * 1.05, -0.2), (finger * 1.12, -length)]
        hand.fill(ribbon(curve(top), 0.2, 0.25), line)
        hand.fill(oval(finger * 1.12, -length, 0.09, 0.1), line)
        hand.fill(ribbon(curve(top), 0.16, 0.2), skin)
        hand.fill(oval(finger * 1.12, -length, 0.072, 0.08), skin)
    palm = oval(0.0, 0.2, 0.33, 0.36)
    hand.fill(palm, skin)
    hand.blend(oval(plan.shadow * 0.28, 0.32, 0.2, 0.3), skin_shade(person), 0.7, palm, softness=0.04)
    hand.glow(side * 0.1, 0.1, 0.2, 0.2, lighter(skin, 0.5), 0.4, palm)
