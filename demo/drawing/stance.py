"""Legs and arms of people shown full length, in the upright frame of their head (see plan.py)."""

from . import palette
from .canvas import Canvas
from .palette import darker
from .person import Person
from .plan import SIDES, HeadPlan
from .shapes import curve, oval, ribbon, smooth

HIP = 4.4
_FEET = {"child": 7.0, "adult": 8.4, "old": 8.2}
_TROUSERS = {
    "suit": None,
    "shirt": "navy",
    "stripes": "navy",
    "collar": "brown",
    "sweater": "gray",
    "hoodie": "black",
}


def feet(person: Person) -> float:
    """How far the soles are below the center of the head."""
    return _FEET[person.age]


def draw_legs(canvas: Canvas, person: Person, plan: HeadPlan) -> None:
    """Two legs in trousers, shoes and the shadow on the ground."""
    name = _TROUSERS[person.clothes] or person.shirt
    color = palette.COLORS[name if name != person.shirt or person.clothes == "suit" else "brown"]
    ground = feet(person)
    canvas.blend(oval(plan.shadow * 0.5, ground + 0.06, 1.7, 0.2), (36, 40, 52), 0.4, softness=0.06)
    for side in SIDES:
        shade = color if side == plan.light.side else darker(color, 0.2)
        leg = smooth([(side * 0.02, HIP - 0.5), (side * 1.1, HIP - 0.5), (side * 1.0, HIP + 1.2),
                      (side * 0.86, ground - 0.1), (side * 0.36, ground - 0.1),
                      (side * 0.2, HIP + 1.2)])  # fmt: skip
        canvas.fill(leg, shade)
        canvas.fill(oval(side * 0.74, ground - 0.06, 0.46, 0.2), palette.INK)


def draw_arms(canvas: Canvas, person: Person, plan: HeadPlan) -> None:
    """Arms hanging at the sides."""
    color, skin = palette.COLORS[person.shirt], palette.SKIN[person.skin]
    reach = {"man": 1.62, "woman": 1.36}[person.sex] * (0.84 if person.age == "child" else 1.0)
    low = HIP - (0.5 if person.age == "child" else 0.0)
    for side in SIDES:
        line = curve([(side * reach * 0.9, 2.0), (side * reach * 1.14, 3.1), (side * reach * 1.12, low)])
        canvas.fill(oval(side * reach * 1.12, low + 0.16, 0.22, 0.3), skin)
        canvas.fill(ribbon(line, 0.5, 0.1), darker(color, 0.14 if side == plan.light.side else 0.3))
