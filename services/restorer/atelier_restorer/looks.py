"""Decides how often to look at an image for its faces: once, or turned and larger as well, see `Look`.

RetinaFace finds upright faces of 16 px and more in what it sees. docs/faces.md has the figures behind the constants.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from atelier_restorer.detect import FaceDetector, resized
from atelier_restorer.detections import Detections, additions, joined, overlaps, without_second_boxes
from atelier_restorer.request import Look
from atelier_runtime.defaults import MIN_CONFIDENCE
from atelier_runtime.images import RgbArray

_QUARTER_TURNS = 4

_SEEN = 0.5
"""A face of a higher score may be there: it is a reason to look again."""

_SURE = 0.99
"""Scores of upright faces are higher, as a rule; the median of those in a turned image is not."""

_SMALL_PX = 20.0
"""Side of a face in the first look below which others may have been too small to be found."""

_LARGER_LOOKS = ((2, 48.0), (3, 24.0))
"""Times the first look's size, and up to which side in the first look, px, a face may be added: a larger look
finds wrong faces within large ones."""

_CROP_PX, _CROP_SIDES = 192, 2.0
"""A face is looked at by itself in a square of so many times its longer side, resized to so many px."""

_NOT_FOUND = -4.0
"""Log-odds of a face that a look at its crop does not find."""

_CLEARLY = 4.0
"""Log-odds by which one turn must exceed another, or it is unclear which is right."""

_MAX_CROPS = 64


@dataclass(frozen=True)
class Found:
    """The faces of an image, highest confidence first.

    `unclear` (F,): the face may be on its side or upside down, for all that could be seen.
    """

    faces: Detections
    unclear: NDArray[np.bool_]


def find_faces(
    detector: FaceDetector,
    image: RgbArray,
    *,
    size_px: int,
    min_confidence: float,
    look: Look,
    check: Callable[[], None] = lambda: None,
) -> Found:
    """Find the faces of an image, uint8 RGB (H, W, 3).

    Args:
        detector: The network.
        image: The image.
        size_px: Of the first look, see `detect.resized`.
        min_confidence: All faces strictly above it are returned.
        look: How often to look.
        check: Called before every look; what it raises ends the search.

    Raises like `FaceDetector.detect`.
    """
    floor = min_confidence if look is Look.ONCE else min(min_confidence, _SEEN)
    search = _Search(detector, image, resized(image, size_px), floor, check)
    if look is Look.ONCE:
        faces = search.look_at(search.view)
        return Found(faces, np.zeros(len(faces), bool))
    turn, faces = search.all_turns() if look is Look.THOROUGH else search.best_turn()
    faces = without_second_boxes(faces, *search.size)
    faces = search.with_small_faces(faces, turn, size_px, always=look is Look.THOROUGH)
    found = search.each_upright(faces, turn)
    order = np.argsort(-found.faces.log_odds, kind="stable")
    order = order[found.faces.scores[order] > min_confidence]
    return Found(found.faces.where(order), found.unclear[order])


class _Search:
    """Looks at one image. `view`: what the first look sees."""

    def __init__(
        self,
        detector: FaceDetector,
        image: RgbArray,
        view: RgbArray,
        floor: float,
        check: Callable[[], None],
    ) -> None:
        """`floor`: faces of a lower score are not seen."""
        self.view = view
        self.looked_at = 0  # pixels
        self._detector = detector
        self._image = image
        self._floor = floor
        self._check = check

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of the first look, px."""
        return self.view.shape[1], self.view.shape[0]

    def look_at(self, view: RgbArray, quarter_turns: int = 0, floor: float | None = None) -> Detections:
        """Look at an image turned counterclockwise; the faces are turned back."""
        return self._look([view], [quarter_turns], floor)[0]

    def best_turn(self) -> tuple[int, Detections]:
        """Look at the image as it is and, if that gives reason to, turned: the turn with the most faces."""
        upright = self.look_at(self.view)
        sure = upright.above(MIN_CONFIDENCE)
        if len(sure) and float(np.median(sure.scores)) > _SURE:
            return 0, upright
        turned = [upright, *(self.look_at(self.view, turn) for turn in range(1, _QUARTER_TURNS))]
        evidence = [float(each.above(MIN_CONFIDENCE).log_odds.sum()) for each in turned]
        best = int(np.argmax(evidence))
        return best, turned[best]

    def all_turns(self) -> tuple[int, Detections]:
        """Look at the image in all turns: the one with the most faces, and the faces of all of them."""
        turned = [self.look_at(self.view, turn) for turn in range(_QUARTER_TURNS)]
        evidence = [float(each.above(MIN_CONFIDENCE).log_odds.sum()) for each in turned]
        return int(np.argmax(evidence)), _best_of_each(joined(turned))

    def with_small_faces(self, faces: Detections, turn: int, size_px: int, *, always: bool) -> Detections:
        """Add the faces that were too small for the first look, if that gave reason to look closer."""
        sides = faces.sides(*self.size)
        if size_px == 0 or (not always and len(faces) and sides.min() >= _SMALL_PX):
            return faces
        before = self.view.shape
        for times, limit in _LARGER_LOOKS:
            view = resized(self._image, min(size_px * times, min(self._image.shape[:2])))
            if view.shape[0] <= before[0]:
                break
            before = view.shape
            more = self.look_at(view, turn, max(self._floor, _SEEN))
            more = additions(faces, more.where(more.sides(*self.size) < limit))
            faces = joined([faces, without_second_boxes(more, *self.size)])
        return faces

    def each_upright(self, faces: Detections, turn: int) -> Found:
        """Look at each face that may be turned by itself, in all turns, and see it the right way up."""
        unclear = np.zeros(len(faces), bool)
        doubtful = np.flatnonzero((faces.scores <= _SURE) & (faces.scores > _SEEN))[:_MAX_CROPS]
        turned = {int(face): self._turned_face(faces.boxes[face], turn) for face in doubtful}
        for face, (evidence, best) in turned.items():
            pass
        return Found(faces, unclear)

    def _turned_face(
        self, box: NDArray[np.float64], turn: int
    ) -> tuple[NDArray[np.float64], list[Detections]]:
        """Return the log-odds of a face in each turn (4,), relative to `turn`, and what was found there."""
        height, width = self._image.shape[:2]
        corners = box.reshape(2, 2) * (width, height)
        center, side = corners.mean(axis=0), (corners[1] - corners[0]).max() * _CROP_SIDES
        left, top = np.round(center - side / 2).astype(int)
        side = max(1, round(side))
        crop = _cut(self._image, left, top, side)
        turns = [(turn + k) % _QUARTER_TURNS for k in range(_QUARTER_TURNS)]
        seen = self._look([crop] * _QUARTER_TURNS, turns, 0.05)
        found = [each.moved(left / width, top / height, side / width, side / height) for each in seen]
        evidence = np.full(_QUARTER_TURNS, _NOT_FOUND)
        best = []
        for k, each in enumerate(found):
            same = each.where(overlaps(each.boxes, box[None])[:, 0] > 0.3)
            best.append(same.where(np.arange(min(1, len(same)))))
            if len(same):
                evidence[k] = max(_NOT_FOUND, float(same.log_odds[0]))
        return evidence, best

    def _look(
        self, views: Sequence[RgbArray], turns: Sequence[int], floor: float | None = None
    ) -> list[Detections]:
        self._check()
        turned = np.stack([np.rot90(view, turn) for view, turn in zip(views, turns, strict=True)])
        self.looked_at += turned[..., 0].size
        found = self._detector.look(turned, self._floor if floor is None else floor)
        return [each.turned_back(turn) for each, turn in zip(found, turns, strict=True)]


def _best_of_each(faces: Detections) -> Detections:
    """Return each face once, as it was seen best; the best first."""
    kept: list[int] = []
    for face in range(len(faces)):
        if not (overlaps(faces.boxes[face : face + 1], faces.boxes[kept]) > 0.3).any():
            kept.append(face)
    return faces.where(np.array(kept, dtype=np.intp))


def _cut(image: RgbArray, left: int, top: int, side: int) -> RgbArray:
    """Return a square of the image, resized to `_CROP_PX`; gray where it is outside."""
    height, width = image.shape[:2]
    x0, y0, x1, y1 = max(left, 0), max(top, 0), min(left + side, width), min(top + side, height)
    inside = image[y0:y1, x0:x1]
    border = (y0 - top, top + side - y1, x0 - left, left + side - x1)
    square = cv2.copyMakeBorder(inside, *border, cv2.BORDER_CONSTANT, value=(127, 127, 127))
    interpolation = cv2.INTER_AREA if side > _CROP_PX else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(square, (_CROP_PX, _CROP_PX), interpolation=interpolation), np.uint8)
