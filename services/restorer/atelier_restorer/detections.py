"""The faces that looks at an image have found: turned back, merged, none of them twice."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

SAME_FACE_OVERLAP = 0.4
"""Boxes that overlap by more than this, intersection over union, are of one face."""

_SAME_HEAD_OVERLAP = 0.5
_SAME_HEAD_DISTANCE = 0.75


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
    """(F,): natural logarithm of the odds of a face. Near 1, where probabilities are equal, it still differs."""

    def __len__(self) -> int:
        return len(self.scores)

    def where(self, which: NDArray[Any]) -> Detections:
        """Return the faces of a mask (F,) or of indices."""
        return Detections(self.boxes[which], self.landmarks[which], self.scores[which], self.log_odds[which])

    def above(self, score: float) -> Detections:
        """Return the faces of a strictly higher score."""
        return self.where(self.scores > score)

    def sides(self, width: int, height: int) -> NDArray[np.float64]:
        """Return the shorter sides (F,) of the boxes in an image of a width and height, px."""
        across = (self.boxes[:, 2] - self.boxes[:, 0]) * width
        down = (self.boxes[:, 3] - self.boxes[:, 1]) * height
        return np.minimum(across, down)

    def turned_back(self, quarter_turns: int) -> Detections:
        """Return the faces of an image that were found after turning it, counterclockwise, by `numpy.rot90`."""
        corners = _turn_back(self.boxes.reshape(-1, 2, 2), quarter_turns)
        boxes = np.concatenate((corners.min(axis=1), corners.max(axis=1)), axis=1)
        return Detections(boxes, _turn_back(self.landmarks, quarter_turns), self.scores, self.log_odds)

    def moved(self, left: float, top: float, width: float, height: float) -> Detections:
        """Return the faces of a part of an image as faces of the image; the part in fractions of its sides."""
        scale, offset = np.array([width, height]), np.array([left, top])
        boxes = self.boxes * np.tile(scale, 2) + np.tile(offset, 2)
        return Detections(boxes, self.landmarks * scale + offset, self.scores, self.log_odds)


def joined(several: Sequence[Detections]) -> Detections:
    """Return the faces of all of them, those of the highest log-odds first."""
    every = Detections(
        np.concatenate([each.boxes for each in several]),
        np.concatenate([each.landmarks for each in several]),
        np.concatenate([each.scores for each in several]),
        np.concatenate([each.log_odds for each in several]),
    )
    return every.where(np.argsort(-every.log_odds, kind="stable"))


def overlaps(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the intersections over unions (A, B) of boxes (A, 4) and (B, 4)."""
    shared = _intersections(a, b)
    return shared / np.maximum(_areas(a)[:, None] + _areas(b)[None] - shared, 1e-12)


def additions(known: Detections, more: Detections) -> Detections:
    """Return the faces of `more` that are none of the known ones."""
    if not len(known) or not len(more):
        return more
    return more.where(overlaps(more.boxes, known.boxes).max(axis=1) <= SAME_FACE_OVERLAP)


def without_second_boxes(found: Detections, width: int, height: int) -> Detections:
    """Leave out the lower of two boxes over one head.

    Non-maximum suppression keeps both if one is much smaller, or half beside the other. They are of one head
    if half of the smaller is inside of the other and their noses are closer together than
    `_SAME_HEAD_DISTANCE` times the distance of the eyes of the larger: heads that touch are further apart.

    Args:
        found: The faces, the better of two first.
        width: Width of the image, px.
        height: Height of the image, px.
    """
    kept: list[int] = []
    points = found.landmarks * (width, height)
    areas = np.maximum(_areas(found.boxes), 1e-12)
    eyes = np.linalg.norm(points[:, 0] - points[:, 1], axis=1)
    for face in range(len(found)):
        others = np.array(kept, dtype=np.intp)
        shared = _intersections(found.boxes[face : face + 1], found.boxes[others])[0]
        inside = shared / np.minimum(areas[face], areas[others])
        apart = np.linalg.norm(points[face, 2] - points[others, 2], axis=1)
        near = apart < _SAME_HEAD_DISTANCE * np.maximum(eyes[face], eyes[others])
        if not ((inside > _SAME_HEAD_OVERLAP) & near).any():
            kept.append(face)
    return found.where(np.array(kept, dtype=np.intp))


def _turn_back(points: NDArray[np.float64], quarter_turns: int) -> NDArray[np.float64]:
    for _ in range(quarter_turns % 4):
        points = np.stack((1 - points[..., 1], points[..., 0]), axis=-1)
    return points


def _areas(boxes: NDArray[np.float64]) -> NDArray[np.float64]:
    return (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])


def _intersections(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    low = np.maximum(a[:, None, :2], b[None, :, :2])
    high = np.minimum(a[:, None, 2:], b[None, :, 2:])
    return np.prod(np.maximum(high - low, 0), axis=2)
