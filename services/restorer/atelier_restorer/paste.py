"""Put restored crops back where they came from, with soft edges, touching nothing else."""

from __future__ import annotations

import math

import cv2
import numpy as np
from numpy.typing import NDArray

from atelier_restorer.align import CROP_SIZE

_MARGIN_PX = 2  # what linear interpolation may reach beyond the square's corners


def paste_face(
    picture: NDArray[np.uint8],
    mask: NDArray[np.uint8],
    crop: NDArray[np.uint8],
    matrix: NDArray[np.float64],
    scale: int,
    visibility: float = 1.0,
) -> None:
    """Blend an aligned ``crop`` (512, 512, 3) into ``picture`` (H, W, 3), in place.

    The blend uses the face's own 8-bit mask, ``visibility`` (0 to 1) times its soft square; a pixel whose
    mask is 0 keeps its value exactly. That mask is added to ``mask`` (H, W) as one more translucent layer.
    Work and memory grow with the face's rectangle, not with the picture. A face may lie half or wholly
    outside.

    Args:
        picture: The picture, enlarged ``scale`` times already.
        mask: What was changed so far.
        crop: The restored face.
        matrix: Crop to picture, from :func:`atelier_restorer.align.crop_to_picture`.
        scale: 1, 2 or 4; the rim that is cut off the square grows with it.
        visibility: Share of the restored face in the blend.
    """
    area = _rectangle(matrix, picture.shape[1], picture.shape[0])
    if area is None:
        return
    left, top, right, bottom = area
    size = (right - left, bottom - top)
    local = matrix.copy()
    local[:, 2] -= (left, top)
    soft = _soft_square(local, size, scale)
    alpha = np.rint(soft * (255.0 * visibility)).astype(np.uint8)
    face = cv2.warpAffine(crop, local, size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)

    target = picture[top:bottom, left:right]
    share = alpha[..., None].astype(np.float32) / 255.0
    blended = target + share * (face.astype(np.float32) - target)
    target[...] = np.rint(blended).astype(np.uint8)
    layer = mask[top:bottom, left:right]
    rest = (255 - layer.astype(np.uint16)) * (255 - alpha.astype(np.uint16)) // 255
    layer[...] = (255 - rest).astype(np.uint8)


def _rectangle(matrix: NDArray[np.float64], width: int, height: int) -> tuple[int, int, int, int] | None:
    """Return left, top, right, bottom of the crop's square within the picture, None if it is outside."""
    end = CROP_SIZE - 1
    corners = matrix @ np.array([(0, end, end, 0), (0, 0, end, end), (1, 1, 1, 1)], dtype=np.float64)
    low = np.floor(corners.min(axis=1)) - _MARGIN_PX
    high = np.ceil(corners.max(axis=1)) + _MARGIN_PX + 1
    left, top = (int(max(0, value)) for value in low)
    right, bottom = int(min(width, high[0])), int(min(height, high[1]))
    if left >= right or top >= bottom:
        return None
    return left, top, right, bottom


def _soft_square(matrix: NDArray[np.float64], size: tuple[int, int], scale: int) -> NDArray[np.float32]:
    """Return the crop's square as a mask 0 to 1 whose rim is cut and then feathered.

    The widths are the reference's: 2 px an enlargement off the rim, then a feather of a twentieth of the
    square's visible side. Beyond the picture's edge nothing is cut: a face that runs out stays whole there.
    """
    ones = np.ones((CROP_SIZE, CROP_SIZE), np.float32)
    square = cv2.warpAffine(ones, matrix, size, flags=cv2.INTER_LINEAR)
    square = cv2.erode(square, np.ones((2 * scale, 2 * scale), np.uint8))
    edge = int(math.sqrt(float(square.sum(dtype=np.float64)))) // 20
    if edge == 0:  # a face of under 20 px: nothing to feather
        return np.asarray(square, dtype=np.float32)
    inner = cv2.erode(square, np.ones((2 * edge, 2 * edge), np.uint8))
    soft = cv2.GaussianBlur(inner, (2 * edge + 1, 2 * edge + 1), 0)
    return np.asarray(soft * square, dtype=np.float32)
