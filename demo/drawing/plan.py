"""Where the parts of one head are, frontal or turned, and where the light comes from.

A head's own frame has its origin at the center of the head and half the head's height as its unit: the chin
is at y = 1, the crown of the skull at y = -1. Everything is defined as seen from the front. A turned head is
the same drawing wrapped around a flattened ball (`projected`), landmarks included.
"""

from dataclasses import dataclass

import numpy as np

from .person import Person
from .shapes import Points, PointsLike

HALF_WIDTH = 0.8
SIDES = (-1.0, 1.0)
_MOST_DEGREES = 33.0
_DEPTH = 0.46
_NOSE_DEPTH = 0.24


@dataclass(frozen=True)
class Light:
    """Where light comes from: `side` -1 is the left, 1 the right; `rim` adds a soft light from behind."""

    side: float = -1.0
    rim: bool = False


class HeadPlan:
    """Where the parts of one person's head are."""

    def __init__(self, person: Person, light: Light) -> None:
        """Take the person and the image's light."""
        child = person.age == "child"
        self.light = light
        self.shadow = -light.side
        """The side in shadow."""
        self.half_width = HALF_WIDTH * person.width
        self.yaw = np.radians(_MOST_DEGREES) * person.turn
        self._sin, self._cos = float(np.sin(self.yaw)), float(np.cos(self.yaw))
        self.strongly_turned = abs(person.turn) > 0.4
        self.eye_y = 0.14 if child else 0.05
        self.eye_gap = 0.37 * person.width
        self.eye_size = (0.2, 0.165) if child else (0.195, 0.145)
        self.nose = (0.0, 0.38 if child else 0.33)
        self.mouth_y = 0.62 if child else 0.585
        self.mouth_half = {"laughing": 0.31, "smiling": 0.28, "serious": 0.215}[person.expression]
        if child:
            self.mouth_half *= 0.88

    def projected(self, points: PointsLike) -> Points:
        """Frontal points of the face after the turn of the head."""
        p = np.asarray(points, np.float64)
        x, y = p[:, 0], p[:, 1]
        depth = _DEPTH * np.sqrt(np.maximum(1 - (x / (1.15 * self.half_width)) ** 2, 0))
        tip = (x / 0.17) ** 2 + ((y - self.nose[1]) / 0.2) ** 2
        depth = depth + _NOSE_DEPTH * np.exp(-tip)
        turned = p.copy()
        turned[:, 0] = x * self._cos + depth * self._sin
        return turned

    def leaned(self, points: PointsLike) -> Points:
        """Points of the head's silhouette after the turn: the chin moves along, the crown lags behind."""
        leaned = np.array(points, np.float64)
        leaned[:, 0] += 0.13 * self._sin * np.minimum(np.maximum(leaned[:, 1], -1.2), 1.0)
        return leaned

    def seen(self, points: PointsLike) -> Points:
        """Frontal points of the face in the frame of the turned head."""
        return self.leaned(self.projected(points))

    def eye(self, side: float) -> tuple[float, float]:
        """Center of the pupil, frontal; side -1 is the left one in the image."""
        return side * self.eye_gap, self.eye_y

    def mouth_corner(self, side: float) -> tuple[float, float]:
        """Corner of the mouth, frontal."""
        return side * self.mouth_half, self.mouth_y

    def ear(self, side: float) -> tuple[float, float]:
        """Center of an ear: the nearer one moves forward, the farther one behind the head."""
        x = side * self.half_width * 0.98 * np.cos(self.yaw) - 0.1 * np.sin(self.yaw)
        return float(x), 0.13

    def ear_shows(self, side: float) -> bool:
        """Whether an ear is not hidden by the turned head."""
        return not self.strongly_turned or side * self.yaw < 0

    def landmarks(self) -> Points:
        """(5, 2): left eye, right eye, nose tip, left and right mouth corner as seen in the image."""
        return self.seen([self.eye(-1), self.eye(1), self.nose, self.mouth_corner(-1), self.mouth_corner(1)])
