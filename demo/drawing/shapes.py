"""Outlines as (N, 2) float arrays of points, in the units of the canvas view that they are drawn on."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Points = NDArray[np.float64]
PointsLike = Points | Sequence[tuple[float, float]]

_STEPS_PER_SPAN = 8


def _spline_weights(steps: int) -> Points:
    """(steps, 4) weights of the uniform Catmull-Rom spline at equally spaced positions of a span."""
    t = np.arange(steps)[:, None] / steps
    return 0.5 * np.hstack(
        [-t + 2 * t**2 - t**3, 2 - 5 * t**2 + 3 * t**3, t + 4 * t**2 - 3 * t**3, -(t**2) + t**3]
    )


_WEIGHTS = _spline_weights(_STEPS_PER_SPAN)


def smooth(points: PointsLike) -> Points:
    """Closed smooth outline through `points`."""
    p = np.asarray(points, np.float64)
    neighbors = np.stack([np.roll(p, 1, 0), p, np.roll(p, -1, 0), np.roll(p, -2, 0)], axis=1)
    return (_WEIGHTS @ neighbors).reshape(-1, 2)


def curve(points: PointsLike) -> Points:
    """Open smooth line through `points`, ends included."""
    p = np.asarray(points, np.float64)
    padded = np.concatenate([2 * p[:1] - p[1:2], p, 2 * p[-1:] - p[-2:-1]])
    neighbors = np.stack([padded[:-3], padded[1:-2], padded[2:-1], padded[3:]], axis=1)
    return np.concatenate([(_WEIGHTS @ neighbors).reshape(-1, 2), p[-1:]])


def oval(
    x: float, y: float, rx: float, ry: float, tilt: float = 0.0, start: float = 0.0, end: float = 360.0
) -> Points:
    """Ellipse around (x, y), or its part from `start` to `end` degrees (0 right, 90 down), tilted."""
    angles = np.radians(np.linspace(start, end, 40, endpoint=end - start < 360))
    points = np.stack([rx * np.cos(angles), ry * np.sin(angles)], axis=1)
    if tilt:
        sin, cos = np.sin(np.radians(tilt)), np.cos(np.radians(tilt))
        points = points @ np.array([[cos, sin], [-sin, cos]])
    return moved(points, x, y)


def moved(points: PointsLike, x: float, y: float) -> Points:
    """`points` shifted by (x, y)."""
    shifted: Points = np.asarray(points, np.float64) + np.array([x, y])
    return shifted


def box(left: float, top: float, right: float, bottom: float) -> Points:
    """Rectangle."""
    return np.array([(left, top), (right, top), (right, bottom), (left, bottom)], np.float64)


def mirrored(points: PointsLike) -> Points:
    """Outline through `points` (one side, from top to bottom), then back up through their mirror image."""
    p = np.asarray(points, np.float64)
    return np.concatenate([p, p[p[:, 0] != 0][::-1] * (-1, 1)])


def flipped(points: PointsLike, side: float) -> Points:
    """`points` unchanged for side 1, mirrored at x = 0 for side -1."""
    return np.asarray(points, np.float64) * (side, 1)


def ribbon(line: PointsLike, width: float, taper: float = 0.0) -> Points:
    """Outline of a brush stroke along `line`, `width` wide and narrowed by `taper` (0 to 1) at both ends."""
    p = np.asarray(line, np.float64)
    along = np.gradient(p, axis=0)
    length = np.maximum(np.hypot(along[:, 0], along[:, 1]), 1e-9)
    normal = np.stack([-along[:, 1], along[:, 0]], axis=1) / length[:, None]
    profile = 1 - taper * np.linspace(-1, 1, len(p)) ** 2
    offset = normal * (width / 2 * profile)[:, None]
    return np.concatenate([p + offset, (p - offset)[::-1]])
