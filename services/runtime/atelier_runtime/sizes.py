"""The arithmetic of image sizes that the gateway and the generator share."""

from __future__ import annotations

import math
from typing import NamedTuple

from atelier_runtime import defaults


class Size(NamedTuple):
    """Width and height in px."""

    width: int
    height: int

    def __str__(self) -> str:
        return f"{self.width}x{self.height}"

    @property
    def pixels(self) -> int:
        """Width times height."""
        return self.width * self.height

    def contains(self, other: Size) -> bool:
        """Return whether `other` can be cut out of this size."""
        return self.width >= other.width and self.height >= other.height


def result_size(
    requested: Size, *, hires_fix: bool, lanczos_scale: float | None, hires_pass: Size | None = None
) -> Size:
    """Return the size of the generator's finished image: the requested one, upscaled, or `hires_pass`.

    Hires fix makes each side 1.5 times as long, `lanczos_scale` that many times. Sides are rounded down to a
    multiple of 8, unless they stay as they are.
    """
    requested = hires_pass or requested
    scale = 1.0
    if hires_fix:
        scale = defaults.HIRES_BASE_SCALE * defaults.HIRES_ENLARGEMENT
    elif lanczos_scale is not None:
        scale = lanczos_scale
    if scale == 1:
        return requested
    multiple = defaults.SIDE_PX_MULTIPLE
    # Without the small addend 360 * 1.4 == 503.99999999999994 would be rounded down to 496, not 504.
    width, height = (math.floor(side * scale / multiple + 1e-9) * multiple for side in requested)
    return Size(width, height)
