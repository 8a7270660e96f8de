"""Matches the tone of a restored face to its surroundings, so that no box shows in the image.

A network rarely reproduces the exact tone around a face. Pasted back, the crop shows as a square lighter or
darker than its surroundings, however soft its edge. Along the border, the original crop shows what the tone
should be.
"""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from atelier_restorer.align import CROP_SIZE
from atelier_runtime.images import RgbArray

# The reference's feather: the mask rises from 0 at the border to 1 at this distance. See `paste.py`.
_FEATHER_PX = 52
# The ellipse in which nothing changes: the face between brows, cheeks and chin of `align.TEMPLATE`.
_FACE_CENTER_PX = (256, 280)
_FACE_HALF_AXES_PX = (125, 150)

# Tone is smooth, so it is measured in cells of this size.
_CELL_PX = 8
_CELLS = CROP_SIZE // _CELL_PX
_NEAR_CELLS = 2.0  # sigma of the average along the border
# Far from the border, or where it is outside the image, only a wider average has any tone.
_FAR_CELLS = 12.0
_FAR_WEIGHT = 0.01


class _Grid(NamedTuple):
    """The cells of a crop, (64, 64) each."""

    x: NDArray[np.float32]
    """Their centers, in px of the crop."""
    y: NDArray[np.float32]
    border: NDArray[np.float32]
    """Weight of each in the tone along the border, 0 to 1: its opacity in the feather, 0 farther inside."""
    strength: NDArray[np.float32]
    """Fraction of the difference that is subtracted, 0 to 1: all of it in the feather, none in the face."""


def match_tone(
    restored: RgbArray, crop: RgbArray, matrix: NDArray[np.float64], width: int, height: int
) -> RgbArray:
    """Return a restored face (512, 512, 3) that has the tone of its original crop along the border.

    In the feather, the mean difference nearby is subtracted from each channel. The correction fades out
    toward the face, whose center, an ellipse of 250 x 300 px, keeps every pixel. A network that changes
    nothing along the border is not corrected at all.

    Args:
        restored: The network's output for the crop.
        crop: The original crop.
        matrix: Image to crop, from `align.face_to_crop`. Outside the image a crop contains filling, which has
            no tone to match, and there is no border that could show.
        width: Width of the image, px.
        height: Height of the image, px.
    """
    grid = _grid()
    border = grid.border * _inside(matrix, grid, width, height)
    difference = cv2.subtract(restored, crop, dtype=cv2.CV_32F)
    cells = cv2.resize(difference, (_CELLS, _CELLS), interpolation=cv2.INTER_AREA)
    weight = np.maximum(_sum_nearby(border), np.finfo(np.float32).tiny)
    tone = _sum_nearby(cells * border[..., None]) / weight[..., None]
    tone *= grid.strength[..., None]
    correction = cv2.resize(tone, (CROP_SIZE, CROP_SIZE), interpolation=cv2.INTER_LINEAR)
    return np.asarray(
        cv2.subtract(restored, correction, dtype=cv2.CV_8U), np.uint8
    )  # rounded, within 0 to 255


@cache
def _grid() -> _Grid:
    centers = np.arange(_CELLS, dtype=np.float32) * _CELL_PX + (_CELL_PX - 1) / 2
    x, y = np.meshgrid(centers, centers)
    from_border = np.minimum(np.minimum(x, CROP_SIZE - 1 - x), np.minimum(y, CROP_SIZE - 1 - y))
    (center_x, center_y), (half_x, half_y) = _FACE_CENTER_PX, _FACE_HALF_AXES_PX
    radius = np.hypot((x - center_x) / half_x, (y - center_y) / half_y)  # 1 on the ellipse
    from_face = np.maximum(radius - 1, 0) * min(half_x, half_y)
    from_feather = np.maximum(from_border - _FEATHER_PX, 0)
    # 0 on the ellipse, 1 at the feather; the farther they are apart, the more gradual the fade between them.
    fade = np.divide(from_face, from_face + from_feather, out=np.ones_like(x), where=from_feather > 0)
    border = np.where(from_border < _FEATHER_PX, from_border / _FEATHER_PX, 0)
    return _Grid(x, y, border.astype(np.float32), (fade * fade * (3 - 2 * fade)).astype(np.float32))


def _inside(matrix: NDArray[np.float64], grid: _Grid, width: int, height: int) -> NDArray[np.bool_]:
    """Return which cells (64, 64) are inside the image with all of their pixels."""
    (a, b, c), (d, e, f) = cv2.invertAffineTransform(matrix)
    x, y = a * grid.x + b * grid.y + c, d * grid.x + e * grid.y + f
    reach = (abs(a) + abs(b)) * _CELL_PX / 2
    inside = (x >= reach) & (x <= width - 1 - reach) & (y >= reach) & (y <= height - 1 - reach)
    return np.asarray(inside, np.bool_)


def _sum_nearby(cells: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return cells (64, 64, ...) summed over their neighborhood, 0 beyond the crop."""
    near, far = (
        cv2.GaussianBlur(cells, (0, 0), sigma, borderType=cv2.BORDER_CONSTANT)
        for sigma in (_NEAR_CELLS, _FAR_CELLS)
    )
    return np.asarray(near + _FAR_WEIGHT * far, np.float32)
