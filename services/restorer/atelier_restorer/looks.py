"""Decides how often to look at an image for its faces: once, or turned and larger as well, see `Look`.

RetinaFace finds upright faces of 16 px and more in what it sees. Of a face that is upside down or on its side
it often reports landmarks as if it were upright, with a score that is hardly lower: such a face would be
restored on its head. docs/faces.md has the figures behind the constants.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from atelier_restorer.detect import FaceDetector, resized
from atelier_restorer.detections import (
    Detections,
    joined,
    overlaps,
    seen_best,
    without_second_boxes,
)
from atelier_restorer.request import Look
from atelier_restorer.tiles import look_closer
from atelier_runtime.defaults import MIN_CONFIDENCE
from atelier_runtime.device import is_out_of_memory
from atelier_runtime.errors import OutOfMemory
from atelier_runtime.images import RgbArray

_QUARTER_TURNS = 4

_SEEN = 0.5
"""A face of a higher score may be there: it is a reason to look again."""

_SURE = 0.998
_SURE_ROLL_DEGREES = 35.0
"""A face of a higher score is upright, if its landmarks say that it is inclined by less."""

_SMALL_PX = 20.0
"""Side of a face in the first look below which others may have been too small to be found."""

_LARGER_LOOKS = ((2, 48.0), (3, 24.0))
"""Times the first look's size, and up to which side in the first look, px, a face may be added: a larger look
finds wrong faces within large ones."""

_TURNED_CROP_PX, _FINAL_CROP_PX = 128, 192
_CROP_SIDES = 2.0
"""A face is looked at by itself in a square of so many times its longer side. Resized to the first size,
where the face has 64 px, turns differ most; in the second, landmarks are as precise as in the whole image."""

_CROPS_AT_ONCE = 8
_MAX_CROPS = 64
"""Faces of one image that are turned by themselves, the largest of them; the others count as seen."""

_AGREEMENT = 0.25
"""Landmarks that are as close as this on average, in the distance of the eyes, are the same."""

_INCLINED_DEGREES = 50.0
"""A face that is inclined by more is not upright in that turn, however high its score."""

_NOT_SEEN = -9.0
"""Log-odds for a turn in which a face is not seen, or not upright."""

_A_FACE = 2.0
"""Log-odds from which a face is seen in a turn. If it is in none, it counts as seen in the first look."""

_CLEARLY = 1.0
"""Log-odds by which another turn must be better than the one in which a face was found."""


@dataclass(frozen=True)
class Found:
    """The faces of an image, highest confidence first.

    `unclear` (F,): the face may be on its side or upside down, for all that could be seen.
    `in_tiles`: the device had no memory for a larger look at once.
    """

    faces: Detections
    unclear: NDArray[np.bool_]
    in_tiles: bool = False


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

    Raises:
        OutOfMemory: the device has no memory for the first look, of which no face may be missed: tiles
            would miss large ones.

    Raises like `FaceDetector.detect`, too.
    """
    floor = min_confidence if look is Look.ONCE else min(min_confidence, _SEEN)
    search = _Search(detector, image, size_px, floor, check)
    if look is Look.ONCE:
        faces = search.look_at(search.view)
        return Found(faces, np.zeros(len(faces), bool))
    every, turn = search.in_all_turns() if look is Look.THOROUGH else search.in_the_best_turn()
    # What has a lower score, of which there may be tens of thousands, is returned as it was seen.
    low, faces = every.where(every.scores <= _SEEN), every.above(_SEEN)
    faces = without_second_boxes(faces, *search.size)
    faces = search.with_small_faces(faces, turn, always=look is Look.THOROUGH)
    found = search.upright(faces, turn)
    faces = found.faces.and_then(low)
    unclear = np.append(found.unclear, np.zeros(len(low), bool))
    order = np.lexsort((-faces.log_odds, -faces.scores))
    order = order[faces.scores[order] > min_confidence]
    return Found(faces.where(order), unclear[order], search.in_tiles)


class _Search:
    """Looks at one image. A turn is a number of quarter turns, counterclockwise, before a look."""

    def __init__(
        self,
        detector: FaceDetector,
        image: RgbArray,
        size_px: int,
        floor: float,
        check: Callable[[], None],
    ) -> None:
        """`floor`: faces of a lower score are not seen."""
        self.view = resized(image, size_px)
        self.in_tiles = False
        self._detector = detector
        self._image = image
        self._size_px = size_px
        self._floor = floor
        self._check = check
        self._turns_of_faces: dict[tuple[float, ...], NDArray[np.float64]] = {}

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of the first look, px."""
        return self.view.shape[1], self.view.shape[0]

    def look_at(self, view: RgbArray, turn: int = 0, floor: float | None = None) -> Detections:
        """Look at the image, resized to `view`; its faces as if it had not been turned."""
        self._check()
        turned = np.ascontiguousarray(np.rot90(view, turn))[None]
        try:
            found = self._detector.look(turned, self._floor if floor is None else floor)[0]
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            raise OutOfMemory(
                "The device does not have enough memory to look for faces in "
                f"{view.shape[1]}x{view.shape[0]} px, by a detect_size of {self._size_px}. Set it to a short "
                f"side of fewer than {min(view.shape[:2])} px."
            ) from None
        return found.turned_back(turn)

    def _look_closer(self, view: RgbArray, turn: int, limit: float) -> Detections:
        """Look at the image, resized to a larger `view`, for faces below a side in the first look, px."""
        turned = np.ascontiguousarray(np.rot90(view, turn))
        largest = limit * view.shape[0] / self.view.shape[0]
        floor = max(self._floor, _SEEN)
        closer = look_closer(self._detector, turned, floor, face_px=largest, check=self._check)
        self.in_tiles |= closer.tiles > 1
        found = closer.faces.turned_back(turn)
        return found.where(found.sides(*self.size) < limit)

    def in_the_best_turn(self) -> tuple[Detections, int]:
        """Look at the image as it is; if there is no face, or most are turned, in the turn that is best.

        Then faces that are upright in the image as it is are kept, which the turned look may not see.
        """
        faces = self.look_at(self.view)
        found = faces.above(MIN_CONFIDENCE)
        if not len(found):
            turned = (self.look_at(self.view, turn, _SEEN) for turn in range(1, _QUARTER_TURNS))
            best = _most_evident([faces, *turned])
        else:
            doubtful = self._doubtful(found, 0)
            votes = np.zeros(_QUARTER_TURNS, int)
            votes[0] = len(found) - len(doubtful)
            for evidence in self._turns_of(found.boxes[doubtful[:_MAX_CROPS]]):
                votes[_best_turn(evidence, 0)] += 1
            best = int(np.argmax(votes))
        if not best:
            return faces, 0
        seen = self.look_at(self.view, best)
        upright = self._evidently_upright(faces.above(_SEEN))
        both = seen_best(joined([upright, seen.above(_SEEN)]))
        return both.and_then(seen.where(seen.scores <= _SEEN)), best

    def _evidently_upright(self, faces: Detections) -> Detections:
        """Return those of the faces, seen in the image as it is, that are seen best so by themselves too."""
        doubtful = self._doubtful(faces, 0)
        turned = np.zeros(len(faces), bool)
        turned[doubtful] = True
        asked = doubtful[:_MAX_CROPS]
        for face, evidence in zip(asked, self._turns_of(faces.boxes[asked]), strict=True):
            turned[face] = evidence[0] - evidence[1:].max() < _CLEARLY
        return faces.where(~turned)

    def in_all_turns(self) -> tuple[Detections, int]:
        """Look at the image in all turns; each face as it was seen best, and the best turn."""
        turned = [self.look_at(self.view, turn, _SEEN) for turn in range(_QUARTER_TURNS)]
        best = _most_evident(turned)
        low = self.look_at(self.view, best) if self._floor < _SEEN else turned[best]
        return seen_best(joined(turned)).and_then(low.where(low.scores <= _SEEN)), best

    def with_small_faces(self, faces: Detections, turn: int, *, always: bool) -> Detections:
        """Add the faces that were too small for the first look, if that gave reason to look closer.

        Small ones that it has seen are replaced where they are seen better.
        """
        sides = faces.above(_SEEN).sides(*self.size)
        if self._size_px == 0 or (len(sides) and sides.min() >= _SMALL_PX and not always):
            return faces
        seen = self.view.shape[0]
        for times, limit in _LARGER_LOOKS:
            # No larger than it is: that would show nothing more.
            view = resized(self._image, min(self._size_px * times, *self._image.shape[:2]))
            if view.shape[0] <= seen:
                break
            seen = view.shape[0]
            small_ones = self._look_closer(view, turn, limit)
            faces = without_second_boxes(seen_best(joined([faces, small_ones])), *self.size)
        return faces

    def upright(self, faces: Detections, turn: int) -> Found:
        """Return the faces, found in a turn, each seen the right way up, or as unclear."""
        unclear = np.zeros(len(faces), bool)
        replaced = np.zeros(len(faces), bool)
        better = []
        doubtful = self._doubtful(faces, turn)[:_MAX_CROPS]
        for face, evidence in zip(doubtful, self._turns_of(faces.boxes[doubtful]), strict=True):
            best = _best_turn(evidence, turn)
            if best == turn:
                continue
            upright = self._look_at_face(faces.boxes[face], best)
            if len(upright) and self._agree(faces.landmarks[face], upright.landmarks[0]):
                continue  # of a face between two turns both may see the same
            if evidence[best] - evidence[turn] >= _CLEARLY and len(upright):
                better.append(upright)
                replaced[face] = True
            else:
                unclear[face] = True
        seen = joined([faces.where(~replaced & ~unclear), *better])
        doubted = faces.where(unclear)
        every = without_second_boxes(seen.and_then(doubted), *self.size)
        in_doubt = {tuple(box) for box in doubted.boxes}
        return Found(every, np.array([tuple(box) in in_doubt for box in every.boxes], bool))

    def _agree(self, one: NDArray[np.float64], other: NDArray[np.float64]) -> bool:
        """Return whether two looks at a face put its landmarks (5, 2) in the same places."""
        apart = np.linalg.norm((one - other) * self.size, axis=1).mean()
        return bool(apart < _AGREEMENT * np.linalg.norm((one[1] - one[0]) * self.size))

    def _doubtful(self, faces: Detections, turn: int) -> NDArray[np.intp]:
        """Return the indices of faces that may be turned, by what was seen in a turn; the largest first."""
        inclined = np.abs(faces.rolls(*self.size, turn)) > _SURE_ROLL_DEGREES
        doubtful = (faces.scores > _SEEN) & ((faces.scores <= _SURE) | inclined)
        indices = np.flatnonzero(doubtful)
        return indices[np.argsort(-faces.sides(*self.size)[indices], kind="stable")]

    def _turns_of(self, boxes: NDArray[np.float64]) -> list[NDArray[np.float64]]:
        """Return for each face the log-odds (4,) of a face that is upright in each turn."""
        new = [box for box in boxes if tuple(box) not in self._turns_of_faces]
        for start in range(0, len(new), _CROPS_AT_ONCE):
            several = new[start : start + _CROPS_AT_ONCE]
            self._check()
            crops = [self._crop(box, _TURNED_CROP_PX)[0] for box in several]
            turned = np.stack([np.rot90(crop, turn) for crop in crops for turn in range(_QUARTER_TURNS)])
            seen = self._detector.look(turned, 0.05)
            for number, box in enumerate(several):
                of_face = seen[number * _QUARTER_TURNS : (number + 1) * _QUARTER_TURNS]
                self._turns_of_faces[tuple(box)] = np.array([_evidence(each) for each in of_face])
        return [self._turns_of_faces[tuple(box)] for box in boxes]

    def _look_at_face(self, box: NDArray[np.float64], turn: int) -> Detections:
        """Look at one face by itself, in a turn: the face, or none."""
        self._check()
        crop, part = self._crop(box, _FINAL_CROP_PX)
        turned = np.ascontiguousarray(np.rot90(crop, turn))[None]
        seen = self._detector.look(turned, self._floor)[0].turned_back(turn).moved(*part)
        return seen.where(np.flatnonzero(overlaps(seen.boxes, box[None])[:, 0] > 0.3)[:1])

    def _crop(
        self, box: NDArray[np.float64], size_px: int
    ) -> tuple[RgbArray, tuple[float, float, float, float]]:
        """Return a square around a face, gray outside of the image, and the part of the image that it is."""
        height, width = self._image.shape[:2]
        corners = box.reshape(2, 2) * (width, height)
        side = max(1, round(float((corners[1] - corners[0]).max()) * _CROP_SIDES))
        left, top = (int(value) for value in np.round(corners.mean(axis=0) - side / 2))
        x0, y0, x1, y1 = max(left, 0), max(top, 0), min(left + side, width), min(top + side, height)
        scale = size_px / side
        crop = np.full((size_px, size_px, 3), 127, np.uint8)
        # Its place in the crop; shrunk before it is padded, for a box may be far larger than the image.
        u0, v0, u1, v1 = (round(value * scale) for value in (x0 - left, y0 - top, x1 - left, y1 - top))
        if u1 > u0 and v1 > v0:
            interpolation = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
            inside = self._image[y0:y1, x0:x1]
            crop[v0:v1, u0:u1] = cv2.resize(inside, (u1 - u0, v1 - v0), interpolation=interpolation)
        return crop, (left / width, top / height, side / width, side / height)


def _best_turn(evidence: NDArray[np.float64], found_in: int) -> int:
    """Return the turn in which a face is seen best, by the log-odds (4,); that it was found in if in none."""
    best = int(np.argmax(evidence))
    return best if evidence[best] >= _A_FACE else found_in


def _most_evident(turned: list[Detections]) -> int:
    """Return the turn with the most log-odds of faces."""
    return int(np.argmax([float(each.above(MIN_CONFIDENCE).log_odds.sum()) for each in turned]))


def _evidence(seen: Detections) -> float:
    """Return the log-odds of an upright face in the middle of a square."""
    middle = np.array([[0.25, 0.25, 0.75, 0.75]])
    upright = np.abs(seen.rolls(1, 1, 0)) < _INCLINED_DEGREES
    faces = seen.where(upright & (overlaps(seen.boxes, middle)[:, 0] > 0.3))
    return max(_NOT_SEEN, float(faces.log_odds[0])) if len(faces) else _NOT_SEEN
