"""What a request will take, before it runs: each stage that the pipeline will go through, and its cost.

The stages follow from the plan, as in `pipeline`; their costs from what such stages have taken in this
process (`cost_model`). `learn` takes them from the reports of finished requests, stage by stage.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

from atelier_generator.denoising import Conditions
from atelier_generator.generation import ForwardPass, Run
from atelier_generator.image_group import Sharing
from atelier_generator.lora_tags import in_effect
from atelier_generator.models import Models
from atelier_generator.pixels import works_in_tiles
from atelier_generator.plan import Passes, Plan
from atelier_generator.request import CompletedRequest
from atelier_generator.samplers import Choice
from atelier_generator.unet_operations import count_operations
from atelier_runtime.cost_model import Cost, CostModel, Work, total
from atelier_runtime.metrics import StageReport
from atelier_runtime.sizes import Size
from atelier_runtime.upscaler import Upscaler, network_passes

logger = logging.getLogger(__name__)

_LORA_COST = 0.15
"""What each LoRA adds to a step, on the demo models (docs/speed.md); once seen, such steps have their own."""

# Seconds per pixel, until the first is seen. PNG: that of a portrait on a slow core.
_LANCZOS_S = 30e-9
_ENCODE_S = {"png": 60e-9, "jpeg": 15e-9, "webp": 200e-9, "raw": 3e-9}

_UPSCALER_HOLDS = 448**2  # px of its tile: the rest is on the host

PASSES = frozenset({"base", "hires", "refiner"})
"""The stages that denoise."""


class Stage(NamedTuple):
    """A stage of a request: its name in reports, what it does, and the size of what comes out.

    `shared`: once for all images, otherwise once for each. `on_device`: on the device thread, otherwise
    beside it. `steps`: of a pass, as progress events count them.
    """

    name: str
    work: Work
    size: Size
    shared: bool = False
    on_device: bool = True
    steps: int = 0


@dataclass(frozen=True)
class Estimate:
    """What a request is expected to take, without its wait in the queue.

    `stages`: in order, each with its cost for all images. `cost`: of all of it, to the last image's file.
    `on_device`: of what the device thread does. `peak_bytes`: of the device's memory; None if that of a
    stage is unknown.
    """

    stages: tuple[tuple[Stage, Cost], ...]
    result: Size
    cost: Cost
    on_device: Cost
    peak_bytes: int | None

    @property
    def passes(self) -> tuple[Stage, ...]:
        """The stages that denoise."""
        return tuple(stage for stage, _ in self.stages if stage.name in PASSES)


class Estimator:
    """Knows which stages a request has, and learns what they take."""

    def __init__(
        self,
        models: Models,
        base: Conditions,
        *,
        refiner: Conditions | None,
        inpaint: Conditions | None,
        sharing: Sharing,
    ) -> None:
        """`base`, `refiner`, `inpaint`: those of each network; `sharing`: of the images of one request."""
        self.costs = CostModel()
        self.warming_up = False
        """Whether what is learned is of first runs, which are slow."""
        self._models = models
        self._sharing = sharing
        self._base = _Network("base", base, models.text_to_image.unet)
        self._refiner = (
            _Network("refiner", refiner, models.refiner.unet) if refiner and models.refiner else None
        )
        self._inpaint = (
            _Network("inpaint", inpaint, models.inpaint.unet) if inpaint and models.inpaint else None
        )

    # --- before ---

    def estimate(
        self, request: CompletedRequest, plan: Plan, passes: Passes, *, requests: int = 1
    ) -> Estimate:
        """Return what a request takes, or `requests` of the kind that are denoised together."""
        images = requests * request.num_images
        stages = tuple(self.stages(request, plan, passes, images=images, requests=requests))
        each = [self.costs.estimate(stage.work) for stage in stages]
        costs = [
            cost if stage.shared else cost.times(images) for stage, cost in zip(stages, each, strict=True)
        ]
        known = list(zip(stages, costs, strict=True))
        on_device = [cost for stage, cost in known if stage.on_device]
        peaks = [cost.peak_bytes for stage, cost in known if stage.on_device and stage.name != "text"]
        return Estimate(
            stages=tuple(known),
            result=plan.result,
            cost=total([*on_device, *_beside(stages, each, images)]),
            on_device=total(on_device),
            peak_bytes=None if None in peaks else max(peak or 0 for peak in peaks),
        )

    def stages(
        self, request: CompletedRequest, plan: Plan, passes: Passes, *, images: int = 1, requests: int = 1
    ) -> Iterator[Stage]:
        """Yield the stages of a request in order.

        `images`: those that are denoised together, of `requests` requests.
        """
        upscaler = self._models.upscaler if request.use_upscaler else None
        size = plan.base

        def denoise(name: str, network: _Network, size: Size, steps: int, schedule_steps: int) -> Stage:
            at_once = images if requests > 1 else None
            return self._denoise(request, name, network, size, steps, schedule_steps, images, at_once)

        yield self._text(request, plan)
        inpaint = self._inpaint if request.masked else None
        if request.from_image:
            yield self._encode_start(size, requests, times=2 if inpaint else 1)
        if passes.base:
            yield denoise("base", inpaint or self._base, size, passes.base, request.num_inference_steps)
        if plan.second is not None:
            if plan.second != size:
                yield self._autoencode("decode", size)
                if not size.contains(plan.second):
                    yield _upscale(size, plan.second, upscaler)
                yield self._autoencode("encode_latents", plan.second)
            size = plan.second
            assert plan.redraw is not None, "there is a second pass"
            network = (plan.redraw.by_refiner and self._refiner) or self._base
            name = "hires" if plan.redraw.hires else "refiner"
            yield denoise(name, network, size, plan.redraw.steps, plan.redraw.schedule_steps)
        yield self._autoencode("decode", size)
        if not size.contains(plan.full):
            yield _upscale(size, plan.full, upscaler, on_device=upscaler is not None)
        if not plan.full.contains(plan.result):
            yield _upscale(plan.full, plan.result, None, on_device=False)
        yield _encode(plan.result, request)

    # --- afterwards ---

    def learning(
        self, runs: Sequence[Run], end: Callable[[Run, Exception | None], None]
    ) -> Callable[[Run, Exception | None], None]:
        """Return an `end` that also learns from runs that share their passes."""
        requests = len(runs) if runs[0].images == 1 else 1
        is_first, all_well = True, True

        def learn_and_end(run: Run, error: Exception | None) -> None:
            nonlocal is_first, all_well
            all_well &= error is None
            if error is None:
                # Without those that have left, the passes were those of fewer.
                self.learn(run, run.timer.reports, requests=requests, shared=is_first and all_well)
                is_first = False
            end(run, error)

        return learn_and_end

    def learn(
        self,
        run: Run,
        reports: Sequence[StageReport],
        *,
        requests: int = 1,
        shared: bool = False,
        on_device: bool = True,
    ) -> None:
        """Learn from the reports of a finished run of what was done on the device thread, or beside it.

        `requests`: denoised together. `shared`: also from the stages that are common to all.
        """
        try:
            if not run.memory_retry_used:
                self._learn(run, reports, requests, shared=shared, on_device=on_device)
        except Exception:  # whatever is wrong with an estimate is no reason to lose an image
            logger.exception("nothing was learned from a request")

    def _learn(
        self, run: Run, reports: Sequence[StageReport], requests: int, *, shared: bool, on_device: bool
    ) -> None:
        images = requests * run.images
        stages = [
            stage
            for stage in self.stages(run.request, run.plan, run.passes, images=images, requests=requests)
            if stage.on_device is on_device or (stage.name == "text" and on_device)
        ]
        names, reported = Counter(stage.name for stage in stages), Counter(r.stage for r in reports)
        by_name = {name: [r for r in reports if r.stage == name] for name in names}
        for stage in stages:
            if names[stage.name] != reported[stage.name]:
                continue  # such a stage that is not known here
            report = by_name[stage.name].pop(0)
            if shared or not stage.shared:
                self.costs.observe(
                    stage.work, report.seconds, report.peak_vram_bytes, provisional=self.warming_up
                )

    def learn_upscaling(self, size: Size, seconds: float) -> None:
        """Learn what one pass of the upscaler network takes for an image."""
        upscaler = self._models.upscaler
        assert upscaler is not None, "it has run"
        enlarged = Size(size.width * upscaler.factor, size.height * upscaler.factor)
        self.costs.observe(_upscale(size, enlarged, upscaler).work, seconds, provisional=True)

    # --- the stages ---

    def _text(self, request: CompletedRequest, plan: Plan) -> Stage:
        refine = plan.redraw is not None and plan.redraw.by_refiner
        rows = (1 + request.guided) * (1 + refine)
        variant = request.guided, refine, len(in_effect(request.loras))
        work = Work("text", variant, 1, rows, rows)
        return Stage("text", work, plan.base, shared=True, on_device=self._models.placement.offload)

    def _denoise(
        self,
        request: CompletedRequest,
        name: str,
        network: _Network,
        size: Size,
        steps: int,
        schedule_steps: int,
        images: int,
        at_once: int | None,
    ) -> Stage:
        factor = self._models.text_to_image.vae_scale_factor
        width, height = size.width // factor, size.height // factor
        guided = network.conditions.guides(request.guidance_scale)
        if at_once is None:
            at_once = self._sharing.most(ForwardPass(name, height, width, guided), images)
        timesteps = network.timesteps(request.choice, schedule_steps, steps)
        loras = 0 if network is self._refiner else len(in_effect(request.loras))
        rows = images * (1 + guided)
        work = Work(
            kind=f"unet of the {network.name}",
            variant=(width, height, rows, at_once, loras),
            calls=timesteps * -(-images // at_once),
            amount=timesteps * rows * network.operations.count(width * height) * (1 + _LORA_COST * loras),
            held=min(images, at_once) * (1 + guided) * width * height,
        )
        return Stage(name, work, size, shared=True, steps=timesteps)

    def _encode_start(self, size: Size, requests: int, *, times: int) -> Stage:
        """Return the stage that encodes what requests start from; `times`: for an inpainting UNet two."""
        once = self._autoencode("encode_latents", size)
        calls = requests * times
        work = once.work._replace(calls=calls, amount=calls * once.work.amount)
        return once._replace(work=work, shared=True)

    def _autoencode(self, name: str, size: Size) -> Stage:
        tiled = works_in_tiles(self._models.device, size.pixels)
        kind = f"{name} in tiles" if tiled else name
        work = Work(kind, size, 1, size.pixels, size.pixels, like="decode in tiles" if tiled else "decode")
        return Stage(name, work, size)


class _Network:
    """A UNet, what it computes, and its schedulers."""

    def __init__(self, name: str, conditions: Conditions, unet: object) -> None:
        self.name = name
        self.conditions = conditions
        self.operations = count_operations(unet)
        self._schedule = lru_cache(maxsize=512)(conditions.schedule_length)

    def timesteps(self, choice: Choice, schedule_steps: int, steps: int) -> int:
        """Return how often it runs for the last `steps` of a schedule."""
        timesteps, order = self._schedule(choice, schedule_steps)
        return timesteps - (schedule_steps - steps) * order


def _upscale(size: Size, target: Size, upscaler: Upscaler | None, *, on_device: bool = True) -> Stage:
    if upscaler is None:
        work = Work("lanczos", (size, target), 1, target.pixels, 0, guess_s=_LANCZOS_S * target.pixels)
        return Stage("upscale", work, target, on_device=on_device)
    calls = network_passes(size, target, upscaler.factor)
    pixels = sum(size.pixels * upscaler.factor ** (2 * number) for number in range(calls))
    work = Work("upscaler", (size, target), calls, pixels, min(pixels / calls, _UPSCALER_HOLDS))
    return Stage("upscale", work, target, on_device=on_device)


def _encode(size: Size, request: CompletedRequest) -> Stage:
    name = request.output_format
    guess_s = _ENCODE_S.get(name, _ENCODE_S["png"]) * size.pixels
    work = Work(f"encode {name}", size, 1, size.pixels, size.pixels, guess_s=guess_s)
    return Stage("encode", work, size, on_device=False)


def _beside(stages: Sequence[Stage], each: Sequence[Cost], images: int) -> list[Cost]:
    """Return the costs of what is done beside the device's work, as far as a caller waits for it.

    The prompt is encoded before; the files of all images but the last while the next is made, unless a
    file takes longer than an image.
    """
    own = [(stage, cost) for stage, cost in zip(stages, each, strict=True) if not stage.shared]
    of_image = sum(cost.seconds for stage, cost in own if stage.on_device)
    of_file = sum(cost.seconds for stage, cost in own if not stage.on_device)
    files = 1.0 if of_file <= of_image else 1 + (images - 1) * (1 - of_image / of_file)
    before = [cost for stage, cost in zip(stages, each, strict=True) if stage.shared and not stage.on_device]
    return [*before, *(cost.times(files) for stage, cost in own if not stage.on_device)]
