"""One request on its way through the pipeline: its state, its progress, its warnings and its result."""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch

from atelier_generator.plan import Passes, Plan
from atelier_generator.prompt_words import truncation_warning
from atelier_generator.request import GenerateRequest
from atelier_runtime.device import is_out_of_memory
from atelier_runtime.errors import OutOfMemory
from atelier_runtime.images import RgbArray
from atelier_runtime.metrics import StageReport, StageTimer
from atelier_runtime.outcomes import ResponseWarning, SkipReason, WarningCode

T = TypeVar("T")

_SEED_STRIDE = 0x9E3779B97F4A7C15  # 2^64 / golden ratio: keeps derived seeds apart from the clients' own
_GENERATOR_SEEDS = 2**63


@dataclass(frozen=True)
class Progress:
    """`step` of `total_steps` steps of a pass ("base", "hires" or "refiner") are done."""

    stage: str
    step: int
    total_steps: int


@dataclass(frozen=True)
class Generation:
    """A finished image, uint8 RGB (H, W, 3), and how it was made. Stages are in order."""

    pixels: RgbArray
    seed: int
    refiner_applied: bool
    refiner_reason: SkipReason | None
    hires_fix_applied: bool
    upscaler: str
    warnings: tuple[ResponseWarning, ...]
    stages: tuple[StageReport, ...]


@dataclass
class Run:
    """The state of one completed request while it runs on `device`."""

    request: GenerateRequest
    plan: Plan
    passes: Passes
    device: torch.device
    check: Callable[[], None]
    emit: Callable[[Progress], None]
    timer: StageTimer
    steps_finished: int = 0  # in the passes that have ended
    steps_done: int = 0
    memory_retry_used: bool = False
    refined: bool = False
    upscaler: str = ""
    warnings: list[ResponseWarning] = field(default_factory=list)

    @property
    def seed(self) -> int:
        """The seed of the request."""
        assert self.request.seed is not None, "only completed requests run"
        return self.request.seed

    def noise_generator(self, index: int) -> torch.Generator:
        """Return the CPU generator of a pass; pass 0 uses the seed itself."""
        return torch.Generator("cpu").manual_seed((self.seed + index * _SEED_STRIDE) % _GENERATOR_SEEDS)

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
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
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

    def result(self, pixels: RgbArray) -> Generation:
        """Return the result of the request, once its image is finished."""
        not_loaded = self.request.use_refiner and not self.refined
        return Generation(
            pixels=pixels,
            seed=self.seed,
            refiner_applied=self.refined,
            refiner_reason=SkipReason.NOT_LOADED if not_loaded else None,
            hires_fix_applied=self.request.hires_fix,
            upscaler=self.upscaler,
            warnings=tuple(self.warnings),
            stages=tuple(self.timer.reports),
        )

    # --- warnings ---

    def warn(self, code: WarningCode, message: str) -> None:
        """Add a warning to the response."""
        self.warnings.append(ResponseWarning(code, message))

    def warn_of_ineffective_options(self, tokenizers: Sequence[Any], default_negative_prompt: str) -> None:
        """Warn of words that no text encoder sees, and of a negative prompt that has no effect.

        `tokenizers` (of transformers) of the text encoders; `default_negative_prompt` of the model set.
        """
        request = self.request
        for name, text in (("prompt", request.prompt), ("negative_prompt", request.negative_prompt or "")):
            message = truncation_warning(name, text, tokenizers)
            if message is not None:
                self.warn(WarningCode.PROMPT_TRUNCATED, message)
        own_negative = (request.negative_prompt or "") != default_negative_prompt
        if own_negative and request.negative_prompt and request.guidance_scale <= 1:
            self.warn(
                WarningCode.OPTION_HAS_NO_EFFECT,
                "negative_prompt: has no effect when guidance_scale is 1 or less",
            )

    def warn_of_limited_size(self) -> None:
        """Warn of the sizes to which the model set limits the passes, once the image has its full size."""
        plan = self.plan
        text = f"generated at {plan.base}"
        if plan.second is not None:
            text += f" with a second pass at {plan.second}"
        text += ", the longest side that this model set generates well"
        if not (plan.second or plan.base).contains(plan.full):
            text += f", then upscaled to {plan.full} by {self.upscaler}"
        self.warn(WarningCode.SIZE_LIMITED, text)
