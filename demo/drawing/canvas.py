"""An image to fill with outlines, in coordinates that do not depend on pixels."""

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from .palette import Color
from .shapes import Points, PointsLike, curve, ribbon

_SUBPIXEL_BITS = 5
_OWNERS_SIDE = 256

Bend = Callable[[Points], Points]


def _softened(mask: NDArray[np.uint8], sigma: float) -> NDArray[np.uint8]:
    # Two box filters of this width have the Gaussian's variance; a Gaussian's cost would grow with sigma.
    width = 2 * round((np.sqrt(6 * sigma**2 + 1) - 1) / 2) + 1
    return np.asarray(cv2.blur(cv2.blur(mask, (width, width)), (width, width)), np.uint8)


@dataclass
class Owners:
    """Whose paint covers each point of the image, at a fixed resolution, so the same for any image size."""

    places: NDArray[np.uint8]
    now: int = 0
    """The owner of the paint being applied; 0 is nobody."""

    def at(self, points: Points) -> NDArray[np.uint8]:
        """Owners at points given as fractions of the image's side; 255 outside the image."""
        x, y = np.floor(points * _OWNERS_SIDE).astype(int).T
        inside = (x >= 0) & (x < _OWNERS_SIDE) & (y >= 0) & (y < _OWNERS_SIDE)
        last = _OWNERS_SIDE - 1
        return np.where(inside, self.places[y.clip(0, last), x.clip(0, last)], 255).astype(np.uint8)


class Canvas:
    """Square RGB image; (0, 0) is its top left corner and (1, 1) its bottom right one.

    `placed` returns a view of the same image with another origin, scale and rotation, so that a head is
    defined once in units of its own size. What is drawn does not depend on the number of pixels.
    """

    def __init__(self, side: int) -> None:
        self.side = side
        self.pixels: NDArray[np.uint8] = np.zeros((side, side, 3), np.uint8)
        self.owners = Owners(np.zeros((_OWNERS_SIDE, _OWNERS_SIDE), np.uint8))
        self._matrix = np.eye(2)
        self._origin = np.zeros(2)
        self._bend: Bend | None = None

    def placed(self, x: float, y: float, scale: float, degrees: float = 0.0) -> "Canvas":
        """View with origin (x, y) and units of `scale`, in this view's units, rotated clockwise."""
        view = self._copy()
        sin, cos = np.sin(np.radians(degrees)), np.cos(np.radians(degrees))
        view._matrix = self._matrix @ (scale * np.array([[cos, -sin], [sin, cos]]))
        view._origin = self.to_picture([(x, y)])[0]
        return view

    def bent(self, bend: Bend) -> "Canvas":
        """View whose points all pass through a function first. Views placed on it are not bent."""
        view = self._copy()
        view._matrix, view._origin, view._bend = self._matrix, self._origin, bend
        return view

    def _copy(self) -> "Canvas":
        view = Canvas.__new__(Canvas)
        view.side, view.pixels, view.owners, view._bend = self.side, self.pixels, self.owners, None
        return view

    def to_picture(self, points: PointsLike) -> Points:
        """Points of this view as fractions of the image's side."""
        p = np.asarray(points, np.float64)
        return (self._bend(p) if self._bend else p) @ self._matrix.T + self._origin

    def fill(self, outline: PointsLike, color: Color) -> None:
        """Fill an outline with an opaque color."""
        points = self._fixed_point(outline)
        cv2.fillPoly(self.pixels, [points], color, cv2.LINE_AA, _SUBPIXEL_BITS)
        if self.owners.now:
            # From fixed-point pixels of this image, relative to the first one's center, to owners' pixels.
            factor = _OWNERS_SIDE / self.side
            places = points * (factor / (1 << _SUBPIXEL_BITS)) + 0.5 * factor  # 0.5 to round, minus 0.5
            cv2.fillPoly(self.owners.places, [np.floor(places).astype(np.int32)], self.owners.now)

    def stroke(self, line: PointsLike, width: float, color: Color, taper: float = 0.0) -> None:
        """Brush stroke through `line`, smoothed; see `shapes.ribbon`."""
        self.fill(ribbon(curve(line), width, taper), color)

    def blend(
        self,
        outline: PointsLike,
        color: Color,
        opacity: float = 1.0,
        within: PointsLike | None = None,
        softness: float = 0.0,
    ) -> None:
        """Blend a color over an outline, clipped to the outline `within`.

        `opacity` is 0 to 1; `softness` is the sigma, in this view's units, that blurs the outline's own edge.
        """
        points = self._fixed_point(outline)
        sigma = softness * self._scale() * self.side
        window = self._window(points, 2.5 * sigma)
        if window is None:
            return
        mask = self._mask(points, window)
        if sigma > 0.5:
            mask = _softened(mask, sigma)
        if within is not None:
            limit = self._mask(self._fixed_point(within), window)
            mask = np.asarray(cv2.multiply(mask, limit, scale=1 / 255), np.uint8)
        self._blend_mask(mask.astype(np.float32) * (opacity / 255), window, color)

    def glow(
        self,
        x: float,
        y: float,
        rx: float,
        ry: float,
        color: Color,
        opacity: float,
        within: PointsLike | None = None,
    ) -> None:
        """Soft round spot that fades out at the radii `rx` and `ry` (in this view's units, not rotated)."""
        center = self.to_picture([(x, y)])[0] * self.side
        radii = np.array([rx, ry]) * self._scale() * self.side
        corners = np.round(np.stack([center - radii, center + radii]) * (1 << _SUBPIXEL_BITS)).astype(
            np.int32
        )
        window = self._window(corners, 0.0)
        if window is None:
            return
        left, top, right, bottom = window
        across = ((np.arange(left, right, dtype=np.float32) + 0.5 - center[0]) / radii[0]) ** 2
        down = ((np.arange(top, bottom, dtype=np.float32) + 0.5 - center[1]) / radii[1]) ** 2
        mask = np.maximum(1 - (down[:, None] + across[None]), 0).astype(np.float32) ** 2 * opacity
        if within is not None:
            mask *= self._mask(self._fixed_point(within), window).astype(np.float32) / 255
        self._blend_mask(mask, window, color)

    def gradient(self, top: Color, bottom: Color, until: float = 1.0) -> None:
        """Cover the image from its top down to `until` with a vertical gradient from one color to another."""
        rows = max(1, round(until * self.side))
        t = np.linspace(0, 1, rows, dtype=np.float32)[:, None]
        run = np.array(top, np.float32) * (1 - t) + np.array(bottom, np.float32) * t
        self.pixels[:rows] = cv2.repeat(np.round(run).astype(np.uint8)[:, None], 1, self.side)

    def _scale(self) -> float:
        return float(np.hypot(self._matrix[0, 0], self._matrix[1, 0]))

    def _fixed_point(self, points: PointsLike) -> NDArray[np.int32]:
        # OpenCV's (0, 0) is the center of the first pixel, ours is its corner: hence the half pixel.
        pixels = self.to_picture(points) * self.side - 0.5
        return np.round(pixels * (1 << _SUBPIXEL_BITS)).astype(np.int32)

    def _window(self, points: NDArray[np.int32], margin: float) -> tuple[int, int, int, int] | None:
        low = points.min(axis=0) / (1 << _SUBPIXEL_BITS) - margin - 2
        high = points.max(axis=0) / (1 << _SUBPIXEL_BITS) + margin + 3
        left, top = (int(max(v, 0)) for v in low)
        right, bottom = (int(min(v, self.side)) for v in high)
        return (left, top, right, bottom) if left < right and top < bottom else None

    @staticmethod
    def _mask(points: NDArray[np.int32], window: tuple[int, int, int, int]) -> NDArray[np.uint8]:
        left, top, right, bottom = window
        mask = np.zeros((bottom - top, right - left), np.uint8)
        shifted = points - np.array([left, top], np.int32) * (1 << _SUBPIXEL_BITS)
        cv2.fillPoly(mask, [shifted], 255, cv2.LINE_AA, _SUBPIXEL_BITS)
        return mask

    def _blend_mask(self, mask: NDArray[np.float32], window: tuple[int, int, int, int], color: Color) -> None:
        left, top, right, bottom = window
        region = self.pixels[top:bottom, left:right]
        paint = np.empty_like(region)
        paint[:] = np.tile(np.array(color, np.uint8), (right - left, 1))
        region[:] = cv2.blendLinear(region, paint, 1 - mask, mask)
