"""The image that a request starts from, and its mask: as pixels at the size of the result."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from atelier_runtime.images import RgbArray
from atelier_runtime.metrics import StageReport
from atelier_runtime.outcomes import ResponseWarning
from atelier_runtime.sizes import Size

MaskArray = NDArray[np.uint8]

DRAWN_FROM = 16
"""The networks draw anew what has at least this value in a mask: more than JPEG makes of black."""


@dataclass(frozen=True, eq=False)
class Source:
    """An image, uint8 RGB (H, W, 3), and what is to be drawn anew in it.

    `mask`: uint8 (H, W), 0 keeps a pixel, 255 replaces it; None: all of the image is drawn anew.
    `warnings` and `stages`: of reading them.
    """

    pixels: RgbArray
    mask: MaskArray | None = None
    warnings: tuple[ResponseWarning, ...] = ()
    stages: tuple[StageReport, ...] = ()
    hashes: Mapping[str, str] = field(default_factory=dict)
    """SHA-256 of the files, for the recipe."""

    @property
    def size(self) -> Size:
        """Width and height in px."""
        return Size(self.pixels.shape[1], self.pixels.shape[0])

    def composed(self, drawn: RgbArray) -> RgbArray:
        """Return `drawn`, of the same size, where the mask is white, the image where it is black.

        Between them a blend, rounded to the nearest level.
        """
        if self.mask is None:
            return drawn
        result = self.pixels.copy()
        touched = self.mask > 0
        weight = self.mask[touched].astype(np.int32)[:, None]
        kept, new = self.pixels[touched].astype(np.int32), drawn[touched].astype(np.int32)
        result[touched] = (kept * (255 - weight) + new * weight + 127) // 255
        return result
