"""Looks at a large image for its small faces: at once, or in tiles where the device has no memory for that.

A tile is a part of the image, its core, with a margin around it. Cores do not overlap, tiles do, by two
margins: every face whose middle is in the core is seen whole, with its surroundings. Up to the size that is
asked for, the same faces are found as in the whole image; larger ones may be missed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from atelier_restorer.detect import COARSEST_STRIDE, FaceDetector
from atelier_restorer.detections import Detections, joined, seen_best
from atelier_runtime.device import is_out_of_memory
from atelier_runtime.images import RgbArray

_CONTEXT_PX = 160
"""What the network has to see around a face. On noise, other pixels beyond it moved the boxes of MobileNet's
smallest anchors by 0.1 px and their probabilities by 0.00001; its field ends at 256 px."""

_LENGTH = 1.5
"""Longer side of a face's box over its shorter side, at most."""

_SLACK_PX = 16
"""A face whose middle is so close to a core's edge is returned by both tiles, and merged: each may see the
middle on the other's side."""

_LEAST_CORE_PX = 256
"""Cores with a shorter longer side are not cut any further."""

_Part = tuple[int, int, int, int]
"""Left, top, right, bottom, px."""


@dataclass(frozen=True)
class Closer:
    """The faces that a look has found, and the number of tiles that it took; 1: the image as a whole."""

    faces: Detections
    tiles: int


def look_closer(
    detector: FaceDetector,
    view: RgbArray,
    floor: float,
    *,
    face_px: float,
    check: Callable[[], None],
) -> Closer:
    """Find the faces of an image as the network sees it, uint8 RGB (H, W, 3).

    Tiles are halved until they fit. How large a look may be is remembered in `FaceDetector.max_pixels`.

    Args:
        detector: The network.
        view: The image.
        floor: All faces strictly above it are returned.
        face_px: Shorter side of the largest faces that are looked for; larger ones are a matter of luck.
        check: Called before every tile; what it raises ends the look.

    Raises like `FaceDetector.detect`, and if there is no memory for the smallest tile either.
    """
    height, width = view.shape[:2]
    margin = _rounded_up(_CONTEXT_PX + face_px * _LENGTH / 2)
    found = _look(detector, view, (0, 0, width, height), floor, margin, check)
    return Closer(found[0] if len(found) == 1 else seen_best(joined(found)), len(found))


def _look(
    detector: FaceDetector,
    view: RgbArray,
    core: _Part,
    floor: float,
    margin: int,
    check: Callable[[], None],
) -> list[Detections]:
    """Return the faces of a core, from one tile or from several."""
    height, width = view.shape[:2]
    tile = _tile(core, margin, width, height)
    pixels = (tile[2] - tile[0]) * (tile[3] - tile[1])
    halves = _halves(core)
    if not halves or detector.max_pixels is None or pixels <= detector.max_pixels:
        check()
        try:
            return [_look_at_tile(detector, view, core, tile, floor)]
        except Exception as error:
            if not halves or not is_out_of_memory(error):
                raise
        detector.ran_out_of_memory(pixels)  # outside the handler, whose traceback keeps the tensors alive
    return [found for half in halves for found in _look(detector, view, half, floor, margin, check)]


def _look_at_tile(
    detector: FaceDetector, view: RgbArray, core: _Part, tile: _Part, floor: float
) -> Detections:
    """Return the faces of a tile whose middle is in its core, or close to it, as faces of the image."""
    height, width = view.shape[:2]
    left, top, right, bottom = tile
    found = detector.look(np.ascontiguousarray(view[top:bottom, left:right])[None], floor)[0]
    if tile == (0, 0, width, height):
        return found
    found = found.moved(left / width, top / height, (right - left) / width, (bottom - top) / height)
    middles = found.boxes.reshape(-1, 2, 2).mean(axis=1) * (width, height)
    # A face at the image's edge may have its middle beyond it.
    low = np.where(np.array(core[:2]) == 0, -np.inf, np.array(core[:2]) - _SLACK_PX)
    high = np.where(np.array(core[2:]) == (width, height), np.inf, np.array(core[2:]) + _SLACK_PX)
    return found.where(((middles >= low) & (middles < high)).all(axis=1))


def _tile(core: _Part, margin: int, width: int, height: int) -> _Part:
    left, top, right, bottom = core
    return (
        max(0, left - margin),
        max(0, top - margin),
        min(width, right + margin),
        min(height, bottom + margin),
    )


def _halves(core: _Part) -> tuple[_Part, ...]:
    """Cut a core across its longer side; nothing if it is small already.

    Tiles begin on the grid of the network's coarsest stride, so that its maps are those of the whole image.
    """
    left, top, right, bottom = core
    across, down = right - left, bottom - top
    if max(across, down) <= _LEAST_CORE_PX:
        return ()
    if across >= down:
        middle = left + _rounded_up(across / 2)
        return (left, top, middle, bottom), (middle, top, right, bottom)
    middle = top + _rounded_up(down / 2)
    return (left, top, right, middle), (left, middle, right, bottom)


def _rounded_up(length: float) -> int:
    """Round up to a multiple of the network's coarsest stride, px."""
    return -int(-length // COARSEST_STRIDE) * COARSEST_STRIDE
