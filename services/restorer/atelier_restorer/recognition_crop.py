"""Crops for face recognition, cut from the aligned crops that faces are restored in.

Networks of face recognition see a face at 112 px, with its landmarks on ArcFace's template (Deng et al. 2018,
arXiv:1801.07698; the points are those of insightface and of OpenCV's FaceRecognizerSF). An aligned crop has
its landmarks on FFHQ's template, so that one similarity transform leads from any such crop to the other.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from atelier_restorer.align import TEMPLATE

SIDE = 112
"""Side of a crop for face recognition, px."""

# Eyes, nose tip and corners of the mouth, in the order of `align.TEMPLATE`.
ARCFACE_TEMPLATE: NDArray[np.float64] = np.array(
    [(38.2946, 51.6963), (73.5318, 51.5014), (56.0252, 71.7366), (41.5493, 92.3655), (70.7299, 92.2041)]
)
_OVERSAMPLING = 3
"""The transform shrinks 3.4 times; a warp alone would alias. This many samples a side become one pixel."""


def similarity_between(source: NDArray[np.float64], target: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the similarity transform (2, 3) that maps points (N, 2) onto others with least squares.

    Umeyama 1991, "Least-squares estimation of transformation parameters between two point patterns"; in the
    plane it is a complex linear regression. No reflections.
    """
    x, y = source[:, 0] + 1j * source[:, 1], target[:, 0] + 1j * target[:, 1]
    centered = x - x.mean()
    factor = np.vdot(centered, y - y.mean()) / np.vdot(centered, centered).real
    shift = y.mean() - factor * x.mean()
    return np.array(
        [[factor.real, -factor.imag, shift.real], [factor.imag, factor.real, shift.imag]], np.float64
    )


CROP_TO_RECOGNITION: NDArray[np.float64] = similarity_between(TEMPLATE, ARCFACE_TEMPLATE)
"""The similarity transform (2, 3) from an aligned crop of 512 px to a crop for recognition."""


def recognition_crop(crop: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return the face of an aligned crop (512, 512, 3) as networks of recognition see it: (112, 112, 3)."""
    # Pixel x of the crop is the mean of the pixels 3 x, 3 x + 1 and 3 x + 2, so that its center is 3 x + 1.
    fine = CROP_TO_RECOGNITION * _OVERSAMPLING
    fine[:, 2] += (_OVERSAMPLING - 1) / 2
    side = SIDE * _OVERSAMPLING
    warped = cv2.warpAffine(crop, fine, (side, side), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return np.asarray(cv2.resize(warped, (SIDE, SIDE), interpolation=cv2.INTER_AREA), np.uint8)
