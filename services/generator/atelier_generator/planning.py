"""What a request's passes are with a model set: their sizes, and which network redraws the image."""

from __future__ import annotations

import math
from dataclasses import replace

from atelier_generator.plan import Plan, Redraw, make_plan, refiner_schedule_steps
from atelier_generator.request import GenerateRequest, HiresPass
from atelier_runtime import defaults
from atelier_runtime.weights import ModelSet


def plan_request(request: GenerateRequest, model_set: ModelSet, *, refiner: bool) -> Plan:
    """Return the plan of a request. `refiner`: the set's refiner is loaded."""
    multiple = model_set.size_multiple
    if request.source is not None:  # of any size
        multiple = math.lcm(multiple, defaults.SIDE_PX_MULTIPLE)
    redraw = _redraw(request, model_set, refiner)
    plan = make_plan(
        request.size,
        hires_fix=request.hires_fix,
        refine=redraw is not None and redraw.by_refiner,
        lanczos_scale=request.lanczos_scale,
        size_multiple=multiple,
        max_side=model_set.max_side,
        refiner_max_side=model_set.refiner_max_side,
        hires_pass=None if request.hires_pass is None else request.hires_pass.size,
    )
    return replace(plan, redraw=redraw)


def _redraw(request: GenerateRequest, model_set: ModelSet, refiner: bool) -> Redraw | None:
    """Return what the second pass does, None if there is none."""
    if request.hires_fix:
        return Redraw(defaults.HIRES_STEPS, defaults.HIRES_STRENGTH, by_refiner=refiner, hires=True)
    if request.hires_pass is not None:
        return _redraw_at_size(request.hires_pass, model_set, refiner)
    if not refiner or not request.use_refiner:
        return None
    steps = request.num_inference_steps or model_set.defaults.num_inference_steps
    strength = defaults.REFINER_STRENGTH if request.refiner_strength is None else request.refiner_strength
    return Redraw(refiner_schedule_steps(steps, strength), strength, by_refiner=True, hires=False)


def _redraw_at_size(hires_pass: HiresPass, model_set: ModelSet, refiner: bool) -> Redraw:
    """Choose the network of a hires pass, and its strength.

    A refiner is trained on the last noise levels only: beyond `REFINER_MOST_STRENGTH` the base takes the
    pass, unless the set limits it to a smaller size than the refiner. Then the refiner redraws as much as it
    can.
    """
    steps, strength = hires_pass.num_inference_steps, hires_pass.strength
    most = defaults.REFINER_MOST_STRENGTH
    if not refiner or strength <= most:
        return Redraw(steps, strength, by_refiner=refiner, hires=True)
    base_side, refiner_side = model_set.max_side, model_set.refiner_max_side
    if base_side is None or max(hires_pass.size) <= base_side or refiner_side in (None, base_side):
        return Redraw(steps, strength, by_refiner=False, hires=True)
    steps = refiner_schedule_steps(steps, most)
    return Redraw(steps, most, by_refiner=True, hires=True, limited=True)
