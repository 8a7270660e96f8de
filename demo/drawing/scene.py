"""Images without people. Each function draws one and returns the facts that its caption may mention.

Nothing here may look like a face: no two round spots side by side above a line, no centered door between
two windows.
"""

from collections.abc import Callable

import numpy as np

from . import palette
from .canvas import Canvas
from .palette import COLORS, Color, darker, lighter, mix
from .shapes import Points, box, curve, oval, smooth

Facts = dict[str, str]

_CLOUD: Color = (250, 251, 253)
_FLOWERS = ("red", "yellow", "pink", "purple", "orange", "white")
_PLAIN = ("red", "orange", "yellow", "green", "teal", "blue", "purple", "pink", "white", "gray")


def _choose(rng: np.random.Generator, words: tuple[str, ...]) -> str:
    return words[int(rng.integers(len(words)))]


def draw_hills(canvas: Canvas, rng: np.random.Generator) -> Facts:
    """Rolling green hills under a blue sky with a sun."""
    draw_day_sky(canvas, rng)
    shift = rng.uniform(-0.12, 0.12)
    crests = ((0.58, 0.07), (0.7, 0.06), (0.83, 0.045))
    for layer, (height, swing) in enumerate(crests):
        phase = shift + (0.0, 0.55, 0.2)[layer] + rng.uniform(-0.08, 0.08)
        color = mix(lighter(palette.GRASS, 0.25), darker(palette.GRASS, 0.25), layer / 2)
        canvas.fill(wavy_ground(height, swing, phase), color)
    facts: Facts = {}
    if rng.random() < 0.35:
        draw_round_tree(canvas, float(rng.uniform(0.2, 0.8)), 0.8, 0.11, COLORS["green"])
        facts["extra"] = "tree"
    return facts


def draw_mountains(canvas: Canvas, rng: np.random.Generator) -> Facts:
    """Gray mountains with snow, a blue sky and a meadow."""
    draw_day_sky(canvas, rng)
    _draw_range(canvas, rng, 0.8, 0.46, (122, 136, 164), snow=True)
    canvas.fill(wavy_ground(0.74, 0.03, rng.uniform(0, 1)), palette.GRASS)
    canvas.fill(wavy_ground(0.86, 0.03, rng.uniform(0, 1)), darker(palette.GRASS, 0.2))
    return {}


def draw_sunset(canvas: Canvas, rng: np.random.Generator) -> Facts:
    """A low sun over dark mountains, or over the sea."""
    canvas.gradient((112, 66, 140), (252, 150, 84), until=0.45)
    lower = canvas.pixels[round(0.45 * canvas.side) :]
    lower[:] = (252, 150, 84)
    x = float(rng.uniform(0.32, 0.68))
    y = float(rng.uniform(0.46, 0.54))
    canvas.glow(x, y, 0.75, 0.4, (255, 214, 110), 0.85)
    canvas.fill(oval(x, y, 0.115, 0.115), (255, 236, 160))
    if rng.random() < 0.65:
        _draw_range(canvas, rng, 0.8, 0.26, (124, 66, 118), snow=False)
        _draw_range(canvas, rng, 0.96, 0.24, (72, 42, 92), snow=False)
        canvas.fill(wavy_ground(0.88, 0.02, rng.uniform(0, 1)), (40, 26, 62))
        return {"over": "mountains"}
    canvas.fill(box(0, 0.6, 1, 1), (96, 70, 140))
    for row, (half, width) in enumerate(
        ((0.13, 0.022), (0.1, 0.02), (0.13, 0.02), (0.07, 0.018), (0.04, 0.016))
    ):
        line = 0.64 + 0.055 * row
        canvas.stroke(
            [(x - half, line), (x, line + 0.004), (x + half, line)], width, (255, 206, 120), taper=0.8
        )
    return {"over": "sea"}


def draw_sea(canvas: Canvas, rng: np.random.Generator) -> Facts:
    """The sea by day, usually with a sailboat."""
    draw_day_sky(canvas, rng)
    canvas.fill(box(0, 0.6, 1, 1), (40, 120, 186))
    canvas.fill(wavy_ground(0.74, 0.012, rng.uniform(0, 1), waves=3), (32, 104, 170))
    canvas.fill(wavy_ground(0.88, 0.014, rng.uniform(0, 1), waves=3), (238, 214, 158))
    if rng.random() < 0.3:
        return {}
    sail = _choose(rng, ("white", "red", "yellow"))
    x, size = float(rng.uniform(0.35, 0.65)), float(rng.uniform(0.9, 1.15))
    boat = canvas.placed(x, 0.68, size)
    boat.fill(box(-0.007, -0.33, 0.007, -0.03), palette.WOOD)
    boat.fill(smooth([(0.015, -0.32), (0.1, -0.18), (0.18, -0.06), (0.015, -0.065)]), COLORS[sail])
    boat.fill(
        smooth([(-0.015, -0.28), (-0.07, -0.16), (-0.13, -0.06), (-0.015, -0.065)]),
        darker(COLORS[sail], 0.14),
    )
    boat.fill([(-0.18, -0.04), (0.2, -0.04), (0.13, 0.05), (-0.12, 0.05)], palette.WOOD)
    boat.fill([(-0.18, -0.04), (0.2, -0.04), (0.185, -0.018), (-0.168, -0.018)], lighter(palette.WOOD, 0.4))
    return {"extra": "boat", "color": sail}


def draw_night(canvas: Canvas, rng: np.random.Generator) -> Facts:
    """A crescent moon and stars over dark hills."""
    top, low = (22, 26, 66), (66, 74, 138)
    canvas.gradient(top, low)
    x, y = float(rng.uniform(0.25, 0.75)), float(rng.uniform(0.2, 0.3))
    canvas.glow(x, y, 0.3, 0.3, (150, 160, 220), 0.5)
    # Two circles, radii 1 and 0.85, half a unit apart, cross at these angles.
    horns = np.concatenate([oval(0, 0, 1, 1, 0, 58.2, 301.8), oval(0.5, 0, 0.85, 0.85, 0, 88.1, 271.9)[::-1]])
    canvas.placed(x, y, 0.1, -25).fill(horns, (255, 242, 196))
    spots = rng.uniform((0.04, 0.04), (0.96, 0.5), (9, 2))
    for index, (star_x, star_y) in enumerate(spots):
        if np.hypot(star_x - x, star_y - y) > 0.16:
            size = 0.016 if index % 3 else 0.024
            points = oval(star_x, star_y, size, size)[::5] * 1.0
            points[1::2] = (points[1::2] - (star_x, star_y)) * 0.4 + (star_x, star_y)
            canvas.fill(points, (255, 246, 214))
    canvas.fill(wavy_ground(0.7, 0.06, rng.uniform(0, 1)), (44, 62, 96))
    canvas.fill(wavy_ground(0.84, 0.045, rng.uniform(0, 1)), (28, 42, 70))
    return {}


def draw_house(canvas: Canvas, rng: np.random.Generator) -> Facts:
    """A house with its door to one side, on grass."""
    draw_day_sky(canvas, rng, sun=False)
    canvas.fill(wavy_ground(0.72, 0.02, rng.uniform(0, 1)), lighter(palette.GRASS, 0.1))
    wall_name = _choose(rng, ("white", "red", "yellow", "blue", "pink"))
    roof_name = _choose(rng, tuple(name for name in ("red", "brown", "gray") if name != wall_name))
    wall, roof = COLORS[wall_name], darker(COLORS[roof_name], 0.12)
    left = -1.0 if rng.random() < 0.5 else 1.0
    house = canvas.placed(float(rng.uniform(0.44, 0.56)), 0.82, float(rng.uniform(0.92, 1.1)))
    if rng.random() < 0.6:
        draw_round_tree(house, left * 0.38, 0.0, 0.15, COLORS["green"])
    house.fill(box(0.1 * left - 0.04, -0.56, 0.1 * left + 0.04, -0.36), darker(COLORS["brown"], 0.2))
    house.fill(box(-0.26, -0.34, 0.26, 0.0), wall)
    house.blend(box(-0.26, -0.34, 0.26, -0.3), darker(wall, 0.4), 0.5)
    house.fill([(-0.33, -0.32), (-0.2, -0.56), (0.2, -0.56), (0.33, -0.32)], roof)
    house.fill([(-0.33, -0.32), (0.33, -0.32), (0.32, -0.345), (-0.32, -0.345)], darker(roof, 0.3))
    door = -0.14 * left
    house.fill(box(door - 0.055, -0.2, door + 0.055, 0.0), palette.WOOD)
    house.fill(oval(door + 0.032, -0.1, 0.01, 0.01), palette.GOLD)
    window = 0.1 * left
    house.fill(box(window - 0.095, -0.24, window + 0.095, -0.09), palette.WHITE)
    house.fill(box(window - 0.08, -0.225, window + 0.08, -0.105), (150, 206, 238))
    house.fill(box(window - 0.008, -0.225, window + 0.008, -0.105), palette.WHITE)
    house.fill(box(window - 0.08, -0.17, window + 0.08, -0.158), palette.WHITE)
    canvas.fill(wavy_ground(0.9, 0.012, rng.uniform(0, 1)), palette.GRASS)
    return {"color": wall_name, "roof": roof_name}


def draw_car(canvas: Canvas, rng: np.random.Generator) -> Facts:
    """A car from the side on a road: a low sports car or a small round one."""
    draw_day_sky(canvas, rng)
    canvas.fill(wavy_ground(0.58, 0.04, rng.uniform(0, 1)), palette.GRASS)
    canvas.fill(box(0, 0.7, 1, 1), (98, 102, 114))
    canvas.fill(box(0, 0.7, 1, 0.715), (206, 206, 204))
    for dash in range(5):
        canvas.fill(box(0.03 + 0.21 * dash, 0.885, 0.14 + 0.21 * dash, 0.905), (246, 240, 214))
    name = _choose(rng, ("red", "blue", "yellow", "green", "white", "black", "orange"))
    paint = COLORS[name]
    sporty = rng.random() < 0.5
    car = canvas.placed(float(rng.uniform(0.45, 0.55)), 0.79, float(rng.uniform(0.95, 1.12)))
    if sporty:
        body = smooth([(-0.38, -0.03), (-0.385, -0.1), (-0.33, -0.15), (-0.2, -0.175), (0.12, -0.16),
                       (0.3, -0.125),
                       (0.39, -0.075), (0.395, -0.01), (0.2, 0.01), (-0.25, 0.01)])  # fmt: skip
        cabin = smooth([(-0.25, -0.155), (-0.13, -0.25), (0.02, -0.262), (0.17, -0.155), (0.0, -0.14)])
        glass = [(-0.16, -0.165), (-0.09, -0.228), (0.005, -0.238), (0.11, -0.165)]
        post = box(-0.035, -0.25, -0.015, -0.16)
    else:
        body = smooth([(-0.36, -0.02), (-0.37, -0.12), (-0.31, -0.17), (-0.1, -0.18), (0.15, -0.18),
                       (0.32, -0.16),
                       (0.37, -0.1), (0.365, -0.01), (0.2, 0.01), (-0.2, 0.01)])  # fmt: skip
        cabin = smooth(
            [(-0.27, -0.16), (-0.2, -0.31), (0.0, -0.34), (0.16, -0.3), (0.24, -0.16), (0.0, -0.14)]
        )
        glass = [(-0.215, -0.175), (-0.165, -0.282), (0.125, -0.282), (0.185, -0.175)]
        post = box(-0.035, -0.33, -0.005, -0.17)
    car.blend(oval(0.0, 0.07, 0.4, 0.03), (40, 40, 52), 0.6, softness=0.012)
    car.fill(cabin, paint)
    car.fill(glass, (186, 222, 242))
    car.fill(post, paint)
    car.fill(body, paint)
    car.blend(box(-0.5, -0.05, 0.5, 0.05), darker(paint, 0.35), 0.7, body)
    car.blend(box(-0.5, -0.145, 0.5, -0.125), lighter(paint, 0.45), 0.7, body)
    car.fill(oval(0.355, -0.085, 0.022, 0.026), (255, 244, 186))
    car.stroke([(-0.08, -0.1), (-0.03, -0.1)], 0.014, darker(paint, 0.5))
    for wheel in (-0.225, 0.225):
        car.fill(oval(wheel, 0.01, 0.082, 0.082), (34, 34, 42))
        car.fill(oval(wheel, 0.01, 0.045, 0.045), (198, 200, 208))
        car.fill(oval(wheel, 0.01, 0.018, 0.018), (90, 92, 102))
    return {"color": name, "shape": "sports" if sporty else "small"}


def draw_apple(canvas: Canvas, rng: np.random.Generator) -> Facts:
    """One apple, on a table or against a plain background."""
    background = _choose(rng, _PLAIN)
    draw_plain(canvas, rng, background)
    name = _choose(rng, tuple(name for name in ("red", "green", "yellow") if name != background))
    color = COLORS[name]
    facts = {"color": name, "background": background}
    x, radius = float(rng.uniform(0.44, 0.56)), float(rng.uniform(0.22, 0.28))
    y = 0.56
    if rng.random() < 0.5:
        top = y + radius * 0.72
        canvas.fill(box(0, top, 1, 1), (176, 122, 80))
        canvas.fill(box(0, top, 1, top + 0.02), (204, 152, 106))
        facts["place"] = "table"
    apple = canvas.placed(x, y, radius)
    ground = darker(COLORS["brown"] if "place" in facts else COLORS[background], 0.3)
    apple.blend(oval(0.12, 0.94, 0.95, 0.14), ground, 0.75, softness=0.05)
    skin = smooth([(0.0, -0.72), (0.4, -0.88), (0.86, -0.66), (1.0, -0.1), (0.84, 0.5), (0.48, 0.95),
                   (0.0, 0.9),
                   (-0.48, 0.95), (-0.84, 0.5), (-1.0, -0.1), (-0.86, -0.66), (-0.4, -0.88)])  # fmt: skip
    apple.fill(skin, color)
    apple.blend(oval(0.75, 0.35, 0.55, 0.95, 15), darker(color, 0.35), 0.7, skin, softness=0.14)
    apple.blend(oval(0.0, -0.72, 0.28, 0.12), darker(color, 0.45), 0.8, skin, softness=0.03)
    apple.blend(oval(-0.55, -0.3, 0.15, 0.3, 22), lighter(color, 0.75), 0.85, skin, softness=0.03)
    apple.stroke([(0.0, -0.7), (0.03, -0.98), (0.12, -1.22)], 0.1, (98, 64, 42))
    leaf = smooth([(0.08, -1.0), (0.3, -1.26), (0.62, -1.28), (0.86, -1.12), (0.6, -0.98), (0.3, -0.94)])
    apple.fill(leaf, (88, 162, 72))
    apple.stroke([(0.1, -1.0), (0.42, -1.12), (0.8, -1.12)], 0.035, (58, 122, 56), taper=0.5)
    return facts


def draw_flower(canvas: Canvas, rng: np.random.Generator) -> Facts:
    """One flower with five petals against a plain background."""
    background = _choose(rng, ("white", "blue", "teal", "yellow", "gray", "pink"))
    draw_plain(canvas, rng, background)
    name = _choose(rng, tuple(name for name in _FLOWERS if name != background))
    petal = COLORS[name]
    x, y = float(rng.uniform(0.44, 0.56)), float(rng.uniform(0.34, 0.4))
    canvas.stroke([(x, y), (x + 0.02, 0.7), (x - 0.01, 1.02)], 0.032, (72, 142, 70))
    for side in (-1.0, 1.0):
        low = 0.86 if side < 0 else 0.78
        leaf = smooth(
            [
                (x, low),
                (x + side * 0.1, low - 0.09),
                (x + side * 0.22, low - 0.1),
                (x + side * 0.13, low - 0.01),
            ]
        )
        canvas.fill(leaf, (88, 164, 82))
    turn = float(rng.uniform(0, 72))
    for degrees in np.arange(5) * 72 + turn:
        dx, dy = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
        shape = oval(x + 0.135 * dx, y + 0.135 * dy, 0.115, 0.085, degrees)
        canvas.fill(shape, petal)
        canvas.blend(
            oval(x + 0.06 * dx, y + 0.06 * dy, 0.08, 0.04, degrees), darker(petal, 0.3), 0.6, shape, 0.012
        )
    heart = "brown" if name == "yellow" else "yellow"
    canvas.fill(oval(x, y, 0.075, 0.075), darker(COLORS[heart], 0.06))
    return {"color": name, "background": background}


def draw_tree(canvas: Canvas, rng: np.random.Generator) -> Facts:
    """One big tree on a meadow, green or in fall colors."""
    draw_day_sky(canvas, rng)
    canvas.fill(wavy_ground(0.76, 0.03, rng.uniform(0, 1)), palette.GRASS)
    name = _choose(rng, ("green", "green", "orange", "red", "pink"))
    draw_round_tree(canvas, float(rng.uniform(0.42, 0.58)), 0.86, float(rng.uniform(0.34, 0.4)), COLORS[name])
    return {"color": name}


def draw_empty(canvas: Canvas, rng: np.random.Generator) -> Facts:
    """Nothing but a background."""
    background = _choose(rng, palette.BACKGROUNDS)
    draw_plain(canvas, rng, background)
    return {"background": background}


SCENES: dict[str, Callable[[Canvas, np.random.Generator], Facts]] = {
    "hills": draw_hills, "mountains": draw_mountains, "sunset": draw_sunset, "sea": draw_sea,
    "night": draw_night,
    "house": draw_house, "car": draw_car, "apple": draw_apple, "flower": draw_flower, "tree": draw_tree,
    "empty": draw_empty,
}  # fmt: skip


def draw_plain(canvas: Canvas, rng: np.random.Generator, name: str) -> None:
    """A background of one named color: flat, lighter at the top, or with a light spot in the center."""
    color = COLORS[name]
    manner = int(rng.choice(3, p=(0.6, 0.2, 0.2)))
    canvas.gradient(
        lighter(color, 0.16) if manner == 1 else color, darker(color, 0.14) if manner == 1 else color
    )
    if manner == 2:
        canvas.glow(0.5, 0.45, 0.75, 0.75, lighter(color, 0.3), 0.8)


def draw_day_sky(canvas: Canvas, rng: np.random.Generator, sun: bool = True) -> None:
    """Blue sky with up to two clouds and, with `sun`, the sun in an upper corner."""
    canvas.gradient(palette.SKY_TOP, palette.SKY_LOW)
    side = float(rng.choice([-1.0, 1.0]))
    x, y = 0.5 + side * float(rng.uniform(0.24, 0.34)), float(rng.uniform(0.15, 0.22))
    if sun:
        canvas.glow(x, y, 0.24, 0.24, (255, 244, 190), 0.85)
        canvas.fill(oval(x, y, 0.085, 0.085), palette.SUN)
    for place in range(int(rng.integers(0, 3))):
        cloud = canvas.placed(
            0.5 - side * (0.28 - 0.3 * place), float(rng.uniform(0.12, 0.3)), float(rng.uniform(0.8, 1.1))
        )
        cloud.fill(oval(-0.07, 0.005, 0.06, 0.035), _CLOUD)
        cloud.fill(oval(0.0, -0.02, 0.07, 0.055), _CLOUD)
        cloud.fill(oval(0.08, 0.005, 0.06, 0.035), _CLOUD)


def wavy_ground(height: float, swing: float, phase: float, waves: int = 1) -> Points:
    """Everything below a wavy line at `height`."""
    x = np.linspace(-0.05, 1.05, 40)
    y = height + swing * np.sin(2 * np.pi * (waves * x + phase))
    return np.concatenate([np.stack([x, y], axis=1), [(1.05, 1.05), (-0.05, 1.05)]])


def _draw_range(
    canvas: Canvas, rng: np.random.Generator, foot: float, height: float, color: Color, snow: bool
) -> None:
    """A row of mountains with their base at `foot`; light comes from the left."""
    middles = np.array([0.08, 0.4, 0.72, 1.02]) + rng.uniform(-0.06, 0.06, 4)
    heights = height * rng.uniform(0.65, 1.0, 4)
    for index in (0, 3, 1, 2):
        x, top, half = middles[index], foot - heights[index], heights[index] * 0.85
        canvas.fill([(x, top), (x + half, foot), (x - half, foot)], color)
        canvas.fill([(x, top), (x + half, foot), (x + half * 0.12, foot),
                     (x - half * 0.06, top + (foot - top) * 0.5)],
                    darker(color, 0.22))  # fmt: skip
        if snow:
            line = [(x, top), (x + half * 0.3, top + (foot - top) * 0.3),
                    (x + half * 0.12, top + (foot - top) * 0.24),
                    (x, top + (foot - top) * 0.36), (x - half * 0.12, top + (foot - top) * 0.24),
                    (x - half * 0.3, top + (foot - top) * 0.3)]  # fmt: skip
            canvas.fill(line, (248, 250, 254))
    canvas.fill(box(-0.1, foot - 0.01, 1.1, 1.1), color)


def draw_round_tree(canvas: Canvas, x: float, foot: float, size: float, leaves: Color) -> None:
    """A tree with a round crown; `size` is about half its height."""
    tree = canvas.placed(x, foot, size)
    tree.fill(curve([(-0.1, -0.9), (-0.12, -0.3), (-0.2, 0.03)]).tolist() + curve(
        [(0.2, 0.03), (0.12, -0.3), (0.1, -0.9)]).tolist(), palette.WOOD)  # fmt: skip
    for dx, dy, radius in ((-0.42, -0.95, 0.42), (0.42, -0.95, 0.42), (0.0, -1.3, 0.55), (0.0, -0.9, 0.45)):
        tree.fill(oval(dx, dy, radius, radius * 0.92), leaves)
    tree.glow(0.46, -0.84, 0.4, 0.36, darker(leaves, 0.3), 0.55, oval(0.42, -0.95, 0.42, 0.39))
    tree.glow(-0.25, -1.5, 0.42, 0.34, lighter(leaves, 0.5), 0.7, oval(0.0, -1.3, 0.55, 0.5))
