"""enable_hr: what was drawn is upscaled, and drawn again."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from atelier_gateway.api.automatic1111.loaded import Loaded, choose_upscaler
from atelier_gateway.api.automatic1111.options import Choices
from atelier_gateway.api.automatic1111.request import Given
from atelier_gateway.api.automatic1111.strength import own_steps, strength_of
from atelier_gateway.core.values import HiresPass
from atelier_runtime import defaults
from atelier_runtime.errors import FieldViolation, InvalidRequest


def second_pass(given: Given, choices: Choices, loaded: Loaded | None) -> dict[str, Any]:
    """Return what the second pass of txt2img sets of the spec. Raises `InvalidRequest`."""
    if not given["enable_hr"]:
        return {}
    violations = list(_other_second_pass(given, loaded))
    size = _second_size(given)
    low, high = defaults.HIRES_SIDE_PX_RANGE
    for field, side in zip(("hr_resize_x", "hr_resize_y"), size, strict=True):
        if not low <= side <= high:
            field = field if given["hr_resize_x"] or given["hr_resize_y"] else "hr_scale"
            message = f"the second pass would have {size[0]} x {size[1]} px; a side has {low} to {high}"
            violations.append(FieldViolation(field, message))
    width, height = _first_size(given)
    if not violations and max(size[0] / width, size[1] / height) < 1:
        message = (
            f"the second pass would have {size[0]} x {size[1]} px, less than the first: {width} x {height}"
        )
        violations.append(FieldViolation("hr_resize_x" if given["hr_resize_x"] else "hr_resize_y", message))
    use_upscaler: bool | None = None
    try:
        choice = choose_upscaler(given["hr_upscaler"], loaded.upscaler if loaded is not None else None)
        use_upscaler = choice.use_network
        if choice.differs:
            given.tell("hr_upscaler")
    except ValueError as error:
        violations.append(FieldViolation("hr_upscaler", str(error)))
    if violations:
        raise InvalidRequest(violations)
    steps = given["hr_second_pass_steps"] or given["steps"] or own_steps(loaded)
    hires = HiresPass(*size, strength_of(given, steps), steps)
    return {"hires_pass": hires, "use_upscaler": use_upscaler}


def _first_size(given: Given) -> tuple[int, int]:
    return given["width"] or defaults.SIDE_PX, given["height"] or defaults.SIDE_PX


def _second_size(given: Given) -> tuple[int, int]:
    width, height = _first_size(given)
    x, y = given["hr_resize_x"] or 0, given["hr_resize_y"] or 0
    scale = 2.0 if given["hr_scale"] is None else given["hr_scale"]
    if x == y == 0:
        x, y = width * scale, height * scale
    elif x == 0:
        x = y * width / height
    elif y == 0:
        y = x * height / width
    multiple = defaults.SIDE_PX_MULTIPLE
    # the addend: 360 * 1.4 is 503.99999999999994
    return math.floor(x / multiple + 1e-9) * multiple, math.floor(y / multiple + 1e-9) * multiple


def _other_second_pass(given: Given, loaded: Loaded | None) -> Iterator[FieldViolation]:
    """Yield what would make the second pass draw something else than the first."""
    message = "must be that of the first pass, or empty"
    for field in ("prompt", "negative_prompt"):
        asked = given[f"hr_{field}"]
        if asked and asked.strip() not in ("", (given[field] or "").strip()):
            yield FieldViolation(f"hr_{field}", message)
    sampler, scheduler = (
        None if (given[name] or "").strip().casefold() in ("", same) else given[name]
        for name, same in (("hr_sampler_name", "use same sampler"), ("hr_scheduler", "use same scheduler"))
    )
    if loaded is None or (sampler is None and scheduler is None):
        return
    of_first = given["sampler_name"] or given["sampler_index"] or None
    first = loaded.sampling(of_first, given["scheduler"])
    second = loaded.sampling(sampler or of_first, scheduler)
    if second.sampler != first.sampler:
        yield FieldViolation("hr_sampler_name", message)
    elif second.schedule != first.schedule and (scheduler is not None or second.is_named):
        yield FieldViolation("hr_sampler_name" if scheduler is None else "hr_scheduler", message)
