"""The arithmetic of a request: how large each pass runs, and how many steps it takes.

    requested size ──▶ base pass ──▶ (upscale) ──▶ second pass ──▶ (upscale) ──▶ crop ──▶ result size

A model set may need sizes that are multiples of some number, and may limit the longest side at which its base
network (`max_side`) and its refiner (`refiner_max_side`) run; the upscaler covers the rest.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

from atelier_runtime import defaults
from atelier_runtime.sizes import Size, result_size


class Passes(NamedTuple):
    """Denoising steps of each pass; 0: the pass does not run."""

    base: int
    second: int
    refiner: int

    @property
    def total(self) -> int:
        """All steps of the request."""
        return sum(self)


@dataclass(frozen=True)
class Redraw:
    """How the second pass redraws the image: `strength` of `schedule_steps` are run.

    `by_refiner`: by the refiner network, otherwise by the base. `hires`: at a higher resolution.
    `limited`: the refiner runs it at less than the strength that was requested.
    """

    schedule_steps: int
    strength: float
    by_refiner: bool
    hires: bool
    limited: bool = False

    @property
    def steps(self) -> int:
        """Steps that are run."""
        return steps_run(self.schedule_steps, self.strength)


@dataclass(frozen=True)
class Plan:
    """Sizes of one request's passes."""

    base: Size
    second: Size | None
    """Of the hires or refiner pass; None if there is neither."""
    full: Size
    """The finished image before `lanczos_scale`."""
    result: Size
    limited: bool
    """The set's limits keep the base pass below its size, or the last pass below that of the image."""
    redraw: Redraw | None = None
    """What the second pass does."""


def make_plan(
    requested: Size,
    *,
    hires_fix: bool,
    refine: bool = False,
    lanczos_scale: float | None,
    size_multiple: int,
    max_side: int | None,
    refiner_max_side: int | None = None,
    hires_pass: Size | None = None,
) -> Plan:
    """Choose the sizes of the passes.

    Hires fix: the base pass at 0.75 of the requested size, the second pass at twice that. `hires_pass`: the
    base pass at the requested size, the second pass at this one. `refine`: the
    refiner runs the second pass. The base network runs at most at `max_side`, the refiner at
    `refiner_max_side` if given. `lanczos_scale`: upscaling of the finished image.
    """
    full = result_size(requested, hires_fix=hires_fix, lanczos_scale=None, hires_pass=hires_pass)
    result = result_size(requested, hires_fix=hires_fix, lanczos_scale=lanczos_scale, hires_pass=hires_pass)
    smaller = requested
    if hires_fix:
        scale = defaults.HIRES_BASE_SCALE
        smaller = Size(round(requested.width * scale), round(requested.height * scale))
    base = pass_size(smaller, size_multiple, max_side)
    second = None
    if hires_fix or hires_pass or refine:
        own_limit = refine and refiner_max_side is not None
        second = pass_size(full, size_multiple, refiner_max_side if own_limit else max_side)
    limited = base != pass_size(smaller, size_multiple, None) or not (second or base).contains(full)
    return Plan(base, second, full, result, limited)


def pass_size(requested: Size, size_multiple: int, max_side: int | None) -> Size:
    """Return the size of a pass: rounded up to multiples, or the same aspect ratio within `max_side`."""
    longest = max(requested)
    limit = longest
    if max_side is not None:
        limit = min(longest, max(size_multiple, max_side // size_multiple * size_multiple))
    # Integers throughout: a ratio of floats could round 256 up to the next multiple.
    width, height = (-(-side * limit // (longest * size_multiple)) * size_multiple for side in requested)
    return Size(width, height)


def refiner_schedule_steps(num_inference_steps: int, strength: float = defaults.REFINER_STRENGTH) -> int:
    """Return the schedule length for the refiner, of which `strength` is run.

    Fewer than four steps would leave none to run at strength 0.3, so the schedule is never shorter. Raising
    the strength instead would discard the base image.
    """
    return max(num_inference_steps, math.ceil(1 / strength - 1e-9))


def steps_run(schedule_steps: int, strength: float) -> int:
    """Return how many steps image-to-image runs (diffusers' `get_timesteps`)."""
    return min(int(schedule_steps * strength), schedule_steps)


def strength_problem(num_inference_steps: int, strength: float | None) -> tuple[str, str] | None:
    """Return the field and why its value is impossible: none of the steps would run."""
    if not strength or steps_run(num_inference_steps, strength):
        return None
    lowest = math.ceil(1000 / num_inference_steps) / 1000
    steps = "1 step" if num_inference_steps == 1 else f"{num_inference_steps} steps"
    return "strength", (
        f"{strength:g} of {steps} is less than one step: it must be 0 or at least {lowest:g}, or "
        "there must be more num_inference_steps"
    )


def count_steps(
    num_inference_steps: int, redraw: Redraw | None = None, *, strength: float | None = None
) -> Passes:
    """Return the steps of each pass. `strength`: of a base pass that starts from an image."""
    return Passes(
        base=num_inference_steps if strength is None else steps_run(num_inference_steps, strength),
        second=redraw.steps if redraw is not None and redraw.hires else 0,
        refiner=redraw.steps if redraw is not None and not redraw.hires else 0,
    )
