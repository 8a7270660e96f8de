"""What `quality` means: denoising steps, relative to the model set's own, and a second pass at full size."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from atelier_runtime import defaults
from atelier_runtime.sizes import Size

QualityName = Literal["low", "medium", "high", "xhigh", "max", "auto", "standard", "hd"]
EffectiveQuality = Literal["low", "medium", "high", "xhigh", "max"]
"""Those that an answer may name: the older names and auto stand for one of them."""


@dataclass(frozen=True)
class Quality:
    """What one quality does. `steps`: times the model set's steps; None: these, without asking for them."""

    effective: EffectiveQuality
    steps: float | None
    hires: bool


QUALITIES: Mapping[QualityName, Quality] = {
    "low": Quality("low", 0.5, hires=False),
    "medium": Quality("medium", None, hires=False),
    "standard": Quality("medium", None, hires=False),
    "auto": Quality("medium", None, hires=False),
    "high": Quality("high", None, hires=True),
    "hd": Quality("high", None, hires=True),
    "xhigh": Quality("xhigh", 1.5, hires=True),
    "max": Quality("max", 2, hires=True),
}
"""docs/openai.md shows this table."""

DEFAULT: QualityName = "auto"

BASE_SCALE = defaults.HIRES_BASE_SCALE
"""Of the first pass, where there is a second."""


def steps_of(quality: Quality, own: int) -> int | None:
    """Return the steps of a quality, given the model set's own; None: these."""
    if quality.steps is None:
        return None
    low, high = defaults.NUM_INFERENCE_STEPS_RANGE
    return max(low, min(high, int(quality.steps * own)))


def strength_of(steps: object) -> float | None:
    """Return how much of an image so few steps draw anew; None: as much as usual.

    At least one of them must run. What is no number of steps is for others to refuse.
    """
    if not isinstance(steps, int | float) or steps < 1 or steps * defaults.STRENGTH >= 1:
        return None
    return 1 / steps


def base_of(size: Size) -> Size | None:
    """Return the size of the first pass of an image; None: it would be too small for two passes."""
    sides = [BASE_SCALE * side for side in (size.width, size.height)]
    if min(sides) < defaults.SIDE_PX_RANGE[0]:
        return None
    multiple = defaults.SIDE_PX_MULTIPLE
    return Size(*(multiple * round(side / multiple) for side in sides))
