"""What is behind people: usually a plain named color, sometimes a place."""

from collections.abc import Callable

import numpy as np

from . import palette, scene
from .canvas import Canvas
from .palette import COLORS, darker, lighter
from .person import Person
from .shapes import box, oval

_PLACE_SHARE = 0.15
_OFFICE = ("gray", "blue", "white", "teal", "black")
_MIN_CONTRAST = 110.0


def sample_backdrop(rng: np.random.Generator, people: tuple[Person, ...], office: bool) -> str:
    """Name of a place, or of a color that hair, clothes and skin of all people stand out from."""
    if not office and rng.random() < _PLACE_SHARE:
        return str(rng.choice(PLACES))
    seen = [palette.SKIN[person.skin] for person in people] + [
        palette.COLORS[person.shirt] for person in people
    ]
    seen += [palette.HAIR[person.hair_color] for person in people if person.hair_style != "bald"]
    seen += [palette.COLORS[person.hat_color] for person in people if person.hat_color]
    names = _OFFICE if office else palette.BACKGROUNDS
    contrast = {name: min(palette.distance(palette.COLORS[name], color) for color in seen) for name in names}
    clear = [name for name in names if contrast[name] >= _MIN_CONTRAST]
    return str(rng.choice(clear)) if clear else max(contrast, key=lambda name: contrast[name])


def draw_backdrop(canvas: Canvas, rng: np.random.Generator, name: str) -> None:
    """Cover the canvas with a backdrop named by `sample_backdrop`."""
    if name in PLACES:
        _PLACES[name](canvas, rng)
    else:
        scene.draw_plain(canvas, rng, name)


def _draw_city(canvas: Canvas, rng: np.random.Generator) -> None:
    canvas.gradient((150, 196, 232), (224, 234, 240))
    tops = rng.uniform(0.18, 0.5, 6)
    for index, top in enumerate(tops):
        left = -0.02 + index * 0.175
        tone = ((116, 130, 158), (140, 154, 180), (98, 112, 144))[index % 3]
        canvas.fill(box(left, float(top), left + 0.165, 1.0), tone)


def _draw_night_city(canvas: Canvas, rng: np.random.Generator) -> None:
    """Dark towers with lit windows under a violet sky."""
    canvas.gradient((26, 28, 72), (112, 82, 138))
    x, y = float(rng.uniform(0.1, 0.9)), float(rng.uniform(0.08, 0.16))
    canvas.glow(x, y, 0.2, 0.2, (170, 170, 224), 0.5)
    canvas.fill(oval(x, y, 0.05, 0.05), (252, 246, 214))
    for index, top in enumerate(rng.uniform(0.22, 0.52, 6)):
        left = -0.02 + index * 0.175
        tone = ((38, 42, 84), (50, 54, 100), (32, 34, 70))[index % 3]
        canvas.fill(box(left, float(top), left + 0.165, 1.0), tone)
        lit = rng.random((6, 3)) < 0.45
        for row, column in np.argwhere(lit):
            window_x, window_y = left + 0.022 + 0.046 * column, float(top) + 0.04 + 0.085 * row
            canvas.fill(box(window_x, window_y, window_x + 0.028, window_y + 0.045), (250, 214, 122))


def _draw_room(canvas: Canvas, rng: np.random.Generator) -> None:
    """A wall with a window that shows the sky, and a shelf or a picture of hills."""
    wall = ((232, 214, 186), (206, 220, 214), (222, 206, 214))[int(rng.integers(3))]
    canvas.gradient(lighter(wall, 0.15), darker(wall, 0.08))
    side = float(rng.choice([-1.0, 1.0]))
    window = canvas.placed(0.5 + side * 0.29, 0.3, 1.0)
    window.fill(box(-0.18, -0.22, 0.18, 0.24), (250, 248, 242))
    window.fill(box(-0.155, -0.195, 0.155, 0.215), (162, 212, 242))
    window.fill(box(-0.155, 0.1, 0.155, 0.215), (138, 192, 112))
    window.fill(box(-0.012, -0.195, 0.012, 0.215), (250, 248, 242))
    window.fill(box(-0.155, 0.0, 0.155, 0.024), (250, 248, 242))
    curtain = COLORS[("red", "teal", "orange", "purple")[int(rng.integers(4))]]
    for end in (-1.0, 1.0):
        window.fill([(end * 0.22, -0.25), (end * 0.11, -0.25), (end * 0.15, 0.05), (end * 0.2, 0.3),
                     (end * 0.24, 0.3)], curtain)  # fmt: skip
        window.stroke([(end * 0.18, -0.24), (end * 0.19, 0.28)], 0.012, darker(curtain, 0.3))
    window.fill(box(-0.26, -0.265, 0.26, -0.245), palette.WOOD)
    if rng.random() < 0.5:
        shelf = canvas.placed(0.5 - side * 0.33, 0.3, 1.0)
        shelf.fill(box(-0.15, 0.0, 0.15, 0.025), palette.WOOD)
        for book, (left, high) in enumerate(((-0.13, 0.13), (-0.085, 0.15), (-0.04, 0.11), (0.005, 0.14))):
            color = COLORS[("red", "navy", "green", "yellow")[book]]
            shelf.fill(box(left, -high, left + 0.036, 0.0), color)
    else:
        frame = canvas.placed(0.5 - side * 0.33, 0.26, 1.0)
        frame.fill(box(-0.12, -0.1, 0.12, 0.1), palette.WOOD)
        frame.fill(box(-0.1, -0.08, 0.1, 0.08), (190, 222, 240))
        frame.fill([(-0.1, 0.08), (-0.03, -0.03), (0.03, 0.03), (0.06, 0.0), (0.1, 0.08)], (116, 148, 128))


def _draw_garden(canvas: Canvas, rng: np.random.Generator) -> None:
    """A hedge with flowers, a lawn and a tree under a blue sky."""
    scene.draw_day_sky(canvas, rng, sun=False)
    side = float(rng.choice([-1.0, 1.0]))
    scene.draw_round_tree(canvas, 0.5 + side * 0.36, 0.62, 0.26, COLORS["green"])
    hedge = (70, 138, 78)
    for x in np.linspace(0.0, 1.0, 7):
        canvas.fill(oval(float(x), 0.6, 0.11, 0.09), hedge)
    canvas.fill(box(0, 0.6, 1, 0.76), hedge)
    canvas.fill(box(0, 0.74, 1, 1), lighter(palette.GRASS, 0.12))
    for index, (x, y) in enumerate(rng.uniform((0.02, 0.55), (0.98, 0.72), (16, 2))):
        color = COLORS[("red", "pink", "yellow", "white")[index % 4]]
        canvas.fill(oval(float(x), float(y), 0.017, 0.017), color)
        canvas.fill(oval(float(x), float(y), 0.006, 0.006), palette.SUN)


_PLACES: dict[str, Callable[[Canvas, np.random.Generator], object]] = {
    "hills": scene.draw_hills,
    "sea": scene.draw_sea,
    "sunset": scene.draw_sunset,
    "city": _draw_city,
    "mountains": scene.draw_mountains,
    "night city": _draw_night_city,
    "room": _draw_room,
    "garden": _draw_garden,
}
PLACES = tuple(_PLACES)
OUTDOORS = ("hills", "sea", "garden", "mountains")
"""Places with ground to stand on."""
