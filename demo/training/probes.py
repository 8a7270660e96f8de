"""Samples colors from an image: of the background next to a head, and of the hair on top of it."""

import numpy as np
from numpy.typing import NDArray

from drawing import palette

_DIFFERENT = 70.0  # color distance at which a pixel no longer belongs to the background


def _median(pixels: NDArray[np.uint8]) -> palette.Color:
    red, green, blue = (round(float(v)) for v in np.median(pixels.reshape(-1, 3), axis=0))
    return red, green, blue


def background_color(image: NDArray[np.uint8]) -> palette.Color:
    """The color (RGB) at the left and right edge of the upper part of an image (H, W, 3)."""
    height, width = image.shape[:2]
    rows = slice(round(0.05 * height), round(0.4 * height))
    edge, inner = round(0.02 * width), round(0.1 * width)
    sides = (image[rows, edge:inner], image[rows, width - inner : width - edge])
    return _median(np.concatenate([side.reshape(-1, 3) for side in sides]))


def hair_color(image: NDArray[np.uint8]) -> palette.Color | None:
    """The color just below the top of the head, or None if nothing stands out from the background.

    The center columns are scanned downward until they leave the background's color for good.
    """
    height, width = image.shape[:2]
    wall = background_color(image)
    middle = image[:, round(0.44 * width) : round(0.56 * width)]
    rows = [_median(row) for row in middle[: round(0.7 * height)]]
    foreground = np.array([palette.distance(row, wall) > _DIFFERENT for row in rows])
    run = max(2, round(0.04 * height))
    for top in range(len(rows) - run):
        if foreground[top : top + run].all():
            low, high = top + round(0.02 * height), top + round(0.065 * height)
            return _median(middle[low : max(high, low + 1)])
    return None


def nearest(color: palette.Color | None, names: dict[str, palette.Color]) -> str | None:
    """The name of the nearest of some colors."""
    return None if color is None else palette.nearest_name(color, names)


def background_name(image: NDArray[np.uint8]) -> str | None:
    """The name of the background's color."""
    return nearest(background_color(image), {name: palette.COLORS[name] for name in palette.BACKGROUNDS})


def hair_name(image: NDArray[np.uint8]) -> str | None:
    """The name of the hair's color."""
    return nearest(hair_color(image), dict(palette.HAIR))
