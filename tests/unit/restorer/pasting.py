"""Cuts crops from an image and pastes them back, unchanged or changed in a known way."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import cv2
import numpy as np
from skimage import data

from atelier_restorer.align import CROP_SIZE, TEMPLATE, crop_to_picture, cut_crop, face_to_crop
from atelier_restorer.paste import paste_face
from atelier_runtime.sizes import Size
from atelier_runtime.upscaler import resample

SCALES = [1, 2, 4]
FLAT_COLORS = [(0, 0, 0), (255, 255, 255), (200, 30, 120), (132, 133, 135)]


class Place(NamedTuple):
    """A face's square: its center and side in px, its rotation in degrees."""

    x: float
    y: float
    side: float
    roll: float = 0.0


class Pasted(NamedTuple):
    """The upscaled image before and after, and the mask."""

    before: np.ndarray
    after: np.ndarray
    mask: np.ndarray

    @property
    def change(self) -> np.ndarray:
        """Levels that were added, (H, W, 3)."""
        change: np.ndarray = self.after.astype(np.float64) - self.before
        return change


INSIDE = [
    Place(120, 110, 40),
    Place(118.3, 112.6, 44, -40),
    Place(120, 115, 90, 17),
    Place(120, 115, 150, -33),
]
ACROSS_THE_EDGE = [
    Place(0, 80, 90),
    Place(240, 100, 120, 33),
    Place(100, 0, 300, -30),
    Place(120, 239, 60, 180),
    Place(3, 3, 20),  # at the corner, and tiny
    Place(239, 239, 100, 45),
    Place(120, 120, 1500, 10),  # covers the image
]


def matrix_of(place: Place) -> np.ndarray:
    turn = np.deg2rad(place.roll)
    rotation = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    points = (TEMPLATE - CROP_SIZE / 2) * (place.side / CROP_SIZE) @ rotation.T + (place.x, place.y)
    return face_to_crop([(float(x), float(y)) for x, y in points])


def paste_back(
    image: np.ndarray,
    place: Place,
    scale: int,
    change: Callable[[np.ndarray], np.ndarray] = lambda crop: crop,
    *,
    visibility: float = 1.0,
    parts: np.ndarray | None = None,
    offset_px: float = 0.0,
) -> Pasted:
    """Cut the face, change the crop, paste it; `offset_px` is an error to be detected."""
    matrix = matrix_of(place)
    crop = change(cut_crop(image, matrix))
    back = crop_to_picture(matrix, scale)
    back[:, 2] += offset_px
    before = resample(image, Size(image.shape[1] * scale, image.shape[0] * scale))
    after, mask = before.copy(), np.zeros(before.shape[:2], np.uint8)
    paste_face(after, mask, crop, back, scale, visibility, parts)
    return Pasted(before, after, mask)


def flat(color: tuple[int, int, int]) -> np.ndarray:
    return np.full((240, 240, 3), color, np.uint8)


def portrait() -> np.ndarray:
    """Return a photo: a woman's head and shoulders, 240 px; her face of 90 px is around (120, 110)."""
    return np.ascontiguousarray(data.astronaut()[10:250, 102:342])


def ring(mask: np.ndarray, scale: int) -> np.ndarray:
    """Return which pixels are in the feather, or within 3 px of the input image beyond it."""
    wider = cv2.dilate((mask > 0).astype(np.uint8), np.ones((6 * scale + 1, 6 * scale + 1), np.uint8))
    return (wider > 0) & (mask < 255)
