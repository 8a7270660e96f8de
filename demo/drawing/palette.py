"""Every color of the drawings, by the word that captions use for it."""

from collections.abc import Mapping

import numpy as np

Color = tuple[int, int, int]

COLORS: dict[str, Color] = {
    "red": (208, 60, 56),
    "orange": (240, 144, 60),
    "yellow": (248, 208, 84),
    "green": (90, 164, 94),
    "teal": (48, 154, 154),
    "blue": (72, 132, 212),
    "purple": (136, 92, 184),
    "pink": (244, 160, 186),
    "white": (244, 243, 238),
    "gray": (158, 163, 171),
    "black": (46, 46, 54),
    "brown": (136, 92, 62),
    "navy": (42, 58, 110),
}
BACKGROUNDS = ("red", "orange", "yellow", "green", "teal", "blue", "purple", "pink", "white", "gray", "black")
CLOTHES = tuple(COLORS)
SUITS = ("black", "navy", "gray", "brown")

HAIR: dict[str, Color] = {
    "black": (42, 36, 42),
    "brown": (110, 68, 42),
    "blond": (236, 196, 104),
    "red": (192, 76, 36),
    "gray": (152, 152, 160),
    "white": (236, 233, 228),
    "blue": (70, 108, 200),
    "pink": (236, 118, 164),
}
SKIN: dict[str, Color] = {
    "pale": (255, 226, 204),
    "light": (248, 210, 180),
    "tan": (230, 180, 140),
    "olive": (208, 156, 112),
    "brown": (164, 112, 78),
    "dark": (120, 80, 58),
}
EYES: dict[str, Color] = {
    "blue": (62, 112, 184),
    "green": (66, 128, 82),
    "brown": (110, 70, 42),
    "dark": (58, 44, 40),
}

INK: Color = (40, 28, 34)
WHITE: Color = (255, 255, 255)
GRASS: Color = (112, 176, 88)
SKY_TOP: Color = (104, 172, 234)
SKY_LOW: Color = (208, 232, 246)
SUN: Color = (255, 214, 82)
WOOD: Color = (118, 78, 52)
GOLD: Color = (246, 204, 84)


def mix(first: Color, second: Color, amount: float) -> Color:
    """Color `amount` of the way from `first` (0) to `second` (1)."""
    red, green, blue = (round(a + (b - a) * amount) for a, b in zip(first, second, strict=True))
    return red, green, blue


def darker(color: Color, amount: float) -> Color:
    """`color` moved toward a cool dark violet, so that shadows are never plain gray."""
    return mix(color, (38, 24, 52), amount)


def lighter(color: Color, amount: float) -> Color:
    """`color` moved toward a warm white."""
    return mix(color, (255, 250, 236), amount)


def distance(first: Color, second: Color) -> float:
    """Perceived distance of two RGB colors, about 0 (same) to 765 (black and white).

    The "redmean" weighting: Euclidean RGB with channel weights that depend on the mean red.
    """
    mean_red = (first[0] + second[0]) / 2
    red, green, blue = (float(a) - float(b) for a, b in zip(first, second, strict=True))
    return float(
        np.sqrt((2 + mean_red / 256) * red**2 + 4 * green**2 + (2 + (255 - mean_red) / 256) * blue**2)
    )


def nearest_name(color: Color, table: Mapping[str, Color]) -> str:
    """Name of the color in `table` that is nearest to `color`."""
    return min(table, key=lambda name: distance(color, table[name]))
