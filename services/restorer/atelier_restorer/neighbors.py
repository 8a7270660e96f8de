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

from atelier_restorer.align import CROP_SIZE, TEMPLATE

_SEAM_WIDTH = 0.25
"""Between two faces that overlap one fades into the other over so many distances of the eyes."""

_REACH = math.dist((0, 0), (CROP_SIZE, CROP_SIZE)) / 2 / math.dist(TEMPLATE[0], TEMPLATE[1]) + 0.5
"""How far from its center a face's square may reach, in the distance of its eyes, and a little further."""


class FaceCenter(NamedTuple):
    """Where a face is in the image: its center and the distance of its eyes, px."""

    x: float
    y: float
    eye_distance: float


def face_center(matrix: NDArray[np.float64]) -> FaceCenter:
    """Return the center of the face in an aligned crop; `matrix` is from `align.crop_to_picture`."""
    x, y = matrix[:, :2] @ TEMPLATE.mean(axis=0) + matrix[:, 2]
    eyes = matrix[:, :2] @ (TEMPLATE[1] - TEMPLATE[0])
    return FaceCenter(float(x), float(y), float(math.hypot(*eyes)))


def leave_to_neighbors(
    alpha: NDArray[np.uint8],
    origin: tuple[int, int],
    face: FaceCenter,
    neighbors: Sequence[FaceCenter],
) -> None:
    """Take what belongs to neighbors out of a face's mask, in place.

    Args:
        alpha: The mask, 8 bits (h, w).
        origin: Its left and top in the image, px.
        face: The face.
        neighbors: Faces that are not to be covered.
    """
    height, width = alpha.shape
    for other in neighbors:
        # Beyond this both squares end, and the face is nearer wherever its own has not ended.
        reach = _REACH * other.eye_distance
        left, right = (round(min(max(other.x + side - origin[0], 0), width)) for side in (-reach, reach))
        top, bottom = (round(min(max(other.y + side - origin[1], 0), height)) for side in (-reach, reach))
        shared = alpha[top:bottom, left:right]
        if shared.any():
            corner = (origin[0] + left, origin[1] + top)
            lead = _distances(other, corner, shared.shape) - _distances(face, corner, shared.shape)
            weight = np.clip(lead / _SEAM_WIDTH + 0.5, 0, 1)
            shared[...] = np.rint(shared * weight)


def _distances(face: FaceCenter, corner: tuple[int, int], shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Return how far each pixel of a rectangle (h, w) is from a face, in the distance of its eyes."""
    x = (np.arange(shape[1], dtype=np.float32) + (corner[0] - face.x)) / face.eye_distance
    y = (np.arange(shape[0], dtype=np.float32) + (corner[1] - face.y)) / face.eye_distance
    return np.asarray(np.sqrt(np.add.outer(y * y, x * x)), np.float32)
