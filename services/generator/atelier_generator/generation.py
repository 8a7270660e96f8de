"""Requests on their way through the pipeline: their state, progress, warnings and results."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import NamedTuple, TypeVar

import torch

from atelier_generator.denoising import Denoising
from atelier_generator.inpainting import Masked
from atelier_generator.plan import Passes, Plan
from atelier_generator.prompts import EncodedPrompt, PendingPrompt
from atelier_generator.request import CompletedRequest
from atelier_runtime import metrics
from atelier_runtime.device import is_out_of_memory
from atelier_runtime.errors import Cancelled, DeadlineExceeded, OutOfMemory
from atelier_runtime.images import RgbArray, is_lossless
from atelier_runtime.metrics import StageReport, StageTimer
from atelier_runtime.outcomes import ResponseWarning, SkipReason, WarningCode
from atelier_runtime.vram import probe_for

T = TypeVar("T")

_SEED_STRIDE = 0x9E3779B97F4A7C15  # 2^64 / golden ratio: keeps derived seeds apart from the clients' own
_GENERATOR_SEEDS = 2**63


@dataclass(frozen=True)
class Progress:
    """`step` of `total_steps` steps of a pass ("base", "hires" or "refiner") are done.

    `previews`: uint8 RGB (h, w, 3), at most 256 px a side; of each image of the request, if it wants any now.
    """

    stage: str
    step: int
    total_steps: int
    previews: tuple[RgbArray, ...] = field(default=(), compare=False)


@dataclass(eq=False)
class Start:
    """What the images of a request start from instead of noise alone: encoded once, for all of them.

    `latents`: (1, C, H/8, W/8).
    """

    latents: torch.Tensor | None = None
    masked: Masked | None = None


@dataclass(frozen=True)
class Generation:
    """A finished image, uint8 RGB (H, W, 3), and how it was made. Stages are in order."""

    pixels: RgbArray
    seed: int
    num_inference_steps: int
    guidance_scale: float
    sampler: str
    schedule: str
    refiner_applied: bool
    refiner_reason: SkipReason | None
    hires_fix_applied: bool
    upscaler: str
    warnings: tuple[ResponseWarning, ...]
    stages: tuple[StageReport, ...]
    strength: float | None = None
    """None if it did not start from an image."""
    prompt_tokens: int = 0
    hires_strength: float | None = None
    """Of the second pass of hires fix as it ran; None: there was none."""


@dataclass(eq=False)
class Run:
    """The state of one completed request while it runs on `device`.

    `sampler`, `schedule`: the names of those that are used. `check` raises if the request was canceled or its
    deadline has passed; `emit` sends its progress. `latents`: scaled, of the last pass, (1, C, H/8, W/8);
    `image`: what the networks have made of them, uint8 RGB (H, W, 3).
    """

    request: CompletedRequest
    plan: Plan
    passes: Passes
    device: torch.device
    check: Callable[[], None]
    emit: Callable[[Progress], None]
    pending_prompt: PendingPrompt | None
    sampler: str
    schedule: str
    free: Callable[[], None] = lambda: None
    """Drops what the device's memory holds for other requests."""
    number: int = 1
    """Of the request's images, from 1 to `images`."""
    images: int = 1
    start: Start | None = None
    refiner_loaded: bool = False
    prompt_tokens: int = 0
    timer: StageTimer = field(init=False)
    prompt: EncodedPrompt | None = None
    denoising: Denoising | None = None
    latents: torch.Tensor | None = None
    image: RgbArray | None = None
    steps_finished: int = 0  # in the passes that have ended
    steps_done: int = 0
    memory_retry_used: bool = False
    refined: bool = False
    upscaler: str = ""
    warnings: list[ResponseWarning] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Start the timer, after what reading the request's image took."""
        self.timer = StageTimer(probe_for(self.device))
        if (source := self.request.source) is not None:
            self.timer.reports.extend(source.stages)
            self.warnings.extend(source.warnings)
            output_format, quality = self.request.output_format, self.request.quality
            if source.mask is not None and not is_lossless(output_format, quality):
                message = f"{output_format} is lossy: pixels outside the mask are not exactly the image's."
                self.warn(WarningCode.LOSSY_OUTPUT, message)

    @property
    def encoded_prompt(self) -> EncodedPrompt:
        """The prompt, once it has been read."""
        assert self.prompt is not None, "the prompt is read first"
        return self.prompt

    @property
    def scaled_latents(self) -> torch.Tensor:
        """The latents of the last pass."""
        assert self.latents is not None, "there has been a pass"
        return self.latents

    def read_prompt(self) -> None:
        """Wait for the prompt to be encoded."""
        self.check()
        pending, self.pending_prompt = self.pending_prompt, None
        assert pending is not None, "a prompt is read once"
        self.prompt = pending.read(self.check)
        self.timer.reports.append(self.prompt.cost)
        self.warnings.extend(self.prompt.warnings)
        self.prompt_tokens = self.prompt.tokens

    def noise_generator(self, index: int) -> torch.Generator:
        """Return the CPU generator of a pass; pass 0 uses the seed itself."""
        return torch.Generator("cpu").manual_seed(
            (self.request.seed + index * _SEED_STRIDE) % _GENERATOR_SEEDS
        )

    def retried(self, work: Callable[[], T]) -> T:
        """Run `work`. Once per request, if memory runs out, free what can be freed and retry.

        From then on the VAE works in tiles. Raises `OutOfMemory` if memory runs out again.
        """
        try:
            return work()
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            if self.memory_retry_used:
                raise OutOfMemory from None
        # Not inside `except`: there the exception's frames still hold the tensors of the failed attempt.
        self.memory_retry_used = True
        self.free()
        free_memory(self.device)
        self.warn(
            WarningCode.MEMORY_FALLBACK,
            "The device ran short of memory; a part was retried with the autoencoder in tiles.",
        )
        try:
            return work()
        except Exception as error:
            if is_out_of_memory(error):
                raise OutOfMemory from None
            raise

    def let_go(self) -> None:
        """Keep nothing but what the result is made of: neither tensors nor those who wait for it."""
        self.check, self.emit, self.free = _nothing, ignore_progress, _nothing
        self.pending_prompt = self.prompt = self.denoising = self.latents = self.start = None

    def result(self, pixels: RgbArray) -> Generation:
        """Return the result of the request, once its image is finished."""
        reason, redraw = None, self.plan.redraw
        if self.request.use_refiner and not self.refined:
            by_base = self.refiner_loaded and self.request.hires_pass is not None
            reason = SkipReason.SKIPPED if by_base else SkipReason.NOT_LOADED
        return Generation(
            pixels=pixels,
            seed=self.request.seed,
            num_inference_steps=self.request.num_inference_steps,
            guidance_scale=self.request.guidance_scale,
            sampler=self.sampler,
            schedule=self.schedule,
            refiner_applied=self.refined,
            refiner_reason=reason,
            hires_fix_applied=self.request.hires_fix or self.request.hires_pass is not None,
            upscaler=self.upscaler,
            warnings=tuple(self.warnings),
            stages=tuple(self.timer.reports),
            strength=self.request.strength,
            prompt_tokens=self.prompt_tokens,
            hires_strength=redraw.strength if redraw is not None and redraw.hires else None,
        )

    # --- warnings ---

    def warn(self, code: WarningCode, message: str) -> None:
        """Add a warning to the response."""
        self.warnings.append(ResponseWarning(code, message))

    def warn_of_limits(self) -> None:
        """Warn of what the model set limits in the passes, once the image has its full size."""
        plan = self.plan
        wanted = self.request.hires_pass
        if wanted is not None and plan.redraw is not None and plan.redraw.limited:
            self.warn(
                WarningCode.OPTION_LIMITED,
                f"hires_pass.strength: {plan.redraw.strength:g} instead of {wanted.strength:g}: the refiner "
                "is not made for more, and this model set's base draws smaller images only",
            )
        if self.request.refiner_strength is not None and (plan.redraw is None or plan.redraw.hires):
            message = "refiner_strength: has no effect where the refiner has no pass of its own"
            self.warn(WarningCode.OPTION_HAS_NO_EFFECT, message)
        if not plan.limited:
            return
        text = f"generated at {plan.base}"
        if plan.second is not None:
            text += f" with a second pass at {plan.second}"
        text += ", the longest side that this model set generates well"
        if not (plan.second or plan.base).contains(plan.full):
            text += f", then upscaled to {plan.full} by {self.upscaler}"
        self.warn(WarningCode.SIZE_LIMITED, text)


def _nothing() -> None:
    pass


def ignore_progress(progress: Progress) -> None:
    """Do nothing."""


class ForwardPass(NamedTuple):
    """What the memory of a UNet's forward pass depends on, but for how many share it."""

    stage: str
    height: int  # of the latents
    width: int
    guided: bool
    tokens: int = 77  # of the text: one chunk


class EveryRequestEnded(Exception):
    """No request of the batch is left: there is nothing more to do."""


class Batch:
    """Requests whose passes agree, and which run together.

    One that fails, is canceled or is finished leaves; the others do not notice.
    """

    def __init__(self, runs: Sequence[Run], end: Callable[[Run, Exception | None], None]) -> None:
        """`end` is called for each run that leaves, with the error that has stopped it, if any."""
        self.runs = list(runs)
        self._end = end

    def each(self, work: Callable[[Run], None]) -> None:
        """Do the work of each run. Raises `EveryRequestEnded` if none is left afterwards."""
        for run in list(self.runs):
            self.attempt(run, work)
        if not self.runs:
            raise EveryRequestEnded

    def attempt(self, run: Run, work: Callable[[Run], None]) -> None:
        """Do the work of one run, which leaves if that raises."""
        try:
            work(run)
        except Exception as error:
            self.fail(run, error)

    def fail(self, run: Run, error: Exception) -> None:
        """Let a run leave that cannot go on."""
        if isinstance(error, Cancelled | DeadlineExceeded):
            metrics.CANCELLED_STEPS.inc(max(0, run.passes.total - run.steps_done))
        self.end(run, error)

    def most_together(self, kind: ForwardPass, max_batch: int) -> int:
        """Return how many runs are to share a forward pass, of `max_batch` requests at most."""
        return max_batch

    def ran_short(self, kind: ForwardPass, fitting: int) -> None:
        """Learn that a forward pass of as many as were to share it ran out of memory, and how many fit."""

    def end(self, run: Run, error: Exception | None = None) -> None:
        """Let a run leave."""
        self.runs.remove(run)
        run.let_go()
        self._end(run, error)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time what the runs do together; each of them reports all of it."""
        timer = StageTimer(probe_for(self.runs[0].device))
        with timer.stage(name):
            yield
        for run in self.runs:
            run.timer.reports.extend(timer.reports)


def free_memory(device: torch.device) -> None:
    """Free what a failed attempt has left, outside its `except`: its frames hold the tensors until then."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
