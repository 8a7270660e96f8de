"""Cuts aligned crops of faces, in the pose that CodeFormer was trained on, and maps them back to the image.

A point (x, y) is the center of pixel (x, y): the top left pixel has its center at (0, 0).
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

CROP_SIZE = 512
"""Side of an aligned crop, px."""

# Eyes, nose tip and corners of the mouth of FFHQ's aligned faces at 512 px, in the detector's order.
TEMPLATE: NDArray[np.float64] = np.array(
    [
        (192.98138, 239.94708),
        (318.90277, 240.1936),
        (256.63416, 314.01935),
        (201.26117, 371.41043),
        (313.08905, 371.15118),
    ]
)
# Fills what is outside the image; a color close to skin disturbs the network less than black.
_BORDER_RGB = (132.0, 133.0, 135.0)

Landmarks = Sequence[tuple[float, float]]


def face_to_crop(landmarks: Landmarks) -> NDArray[np.float64]:
    """Return the similarity transform (2, 3) from the image to the aligned crop.

    Least median of squares: an outlier among the landmarks (a profile, a hand) does not rotate the face.

    Raises:
        ValueError: no transform fits, because the landmarks coincide or are not finite.
    """
    points = np.asarray(landmarks, dtype=np.float64)
    if points.shape != TEMPLATE.shape:
        raise ValueError(f"five landmarks (x, y) are required, not an array of shape {points.shape}")
    matrix = None
    if np.isfinite(points).all():
        matrix, _ = cv2.estimateAffinePartial2D(points, TEMPLATE, method=cv2.LMEDS)
    if matrix is None or not np.isfinite(matrix).all() or abs(np.linalg.det(matrix[:, :2])) < 1e-9:
        raise ValueError("no similarity transform fits the face's landmarks")
    return np.asarray(matrix, dtype=np.float64)


def cut_crop(rgb: NDArray[np.uint8], matrix: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Return the aligned crop (512, 512, 3) of an image; `matrix` is from `face_to_crop`."""
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
    """Return the similarity transform (2, 3) from the crop to the image upscaled `scale` times.

    Upscaling by s moves the center of pixel x to s * x + (s - 1) / 2. (The reference adds s / 2 instead and
    so pastes faces half a pixel too far right and down at every scale above 1.)
    """
    inverse = np.asarray(cv2.invertAffineTransform(matrix), dtype=np.float64)
    inverse *= scale
    inverse[:, 2] += (scale - 1) / 2
    return inverse


def sharpness(crop: NDArray[np.uint8]) -> float:
    """Return the variance of the Laplacian of an aligned crop in gray, in squared gray levels."""
    gray = cv2.cvtColor(crop, cv2.COLOR_RGB2GRAY)
    return float(cv2.Laplacian(gray, cv2.CV_32F).var())
