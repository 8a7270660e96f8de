"""What is behind people: mostly one named colour, sometimes a simple place."""

import numpy as np

from . import palette, scene
from .canvas import Canvas
from .person import Person
from .shapes import box

PLACES = ("hills", "sea", "sunset", "city")
_PLACE_SHARE = 0.09
_OFFICE = ("gray", "blue", "white", "teal", "black")
_MIN_CONTRAST = 110.0


def sample_backdrop(rng: np.random.Generator, people: tuple[Person, ...], office: bool) -> str:
    """Name of a place or of a colour that hair, clothes and skin of all people stand out from."""
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
    """Cover the canvas with a backdrop that `sample_backdrop` named."""
    if name == "hills":
        scene.draw_hills(canvas, rng)
    elif name == "sea":
        scene.draw_sea(canvas, rng)
    elif name == "sunset":
        scene.draw_sunset(canvas, rng)
    elif name == "city":
        _draw_city(canvas, rng)
    else:
        scene.draw_plain(canvas, rng, name)


def _draw_city(canvas: Canvas, rng: np.random.Generator) -> None:
    canvas.gradient((150, 196, 232), (224, 234, 240))
    tops = rng.uniform(0.18, 0.5, 6)
    for index, top in enumerate(tops):
        left = -0.02 + index * 0.175
        tone = ((116, 130, 158), (140, 154, 180), (98, 112, 144))[index % 3]
        canvas.fill(box(left, float(top), left + 0.165, 1.0), tone)
