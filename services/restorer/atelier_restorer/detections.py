"""The faces that looks at an image have found: turned back, merged, none of them twice."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torchvision.ops import nms

SAME_FACE_OVERLAP = 0.4
"""Boxes that overlap by more than this, intersection over union, are of one face."""

_SAME_HEAD_OVERLAP = 0.45
_SAME_HEAD_DISTANCE = 0.6
_MOSTLY_INSIDE, _OTHER_ROLL_DEGREES = 0.7, 30.0
_MAX_COMPARED = 2000  # each with all before it; a response has fewer


@dataclass(frozen=True)
class Detections:
    """Faces of one image, coordinates as fractions of its sides.

    Landmarks: eyes, nose tip, corners of the mouth, those at the left of the upright face first.
    """

    boxes: NDArray[np.float64]
    """(F, 4): left, top, right, bottom."""
    landmarks: NDArray[np.float64]
    """(F, 5, 2)."""
    scores: NDArray[np.float32]
    """(F,): probability of a face."""
    log_odds: NDArray[np.float64]
    """(F,): natural logarithm of the odds of a face; it still differs where probabilities round to 1."""

    def __len__(self) -> int:
        return len(self.scores)

    def where(self, which: NDArray[Any] | slice) -> Detections:
        """Return the faces of a mask (F,), of indices, or of a slice."""
        return Detections(self.boxes[which], self.landmarks[which], self.scores[which], self.log_odds[which])

    def above(self, score: float) -> Detections:
        """Return the faces of a strictly higher score."""
        return self.where(self.scores > score)

    def sides(self, width: int, height: int) -> NDArray[np.float64]:
        """Return the shorter sides (F,) of the boxes in an image of a width and height, px."""
        across = (self.boxes[:, 2] - self.boxes[:, 0]) * width
        down = (self.boxes[:, 3] - self.boxes[:, 1]) * height
        return np.minimum(across, down)

    def rolls(self, width: int, height: int, quarter_turns: int) -> NDArray[np.float64]:
        """Return the angles (F,) of the lines between the eyes, degrees, -180 to 180, clockwise positive.

        As seen after turning the image of a width and height counterclockwise.
        """
        eyes = (self.landmarks[:, 1] - self.landmarks[:, 0]) * (width, height)
        angles = np.degrees(np.arctan2(eyes[:, 1], eyes[:, 0])) - 90 * quarter_turns
        return (angles + 180) % 360 - 180

    def turned_back(self, quarter_turns: int) -> Detections:
        """Return the faces of an image that were found after turning it counterclockwise by `numpy.rot90`."""
        corners = _turn_back(self.boxes.reshape(-1, 2, 2), quarter_turns)
        boxes = np.concatenate((corners.min(axis=1), corners.max(axis=1)), axis=1)
        return Detections(boxes, _turn_back(self.landmarks, quarter_turns), self.scores, self.log_odds)

    def moved(self, left: float, top: float, width: float, height: float) -> Detections:
        """Return the faces of a part of an image as faces of the image; the part is in fractions of it."""
        scale, offset = np.array([width, height]), np.array([left, top])
        boxes = self.boxes * np.tile(scale, 2) + np.tile(offset, 2)
        return Detections(boxes, self.landmarks * scale + offset, self.scores, self.log_odds)

    def and_then(self, more: Detections) -> Detections:
        """Return these faces, then those."""
        return Detections(
            np.concatenate((self.boxes, more.boxes)),
            np.concatenate((self.landmarks, more.landmarks)),
            np.concatenate((self.scores, more.scores)),
            np.concatenate((self.log_odds, more.log_odds)),
        )


def joined(several: Sequence[Detections]) -> Detections:
    """Return the faces of all of them, those of the highest log-odds first."""
    every = reduce(Detections.and_then, several)
    return every.where(np.argsort(-every.log_odds, kind="stable"))


def overlaps(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the intersections over unions (A, B) of boxes (A, 4) and (B, 4)."""
    shared = _intersections(a, b)
    return shared / np.maximum(_areas(a)[:, None] + _areas(b)[None] - shared, 1e-12)


def seen_best(faces: Detections) -> Detections:
    """Return each face once, as it was seen best: of boxes that overlap, the one of the highest log-odds."""
    boxes, odds = torch.from_numpy(faces.boxes), torch.from_numpy(faces.log_odds)
    return faces.where(nms(boxes, odds, SAME_FACE_OVERLAP).numpy())


def without_second_boxes(found: Detections, width: int, height: int) -> Detections:
    """Leave out the lower of two boxes over one head.

    Non-maximum suppression keeps both if one is much smaller, or half beside the other. They are of one head
    if nearly half of the smaller is inside of the other and their noses are closer together than
    `_SAME_HEAD_DISTANCE` times the distance of the eyes of the larger: heads that touch are further apart. Or
    if most of the smaller is inside and it is inclined otherwise: a close-up seen in another turn.

    Args:
        found: The faces, the better of two first; only the first `_MAX_COMPARED` are compared.
        width: Width of the image, px.
        height: Height of the image, px.
    """
    kept: list[int] = []
    points = found.landmarks * (width, height)
    areas = np.maximum(_areas(found.boxes), 1e-12)
    eyes = np.linalg.norm(points[:, 0] - points[:, 1], axis=1)
    rolls = found.rolls(width, height, 0)
    for face in range(min(len(found), _MAX_COMPARED)):
        others = np.array(kept, dtype=np.intp)
        shared = _intersections(found.boxes[face : face + 1], found.boxes[others])[0]
        inside = shared / np.minimum(areas[face], areas[others])
        apart = np.linalg.norm(points[face, 2] - points[others, 2], axis=1)
        near = apart < _SAME_HEAD_DISTANCE * np.maximum(eyes[face], eyes[others])
        otherwise = np.abs((rolls[face] - rolls[others] + 180) % 360 - 180) > _OTHER_ROLL_DEGREES
        same = (inside > _SAME_HEAD_OVERLAP) & near | (inside > _MOSTLY_INSIDE) & otherwise
        if not same.any():
            kept.append(face)
    return found.where(np.append(np.array(kept, dtype=np.intp), np.arange(_MAX_COMPARED, len(found))))


def _turn_back(points: NDArray[np.float64], quarter_turns: int) -> NDArray[np.float64]:
    for _ in range(quarter_turns % 4):
        points = np.stack((1 - points[..., 1], points[..., 0]), axis=-1)
    return points


def _areas(boxes: NDArray[np.float64]) -> NDArray[np.float64]:
    return (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])


def _intersections(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    low = np.maximum(a[:, None, :2], b[None, :, :2])
    high = np.minimum(a[:, None, 2:], b[None, :, 2:])
    return np.asarray(np.prod(np.maximum(high - low, 0), axis=2), np.float64)
