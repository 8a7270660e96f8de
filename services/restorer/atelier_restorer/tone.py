"""Take the difference of tone along a crop's border off a restored face, so that no box shows in the picture.

A network seldom gives the surroundings of a face the very tone that they had. Pasted, that is a square
lighter or darker than what is around it, however soft its edge. Along the border the crop before tells what
the tone ought to be.
"""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from atelier_restorer.align import CROP_SIZE
from atelier_runtime.images import RgbArray

# The reference's feather: the mask rises from 0 at the border to 1 here. See `paste.py`.
_FEATHER_PX = 52
# In which nothing is changed: the face between the brows, the cheeks and the chin of `align.TEMPLATE`.
_FACE_MIDDLE_PX = (256, 280)
_FACE_HALF_AXES_PX = (125, 150)

# The tone is smooth, so it is looked at in cells of so many px.
_CELL_PX = 8
_CELLS = CROP_SIZE // _CELL_PX
_NEAR_CELLS = 2.0  # how far along the border tones are averaged (sigma)
# Far from the border, or where it lies outside of the picture, there is only the tone of a wider average.
_FAR_CELLS = 12.0
_FAR_SHARE = 0.01


class _Grid(NamedTuple):
    """The cells of a crop, (64, 64) each."""

    x: NDArray[np.float32]
    """Their middles, px of the crop."""
    y: NDArray[np.float32]
    border: NDArray[np.float32]
    """How much each tells of the tone along the border, 0 to 1: what the feather shows of it."""
    share: NDArray[np.float32]
    """How much of the difference is taken off, 0 to 1: all in the feather, nothing in the face."""


def match_tone(
    restored: RgbArray, crop: RgbArray, matrix: NDArray[np.float64], width: int, height: int
) -> RgbArray:
    """Return a restored face (512, 512, 3) whose tone along the border is that of its crop before.

    The mean difference of nearby places in the feather is taken off each channel there, and less and less of
    it towards the face, whose middle, an ellipse of 250 x 300 px, keeps every pixel. A network that changes
    nothing along the border is not corrected at all.

    Args:
        restored: What the network made of the crop.
        crop: The crop before.
        matrix: Picture to crop, from `align.face_to_crop`. Beyond the picture a crop holds filling, which
            tells nothing, and there is no border that could show.
        width: The picture's, px.
        height: The picture's, px.
    """
    grid = _grid()
    border = grid.border * _inside(matrix, grid, width, height)
    difference = cv2.subtract(restored, crop, dtype=cv2.CV_32F)
    cells = cv2.resize(difference, (_CELLS, _CELLS), interpolation=cv2.INTER_AREA)
    weight = np.maximum(_spread(border), np.finfo(np.float32).tiny)
    tone = _spread(cells * border[..., None]) / weight[..., None]
    tone *= grid.share[..., None]
    taken = cv2.resize(tone, (CROP_SIZE, CROP_SIZE), interpolation=cv2.INTER_LINEAR)
    return np.asarray(cv2.subtract(restored, taken, dtype=cv2.CV_8U), np.uint8)  # rounded, within 0 to 255


@cache
def _grid() -> _Grid:
    middles = np.arange(_CELLS, dtype=np.float32) * _CELL_PX + (_CELL_PX - 1) / 2
    x, y = np.meshgrid(middles, middles)
    from_border = np.minimum(np.minimum(x, CROP_SIZE - 1 - x), np.minimum(y, CROP_SIZE - 1 - y))
    (middle_x, middle_y), (half_x, half_y) = _FACE_MIDDLE_PX, _FACE_HALF_AXES_PX
    radius = np.hypot((x - middle_x) / half_x, (y - middle_y) / half_y)  # 1 on the ellipse
    from_face = np.maximum(radius - 1, 0) * min(half_x, half_y)
    from_feather = np.maximum(from_border - _FEATHER_PX, 0)
    # 0 on the ellipse, 1 at the feather; where both are far the way between them is long and even.
    way = np.divide(from_face, from_face + from_feather, out=np.ones_like(x), where=from_feather > 0)
    border = np.where(from_border < _FEATHER_PX, from_border / _FEATHER_PX, 0)
    return _Grid(x, y, border.astype(np.float32), (way * way * (3 - 2 * way)).astype(np.float32))


def _inside(matrix: NDArray[np.float64], grid: _Grid, width: int, height: int) -> NDArray[np.bool_]:
    """Tell which cells (64, 64) lie in the picture with all of their pixels."""
    (a, b, c), (d, e, f) = cv2.invertAffineTransform(matrix)
    x, y = a * grid.x + b * grid.y + c, d * grid.x + e * grid.y + f
    reach = (abs(a) + abs(b)) * _CELL_PX / 2
    inside = (x >= reach) & (x <= width - 1 - reach) & (y >= reach) & (y <= height - 1 - reach)
    return np.asarray(inside, np.bool_)


def _spread(cells: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return cells (64, 64, ...) summed over their neighbourhood, 0 beyond the crop."""
    near, far = (
        cv2.GaussianBlur(cells, (0, 0), sigma, borderType=cv2.BORDER_CONSTANT)
        for sigma in (_NEAR_CELLS, _FAR_CELLS)
    )
    return np.asarray(near + _FAR_SHARE * far, np.float32)
