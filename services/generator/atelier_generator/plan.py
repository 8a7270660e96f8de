"""The arithmetic of a request: how large each pass runs, and how many steps it takes.

    asked size ──▶ base pass ──▶ (enlarge) ──▶ second pass ──▶ (enlarge) ──▶ crop ──▶ result size

A model set may need sizes that are multiples of some number, and may name the longest side that
its base network draws well (`max_side`) and, if it is another, its refiner (`refiner_max_side`); the
upscaler covers what the passes may not draw.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

from atelier_runtime import defaults


class Size(NamedTuple):
    """Width and height in px."""

    width: int
    height: int

    def __str__(self) -> str:
        return f"{self.width}x{self.height}"

    def contains(self, other: Size) -> bool:
        """Tell whether `other` can be cut out of this size."""
        return self.width >= other.width and self.height >= other.height


class Passes(NamedTuple):
    """Denoising steps that each pass runs; 0: the pass does not run."""

    base: int
    second: int
    refiner: int

    @property
    def total(self) -> int:
        """All steps of the request."""
        return sum(self)


@dataclass(frozen=True)
class Plan:
    """Sizes of one request's passes."""

    base: Size
    second: Size | None
    """Of the pass for hires fix or by the refiner; None if there is neither."""
    full: Size
    """The finished picture before the simple enlargement."""
    result: Size
    limited: bool
    """The set's limits held the base pass below its size, or the last pass below that of the picture."""


def make_plan(
    asked: Size,
    *,
    hires_fix: bool,
    refine: bool = False,
    simple_scale: float | None,
    size_multiple: int,
    max_side: int | None,
    refiner_max_side: int | None = None,
) -> Plan:
    """Choose the sizes of the passes.

    Hires fix: the base pass at 0.75 of the asked size, the second pass at twice that. `refine`: the refiner
    runs the second pass. The base network draws at most at `max_side`, the refiner at `refiner_max_side`,
    if that is given. `simple_scale`: the legacy Lanczos enlargement of the finished picture.
    """
    full = result_size(asked, hires_fix=hires_fix, simple_scale=None)
    result = result_size(asked, hires_fix=hires_fix, simple_scale=simple_scale)
    smaller = asked
    if hires_fix:
        scale = defaults.HIRES_BASE_SCALE
        smaller = Size(round(asked.width * scale), round(asked.height * scale))
    base = drawn_size(smaller, size_multiple, max_side)
    second = None
    if hires_fix or refine:
        own_limit = refine and refiner_max_side is not None
        second = drawn_size(full, size_multiple, refiner_max_side if own_limit else max_side)
    limited = base != drawn_size(smaller, size_multiple, None) or not (second or base).contains(full)
    return Plan(base, second, full, result, limited)


def result_size(asked: Size, *, hires_fix: bool, simple_scale: float | None) -> Size:
    """Return the finished size: 1.5 times the asked one for hires fix, down to a multiple of 8."""
    scale = 1.0
    if hires_fix:
        scale = defaults.HIRES_BASE_SCALE * defaults.HIRES_ENLARGEMENT
    elif simple_scale is not None:
        scale = simple_scale
    multiple = defaults.SIDE_PX_MULTIPLE
    # The small addend keeps e.g. 1000 * 1.1 = 1100.0000000000002 and 1099.9999999999998 alike.
    width, height = (math.floor(side * scale / multiple + 1e-9) * multiple for side in asked)
    return Size(width, height)


def drawn_size(asked: Size, size_multiple: int, max_side: int | None) -> Size:
    """Return the size at which a pass runs: the next multiples, or the asked aspect within `max_side`."""
    longest = max(asked)
    limit = longest
    if max_side is not None:
        limit = min(longest, max(size_multiple, max_side // size_multiple * size_multiple))
    # Whole numbers throughout: a ratio of floats could round 256 up to the next multiple.
    width, height = (-(-side * limit // (longest * size_multiple)) * size_multiple for side in asked)
    return Size(width, height)


def centred_crop(drawn: Size, wanted: Size) -> tuple[int, int, int, int]:
    """Return (left, top, right, bottom) of `wanted` in the middle of `drawn`, which contains it."""
    left, top = (drawn.width - wanted.width) // 2, (drawn.height - wanted.height) // 2
    return left, top, left + wanted.width, top + wanted.height


def covering_box(drawn: Size, wanted: Size) -> tuple[float, float, float, float]:
    """Return the centred (left, top, right, bottom) of `drawn` that has the aspect of `wanted`."""
    scale = max(wanted.width / drawn.width, wanted.height / drawn.height)
    width = min(drawn.width, wanted.width / scale)
    height = min(drawn.height, wanted.height / scale)
    left, top = (drawn.width - width) / 2, (drawn.height - height) / 2
    return left, top, left + width, top + height


def refiner_schedule_steps(num_inference_steps: int) -> int:
    """Return the schedule length for the refiner, of which `REFINER_STRENGTH` is run.

    Fewer than four steps would leave none to run at strength 0.3, so the schedule is never shorter.
    Raising the strength instead would throw the base picture away.
    """
    return max(num_inference_steps, math.ceil(1 / defaults.REFINER_STRENGTH))


def steps_run(schedule_steps: int, strength: float) -> int:
    """Return how many steps image-to-image runs (diffusers' `get_timesteps`)."""
    return min(int(schedule_steps * strength), schedule_steps)


def count_steps(num_inference_steps: int, *, hires_fix: bool, refine: bool) -> Passes:
    """Return the steps of each pass; `refine`: the refiner network runs after the base pass."""
    return Passes(
        base=num_inference_steps,
        second=steps_run(defaults.HIRES_STEPS, defaults.HIRES_STRENGTH) if hires_fix else 0,
        refiner=steps_run(refiner_schedule_steps(num_inference_steps), defaults.REFINER_STRENGTH)
        if refine
        else 0,
    )
