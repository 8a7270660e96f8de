"""Where the squares of two faces overlap: each face keeps what is nearer to it.

The reference pastes one square over the other: the later face covers a part of the earlier one, which is then
neither as it was nor as it was restored.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from atelier_restorer.align import TEMPLATE

_SEAM_WIDTH = 0.25
"""Between two faces that overlap one fades into the other over so many distances of the eyes."""


class FaceCenter(NamedTuple):
    """Where a face is in the image: its center and the distance of its eyes, px."""

    x: float
    y: float
    eye_distance: float


class PastedFace(NamedTuple):
    """A face that is in the image already, and how much of each pixel of a rectangle it is there."""

    center: FaceCenter
    origin: tuple[int, int]
    """Left and top of the rectangle, px."""
    alpha: NDArray[np.uint8]
    """(h, w): its mask, with its visibility and its parts."""


def face_center(matrix: NDArray[np.float64]) -> FaceCenter:
    """Return the center of the face in an aligned crop; `matrix` is from `align.crop_to_picture`."""
    x, y = matrix[:, :2] @ TEMPLATE.mean(axis=0) + matrix[:, 2]
    eyes = matrix[:, :2] @ (TEMPLATE[1] - TEMPLATE[0])
    return FaceCenter(float(x), float(y), float(math.hypot(*eyes)))


def leave_to_neighbors(
    alpha: NDArray[np.uint8],
    origin: tuple[int, int],
    face: FaceCenter,
    neighbors: Sequence[PastedFace],
) -> None:
    """Take what belongs to neighbors out of a face's mask, in place, as far as they have covered it.

    Args:
        alpha: The mask, 8 bits (h, w).
        origin: Its left and top in the image, px.
        face: The face.
        neighbors: Faces that are not to be covered.
    """
    height, width = alpha.shape
    for other in neighbors:
        rows, columns = other.alpha.shape
        left, top = max(origin[0], other.origin[0]), max(origin[1], other.origin[1])
        right = min(origin[0] + width, other.origin[0] + columns)
        bottom = min(origin[1] + height, other.origin[1] + rows)
        if left >= right or top >= bottom:
            continue
        shared = alpha[top - origin[1] : bottom - origin[1], left - origin[0] : right - origin[0]]
        covered = other.alpha[
            top - other.origin[1] : bottom - other.origin[1], left - other.origin[0] : right - other.origin[0]
        ]
        if shared.any() and covered.any():
            lead = _distances(other.center, (left, top), shared.shape)
            lead -= _distances(face, (left, top), shared.shape)
            left_to_it = np.clip(0.5 - lead / _SEAM_WIDTH, 0, 1) * (covered / np.float32(255))
            shared[...] = np.rint(shared * (1 - left_to_it))


def _distances(face: FaceCenter, corner: tuple[int, int], shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Return how far each pixel of a rectangle (h, w) is from a face, in the distance of its eyes."""
    x = (np.arange(shape[1], dtype=np.float32) + (corner[0] - face.x)) / face.eye_distance
    y = (np.arange(shape[0], dtype=np.float32) + (corner[1] - face.y)) / face.eye_distance
    return np.asarray(np.sqrt(np.add.outer(y * y, x * x)), np.float32)
