"""Cut faces out of a picture in the pose that CodeFormer knows, and say where they belong.

A point (x, y) means the centre of pixel (x, y): the top left pixel has its centre at (0, 0).
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

CROP_SIZE = 512
"""Side of an aligned crop, px."""

# Where FFHQ's aligned 512 px faces have eyes, nose tip and corners of the mouth; the order is the detector's.
TEMPLATE: NDArray[np.float64] = np.array(
    [
        (192.98138, 239.94708),
        (318.90277, 240.1936),
        (256.63416, 314.01935),
        (201.26117, 371.41043),
        (313.08905, 371.15118),
    ]
)
# Fills what lies outside the picture; a colour near skin disturbs the network less than black.
_BORDER_RGB = (132.0, 133.0, 135.0)

Landmarks = Sequence[tuple[float, float]]


def face_to_crop(landmarks: Landmarks) -> NDArray[np.float64]:
    """Return the (2, 3) similarity that takes points of the picture to points of the aligned crop.

    Least median of squares: one landmark that is off (a profile, a hand) does not turn the whole face.

    Raises:
        ValueError: the landmarks coincide or are not finite, no similarity fits them.
    """
    points = np.asarray(landmarks, dtype=np.float64)
    if points.shape != TEMPLATE.shape:
        raise ValueError(f"five landmarks (x, y) are needed, not an array of shape {points.shape}")
    matrix = None
    if np.isfinite(points).all():
        matrix, _ = cv2.estimateAffinePartial2D(points, TEMPLATE, method=cv2.LMEDS)
    if matrix is None or not np.isfinite(matrix).all() or abs(np.linalg.det(matrix[:, :2])) < 1e-9:
        raise ValueError("no position fits the face's landmarks")
    return np.asarray(matrix, dtype=np.float64)


def cut_crop(rgb: NDArray[np.uint8], matrix: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Return the aligned crop (512, 512, 3) of a picture; ``matrix`` is from :func:`face_to_crop`."""
    crop = cv2.warpAffine(
        rgb,
        matrix,
        (CROP_SIZE, CROP_SIZE),
        flags=cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_CONSTANT,
        borderValue=_BORDER_RGB,
    )
    return np.asarray(crop, dtype=np.uint8)


def crop_to_picture(matrix: NDArray[np.float64], scale: int) -> NDArray[np.float64]:
    """Return the (2, 3) similarity from the crop to the picture enlarged ``scale`` times.

    Enlarging by s moves the centre of pixel x to s * x + (s - 1) / 2. (The reference adds s / 2 instead and
    so pastes faces half a pixel too far right and down at every scale above 1.)
    """
    inverse = np.asarray(cv2.invertAffineTransform(matrix), dtype=np.float64)
    inverse *= scale
    inverse[:, 2] += (scale - 1) / 2
    return inverse


def sharpness(crop: NDArray[np.uint8]) -> float:
    """Return the variance of the Laplacian of an aligned crop's gray version, squared grey levels."""
    gray = cv2.cvtColor(crop, cv2.COLOR_RGB2GRAY)
    return float(cv2.Laplacian(gray, cv2.CV_32F).var())
