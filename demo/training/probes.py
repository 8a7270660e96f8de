"""Reads colours off a picture: of the background beside a head, and of the hair on top of it."""

import numpy as np
from numpy.typing import NDArray

from drawing import palette

_DIFFERENT = 70.0  # distance of colours at which a pixel no longer belongs to the background


def _median(pixels: NDArray[np.uint8]) -> palette.Color:
    red, green, blue = (round(float(v)) for v in np.median(pixels.reshape(-1, 3), axis=0))
    return red, green, blue


def background_color(picture: NDArray[np.uint8]) -> palette.Color:
    """The colour (RGB) at the left and right edge in the upper part of a picture (H, W, 3)."""
    height, width = picture.shape[:2]
    rows = slice(round(0.05 * height), round(0.4 * height))
    edge, inner = round(0.02 * width), round(0.1 * width)
    sides = (picture[rows, edge:inner], picture[rows, width - inner : width - edge])
    return _median(np.concatenate([side.reshape(-1, 3) for side in sides]))


def hair_color(picture: NDArray[np.uint8]) -> palette.Color | None:
    """The colour just below the top of the head, or None if nothing stands out from the background.

    The middle columns are followed downwards until they leave the background's colour for good.
    """
    height, width = picture.shape[:2]
    wall = background_color(picture)
    middle = picture[:, round(0.44 * width) : round(0.56 * width)]
    rows = [_median(row) for row in middle[: round(0.7 * height)]]
    foreign = np.array([palette.distance(row, wall) > _DIFFERENT for row in rows])
    run = max(2, round(0.04 * height))
    for top in range(len(rows) - run):
        if foreign[top : top + run].all():
            low, high = top + round(0.02 * height), top + round(0.065 * height)
            return _median(middle[low : max(high, low + 1)])
    return None


def nearest(color: palette.Color | None, names: dict[str, palette.Color]) -> str | None:
    """The name of the nearest of some colours."""
    return None if color is None else palette.nearest_name(color, names)


def background_name(picture: NDArray[np.uint8]) -> str | None:
    """The background's colour by name."""
    return nearest(background_color(picture), {name: palette.COLORS[name] for name in palette.BACKGROUNDS})


def hair_name(picture: NDArray[np.uint8]) -> str | None:
    """The hair's colour by name."""
    return nearest(hair_color(picture), dict(palette.HAIR))
