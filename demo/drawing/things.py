"""More images without people: round things and animals, some close to what a face detector looks for.

Each function draws one and returns the facts that its caption may mention, as in scene.py. None has two eyes
above a mouth.
"""

from collections.abc import Callable

import numpy as np

from . import palette
from .canvas import Canvas
from .palette import COLORS, Color, darker, lighter
from .scene import Facts, draw_day_sky, draw_plain, wavy_ground
from .shapes import Points, box, curve, oval, ribbon, smooth

_PLAIN = ("white", "yellow", "teal", "blue", "pink", "gray", "green", "purple")
_METAL: Color = (196, 200, 208)


def _choose(rng: np.random.Generator, words: tuple[str, ...]) -> str:
    return words[int(rng.integers(len(words)))]


def _color_and_wall(rng: np.random.Generator, colors: tuple[str, ...]) -> tuple[str, str]:
    wall = _choose(rng, _PLAIN)
    return _choose(rng, tuple(name for name in colors if name != wall)), wall


def _spokes(canvas: Canvas, count: int, reach: float, width: float, color: Color, turn: float = 0.0) -> None:
    for angle in np.radians(turn + np.arange(count) * 360 / count):
        line = [(0.0, 0.0), (reach * float(np.cos(angle)), reach * float(np.sin(angle)))]
        canvas.stroke(line, width, color)


def _ring(radius: float, width: float) -> Points:
    """Outline of a ring, with its hole in reverse direction."""
    outer, inner = (
        oval(0, 0, radius, radius, end=359.9),
        oval(0, 0, radius - width, radius - width, end=359.9),
    )
    return np.concatenate([outer, outer[:1], inner[:1], inner[::-1]])


def _spin(rng: np.random.Generator, low: float, high: float) -> tuple[float, float, float]:
    """Center and radius of a round thing near the center of the image."""
    return float(rng.uniform(0.43, 0.57)), float(rng.uniform(0.44, 0.54)), float(rng.uniform(low, high))


def draw_clock(canvas: Canvas, rng: np.random.Generator) -> Facts:
    """A round clock on a wall."""
    color, wall = _color_and_wall(rng, ("red", "blue", "black", "brown", "green", "orange"))
    draw_plain(canvas, rng, wall)
    x, y, radius = _spin(rng, 0.24, 0.34)
    clock = canvas.placed(x, y, radius)
    clock.blend(oval(0.08, 0.12, 1.02, 1.02), darker(COLORS[wall], 0.45), 0.6, softness=0.06)
    clock.fill(oval(0, 0, 1, 1), COLORS[color])
    clock.fill(oval(0, 0, 0.86, 0.86), (252, 250, 242))
    clock.blend(oval(0.3, 0.42, 0.8, 0.7), (214, 214, 224), 0.6, oval(0, 0, 0.86, 0.86), softness=0.12)
    for hour, angle in enumerate(np.radians(np.arange(12) * 30)):
        mark = [(0.66 * np.cos(angle), 0.66 * np.sin(angle)), (0.77 * np.cos(angle), 0.77 * np.sin(angle))]
        clock.stroke(mark, 0.07 if hour % 3 == 0 else 0.035, palette.INK)
    for length, width, angle in ((0.4, 0.08, rng.uniform(0, 6.28)), (0.6, 0.055, rng.uniform(0, 6.28))):
        clock.stroke(
            [(0, 0), (length * np.cos(angle), length * np.sin(angle))], width, palette.INK, taper=0.2
        )
    clock.fill(oval(0, 0, 0.06, 0.06), COLORS[color])
    return {"color": color, "background": wall}


def draw_wheel(canvas: Canvas, rng: np.random.Generator) -> Facts:
    """One wheel with spokes, made of wood or of rubber and metal."""
    wall = _choose(rng, _PLAIN)
    draw_plain(canvas, rng, wall)
    x, y, radius = _spin(rng, 0.26, 0.36)
    wheel = canvas.placed(x, y, radius)
    turn = float(rng.uniform(0, 60))
    wooden = rng.random() < 0.5
    wheel.blend(oval(0.05, 1.0, 0.8, 0.07), darker(COLORS[wall], 0.5), 0.6, softness=0.04)
    if wooden:
        _spokes(wheel, 8, 0.86, 0.11, palette.WOOD, turn)
        wheel.fill(_ring(1.0, 0.17), palette.WOOD)
        wheel.fill(_ring(0.97, 0.05), lighter(palette.WOOD, 0.3))
        wheel.fill(oval(0, 0, 0.2, 0.2), darker(palette.WOOD, 0.25))
        return {"matter": "wooden", "background": wall}
    wheel.fill(oval(0, 0, 1, 1), (40, 40, 48))
    wheel.fill(oval(0, 0, 0.68, 0.68), (96, 100, 110))
    _spokes(wheel, 5, 0.64, 0.2, _METAL, turn)
    wheel.fill(_ring(0.7, 0.09), _METAL)
    wheel.fill(oval(0, 0, 0.17, 0.17), (96, 100, 110))
    return {"matter": "rubber", "background": wall}


def draw_windows(canvas: Canvas, rng: np.random.Generator) -> Facts:
    """The front of a building: rows of windows over a door."""
    color = _choose(rng, ("red", "yellow", "pink", "blue", "white", "orange", "gray"))
    wall = COLORS[color]
    canvas.gradient(lighter(wall, 0.1), darker(wall, 0.08))
    columns, rows = int(rng.integers(2, 5)), int(rng.integers(2, 4))
    arched = rng.random() < 0.4
    glass: Color = (150, 204, 236)
    step, down = 1 / columns, 0.72 / rows
    for row in range(rows):
        for column in range(columns):
            x, y = (column + 0.5) * step, 0.06 + (row + 0.5) * down
            pane = canvas.placed(x, y, min(step, down) * 0.36)
            if arched:
                pane.fill(oval(0, -0.75, 0.78, 0.7), palette.WHITE)
                pane.fill(oval(0, -0.75, 0.64, 0.56), glass)
            pane.fill(box(-0.78, -0.75, 0.78, 0.9), palette.WHITE)
            pane.fill(box(-0.64, -0.66, 0.64, 0.78), glass)
            pane.blend([(-0.2, -0.66), (0.3, -0.66), (-0.34, 0.78), (-0.64, 0.78), (-0.64, 0.2)],
                       palette.WHITE, 0.4)  # fmt: skip
            pane.fill(box(-0.05, -0.66, 0.05, 0.78), palette.WHITE)
            pane.fill(box(-0.64, -0.02, 0.64, 0.07), palette.WHITE)
            pane.fill(box(-0.92, 0.88, 0.92, 1.02), darker(wall, 0.3))
    door = float(rng.choice([0.2, 0.8]))
    canvas.fill(box(0, 0.92, 1, 1), (150, 150, 158))
    canvas.fill(box(door - 0.075, 0.76, door + 0.075, 0.92), palette.WOOD)
    canvas.fill(oval(door + 0.05, 0.85, 0.011, 0.011), palette.GOLD)
    return {"color": color}


def draw_big_sun(canvas: Canvas, rng: np.random.Generator) -> Facts:
    """A large sun with rays in a blue sky."""
    canvas.gradient(palette.SKY_TOP, palette.SKY_LOW)
    x, y, radius = _spin(rng, 0.16, 0.22)
    sun = canvas.placed(x, y, radius)
    sun.glow(0, 0, 2.2, 2.2, (255, 246, 196), 0.8)
    turn = float(rng.uniform(0, 30))
    for degrees in np.arange(12) * 30 + turn:
        ray = canvas.placed(x, y, radius, float(degrees))
        ray.fill([(1.14, -0.14), (1.14, 0.14), (1.62, 0.0)], (255, 190, 66))
    sun.fill(oval(0, 0, 1, 1), palette.SUN)
    sun.blend(oval(0.35, 0.4, 0.75, 0.7), (255, 176, 56), 0.5, oval(0, 0, 1, 1), softness=0.14)
    if rng.random() < 0.5:
        canvas.fill(wavy_ground(0.86, 0.03, rng.uniform(0, 1)), palette.GRASS)
    return {}


def draw_apples(canvas: Canvas, rng: np.random.Generator) -> Facts:
    """Two to five apples or oranges in a row on a table."""
    wall = _choose(rng, _PLAIN)
    draw_plain(canvas, rng, wall)
    canvas.fill(box(0, 0.64, 1, 1), (176, 122, 80))
    canvas.fill(box(0, 0.64, 1, 0.66), (204, 152, 106))
    oranges = rng.random() < 0.3
    name = "orange" if oranges else _choose(rng, tuple(c for c in ("red", "green", "yellow") if c != wall))
    color = COLORS[name]
    count = int(rng.integers(2, 6))
    radius = min(0.16, 0.42 / count)
    for index in range(count):
        x = 0.5 + (index - (count - 1) / 2) * radius * 2.1
        fruit = canvas.placed(x, 0.72 - radius * 0.5 + float(rng.uniform(0, 0.06)), radius)
        fruit.blend(oval(0.1, 0.92, 0.9, 0.14), (96, 62, 44), 0.7, softness=0.05)
        skin = oval(0, 0, 1, 0.98) if oranges else smooth(
            [(0.0, -0.74), (0.42, -0.9), (0.9, -0.6), (1.0, 0.0), (0.8, 0.6), (0.4, 0.96), (0.0, 0.9),
             (-0.4, 0.96), (-0.8, 0.6), (-1.0, 0.0), (-0.9, -0.6), (-0.42, -0.9)])  # fmt: skip
        fruit.fill(skin, color)
        fruit.blend(oval(0.7, 0.35, 0.5, 0.9, 15), darker(color, 0.35), 0.7, skin, softness=0.14)
        fruit.blend(oval(-0.5, -0.35, 0.16, 0.26, 22), lighter(color, 0.75), 0.8, skin, softness=0.03)
        fruit.stroke([(0.0, -0.72), (0.03, -0.95), (0.1, -1.15)], 0.09, (98, 64, 42))
        fruit.fill(smooth([(0.06, -0.95), (0.36, -1.2), (0.66, -1.12), (0.36, -0.92)]), (88, 162, 72))
    return {"color": name, "fruit": "oranges" if oranges else "apples", "background": wall}


def draw_bicycle(canvas: Canvas, rng: np.random.Generator) -> Facts:
    """A bicycle from the side, on a path."""
    color = _choose(rng, ("red", "blue", "green", "yellow", "black", "orange"))
    draw_day_sky(canvas, rng)
    canvas.fill(wavy_ground(0.6, 0.03, rng.uniform(0, 1)), palette.GRASS)
    canvas.fill(box(0, 0.78, 1, 1), (206, 186, 150))
    bike = canvas.placed(float(rng.uniform(0.47, 0.53)), 0.82, float(rng.uniform(0.9, 1.05)))
    frame, rubber = COLORS[color], (44, 44, 52)
    bike.blend(oval(0.0, 0.01, 0.4, 0.02), (92, 76, 60), 0.6, softness=0.01)
    for x in (-0.23, 0.23):
        wheel = bike.placed(x, -0.17, 0.17)
        _spokes(wheel, 12, 0.92, 0.022, _METAL, float(rng.uniform(0, 30)))
        wheel.fill(_ring(1.0, 0.13), rubber)
        wheel.fill(oval(0, 0, 0.1, 0.1), rubber)
    joints = {"back": (-0.23, -0.17), "crank": (-0.03, -0.15), "seat": (-0.1, -0.38), "head": (0.16, -0.37),
              "front": (0.23, -0.17)}  # fmt: skip
    for first, second in (("back", "crank"), ("back", "seat"), ("crank", "seat"), ("crank", "head"),
                          ("seat", "head"), ("head", "front")):  # fmt: skip
        bike.stroke([joints[first], joints[second]], 0.022, frame)
    bike.stroke([(-0.1, -0.38), (-0.115, -0.44)], 0.016, _METAL)
    bike.fill(smooth([(-0.18, -0.45), (-0.06, -0.465), (-0.05, -0.44), (-0.16, -0.43)]), rubber)
    bike.stroke([(0.16, -0.37), (0.14, -0.45), (0.21, -0.46), (0.225, -0.43)], 0.018, rubber)
    bike.placed(-0.03, -0.15, 1.0).fill(_ring(0.045, 0.02), rubber)
    return {"color": color}


def draw_ball(canvas: Canvas, rng: np.random.Generator) -> Facts:
    """A striped beach ball or a plain one, on grass or against a wall."""
    color, wall = _color_and_wall(rng, ("red", "blue", "green", "orange", "purple"))
    facts = {"color": color}
    if rng.random() < 0.5:
        draw_day_sky(canvas, rng, sun=False)
        canvas.fill(wavy_ground(0.66, 0.02, rng.uniform(0, 1)), palette.GRASS)
    else:
        draw_plain(canvas, rng, wall)
        facts["background"] = wall
    x, y, radius = _spin(rng, 0.22, 0.3)
    ball = canvas.placed(x, y + 0.08, radius)
    ball.blend(oval(0.1, 1.0, 0.85, 0.12), (40, 44, 52), 0.5, softness=0.05)
    edge = oval(0, 0, 1, 1)
    ball.fill(edge, COLORS[color])
    if rng.random() < 0.6:
        facts["pattern"] = "stripes"
        turned = canvas.placed(x, y + 0.08, radius, float(rng.uniform(-40, 40)))
        for middle in (-0.62, 0.0, 0.62):
            stripe = ribbon(
                curve([(middle * 0.5, -1.1), (middle * 1.25, 0.0), (middle * 0.5, 1.1)]), 0.3, 0.6
            )
            turned.blend(stripe, (250, 248, 240), 1.0, edge)
    ball.blend(oval(0.55, 0.5, 0.75, 0.75), darker(COLORS[color], 0.4), 0.55, edge, softness=0.16)
    ball.blend(oval(-0.42, -0.48, 0.24, 0.17, -35), palette.WHITE, 0.7, edge, softness=0.05)
    return facts


def draw_sign(canvas: Canvas, rng: np.random.Generator) -> Facts:
    """A round road sign on a pole, with a bar, an arrow or nothing on it."""
    draw_day_sky(canvas, rng, sun=False)
    canvas.fill(wavy_ground(0.8, 0.03, rng.uniform(0, 1)), palette.GRASS)
    x, y, radius = _spin(rng, 0.18, 0.25)
    color = _choose(rng, ("red", "blue"))
    canvas.fill(box(x - 0.018, y, x + 0.018, 0.9), (150, 154, 164))
    sign = canvas.placed(x, y - 0.04, radius)
    sign.fill(oval(0, 0, 1, 1), COLORS[color])
    sign.blend(_ring(1.0, 0.05), darker(COLORS[color], 0.3), 1.0)
    manner = int(rng.integers(3))
    if manner == 0:
        sign.fill(box(-0.66, -0.17, 0.66, 0.17), palette.WHITE)
    elif manner == 1:
        arrow = canvas.placed(x, y - 0.04, radius, float(rng.choice([0.0, 90.0, 180.0, -90.0])))
        arrow.fill([(-0.6, -0.13), (0.1, -0.13), (0.1, -0.42), (0.66, 0.0), (0.1, 0.42), (0.1, 0.13),
                    (-0.6, 0.13)], palette.WHITE)  # fmt: skip
    else:
        sign.fill(oval(0, 0, 0.74, 0.74), palette.WHITE)
    return {"color": color}


def _fur(rng: np.random.Generator) -> str:
    return _choose(rng, ("black", "gray", "orange", "white", "brown"))


def draw_cat(canvas: Canvas, rng: np.random.Generator) -> Facts:
    """A cat sitting with its back to us."""
    name = _fur(rng)
    wall = _choose(rng, tuple(w for w in _PLAIN if w != name))
    draw_plain(canvas, rng, wall)
    floor = darker(COLORS[wall], 0.25)
    canvas.fill(box(0, 0.82, 1, 1), floor)
    fur = COLORS[name]
    side = float(rng.choice([-1.0, 1.0]))
    cat = canvas.placed(float(rng.uniform(0.44, 0.56)), 0.84, float(rng.uniform(0.85, 1.05)))
    tail = curve([(side * 0.12, -0.05), (side * 0.3, -0.04), (side * 0.33, -0.2), (side * 0.27, -0.28)])
    cat.blend(oval(0.03, 0.0, 0.26, 0.03), darker(floor, 0.4), 0.6, softness=0.012)
    cat.fill(ribbon(tail, 0.055, 0.2), darker(fur, 0.15))
    body = smooth([(0.0, -0.42), (0.1, -0.36), (0.17, -0.16), (0.19, -0.02), (0.0, 0.01), (-0.19, -0.02),
                   (-0.17, -0.16), (-0.1, -0.36)])  # fmt: skip
    cat.fill(body, fur)
    for ear in (-1.0, 1.0):
        cat.fill([(ear * 0.13, -0.48), (ear * 0.11, -0.63), (ear * 0.02, -0.55)], fur)
    head = oval(0.0, -0.46, 0.135, 0.115)
    cat.fill(head, fur)
    cat.blend(oval(0.14, -0.14, 0.1, 0.24), darker(fur, 0.35), 0.7, body, softness=0.03)
    cat.blend(oval(0.1, -0.44, 0.08, 0.12), darker(fur, 0.3), 0.6, head, softness=0.02)
    for y in (-0.3, -0.23, -0.16):
        cat.stroke([(-0.05, y), (0.0, y + 0.015), (0.05, y)], 0.018, darker(fur, 0.4), taper=0.6)
    return {"color": name, "background": wall}


def draw_dog(canvas: Canvas, rng: np.random.Generator) -> Facts:
    """A dog from the side on a meadow."""
    name = _fur(rng)
    draw_day_sky(canvas, rng)
    canvas.fill(wavy_ground(0.66, 0.03, rng.uniform(0, 1)), palette.GRASS)
    fur = COLORS[name]
    dark = darker(fur, 0.3)
    side = float(rng.choice([-1.0, 1.0]))
    dog = canvas.placed(float(rng.uniform(0.46, 0.54)), 0.82, float(rng.uniform(0.9, 1.1)))

    def part(points: list[tuple[float, float]]) -> Points:
        return smooth([(side * x, y) for x, y in points])

    dog.blend(oval(0.0, 0.01, 0.3, 0.025), darker(palette.GRASS, 0.45), 0.6, softness=0.012)
    for x in (-0.16, 0.13):
        dog.fill(part([(x, -0.2), (x + 0.06, -0.2), (x + 0.055, 0.0), (x + 0.0, 0.0)]), dark)
    dog.fill(
        ribbon(curve([(-side * 0.2, -0.3), (-side * 0.29, -0.38), (-side * 0.3, -0.5)]), 0.045, 0.2), fur
    )
    body = part([(-0.24, -0.3), (-0.1, -0.36), (0.12, -0.36), (0.2, -0.28), (0.16, -0.16), (-0.18, -0.15)])
    dog.fill(body, fur)
    for x in (-0.21, 0.09):
        dog.fill(part([(x, -0.24), (x + 0.07, -0.24), (x + 0.065, 0.01), (x + 0.005, 0.01)]), fur)
    dog.fill(part([(0.1, -0.36), (0.14, -0.5), (0.24, -0.52), (0.3, -0.45), (0.38, -0.42), (0.38, -0.36),
                   (0.26, -0.34), (0.2, -0.24)]), fur)  # fmt: skip
    dog.fill(part([(0.15, -0.5), (0.2, -0.5), (0.2, -0.36), (0.14, -0.35), (0.11, -0.42)]), dark)
    dog.fill(oval(side * 0.255, -0.46, 0.013, 0.013), palette.INK)
    dog.fill(oval(side * 0.385, -0.41, 0.02, 0.017), palette.INK)
    dog.fill(
        ribbon(curve([(side * 0.12, -0.33), (side * 0.17, -0.28), (side * 0.22, -0.28)]), 0.025),
        COLORS["red"],
    )
    return {"color": name}


THINGS: dict[str, Callable[[Canvas, np.random.Generator], Facts]] = {
    "clock": draw_clock, "wheel": draw_wheel, "windows": draw_windows, "sun": draw_big_sun,
    "apples": draw_apples, "bicycle": draw_bicycle, "ball": draw_ball, "sign": draw_sign, "cat": draw_cat,
    "dog": draw_dog,
}  # fmt: skip
