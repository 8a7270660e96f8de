"""Generation one picture: base pass, enlargement, second pass or refiner, guards.

    text ▶ base ▶ [refiner] ▶ decode ▶ [enlarge]                        without hires fix
    text ▶ base ▶ decode ▶ enlarge ▶ encode ▶ hires ▶ decode ▶ [enlarge]   with it

A refiner that draws larger than its base has the picture enlarged before it, as hires fix has.

Everything here runs on the device thread. A request is cancelled by what its `check` raises: within
one denoising step, before each decoding, and before each tile of an enlargement. Nothing of a request
outlives it: noise comes from a new generator, and schedulers are set anew by each pass.
"""

from __future__ import annotations

import gc
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch

from atelier_generator.models import Models
from atelier_generator.plan import (
    Passes,
    Plan,
    Size,
    count_steps,
    make_plan,
    refiner_schedule_steps,
)
from atelier_generator.prompt_words import overlong_warning
from atelier_generator.request import GenerateRequest
from atelier_generator.upscale import LANCZOS, Upscaler, cropped, enlarge_to
from atelier_runtime import defaults, metrics
from atelier_runtime.device import is_out_of_memory
from atelier_runtime.errors import (BadImage, Cancelled, DeadlineExceeded, OutOfMemory)
from atelier_runtime.outcomes import SkipReason
from atelier_runtime.images import RgbArray
from atelier_runtime.metrics import StageTimer, StageReport
from atelier_runtime.settings import StartupError
from atelier_runtime.vram import probe_for

T = TypeVar("T")

_TILED_PIXELS = 1536 * 1536  # above, the VAE works in tiles on CUDA: its memory grows with the picture
_SEED_STRIDE = 0x9E3779B97F4A7C15  # 2^64 / golden ratio: keeps derived seeds away from clients' own
_GENERATOR_SEEDS = 2**63


@dataclass(frozen=True)
class Progress:
    """`step` of `total_steps` steps of a pass ("base", "hires" or "refiner") are done."""

    stage: str
    step: int
    total_steps: int


@dataclass(frozen=True)
class Generation:
    """A finished picture, uint8 RGB (H, W, 3), and how it was made. Stages come in the order of the work."""

    picture: RgbArray
    refiner_applied: bool
    refiner_reason: SkipReason | None
    hires_fix_applied: bool
    upscaler: str
    warnings: tuple[str, ...]
    stages: tuple[StageReport, ...]


@dataclass
class _Run:
    """The state of one request while it is drawn."""

    request: GenerateRequest
    plan: Plan
    passes: Passes
    check: Callable[[], None]
    emit: Callable[[Progress], None]
    timer: StageTimer
    steps_finished: int = 0  # of the passes that are over
    steps_done: int = 0
    memory_retry_used: bool = False
    refined: bool = False
    upscaler: str = ""
    warnings: list[str] = field(default_factory=list)


class Pipeline:
    """Draws with the networks of one model set, one request at a time."""

    def __init__(self, models: Models) -> None:
        self._models = models

    def plan(self, request: GenerateRequest) -> Plan:
        """Return the sizes at which a request will be drawn."""
        model_set = self._models.model_set
        return make_plan(
            Size(request.width_px, request.height_px),
            hires_fix=request.hires_fix,
            refine=self._models.refiner is not None and (request.use_refiner or request.hires_fix),
            simple_scale=request.hires_scale if request.hires_fix_simple else None,
            size_multiple=model_set.size_multiple,
            max_side=model_set.max_side,
            refiner_max_side=model_set.refiner_max_side,
        )

    def draw(
        self,
        request: GenerateRequest,
        check: Callable[[], None],
        emit: Callable[[Progress], None],
    ) -> Generation:
        """Draw a checked and completed request; the same request gives the same picture.

        `check` is called between steps and raises to stop the work. Raises `BadImage` rather than
        return a picture with non-finite values or of one colour, and `OutOfMemory` after one retry.
        """
        refine = self._models.refiner is not None and request.use_refiner and not request.hires_fix
        run = _Run(
            request=request,
            plan=self.plan(request),
            passes=count_steps(request.num_inference_steps, hires_fix=request.hires_fix, refine=refine),
            check=check,
            emit=emit,
            timer=StageTimer(probe_for(self._models.device)),
        )
        try:
            with torch.inference_mode():
                picture = self._draw(run)
        except (Cancelled, DeadlineExceeded):
            metrics.CANCELLED_STEPS.inc(max(0, run.passes.total - run.steps_done))
            raise
        not_loaded = request.use_refiner and not run.refined
        return Generation(
            picture=picture,
            refiner_applied=run.refined,
            refiner_reason=SkipReason.NOT_LOADED if not_loaded else None,
            hires_fix_applied=request.hires_fix,
            upscaler=run.upscaler,
            warnings=tuple(run.warnings),
            stages=tuple(run.timer.reports),
        )

    def warm_up(self) -> None:
        """Draw a small picture with every network of the set. Raises `StartupError` if it is no good."""
        side = max(self._models.native_side, defaults.SIDE_PX_RANGE[0])
        request = GenerateRequest(
            prompt="a red apple",
            negative_prompt=self._models.model_set.default_negative_prompt,
            width_px=side,
            height_px=side,
            num_inference_steps=2,
            seed=0,
        )
        try:
            drawing = self.draw(request, check=lambda: None, emit=lambda progress: None)
            if self._models.upscaler is not None and not drawing.upscaler:
                self._models.upscaler.enlarge(drawing.picture[:64, :64], check=lambda: None)
        except (BadImage, OutOfMemory) as error:
            raise StartupError(f"MODEL_SET: the warm-up picture failed: {error.message}") from error

    # --- the order of the work ---

    def _draw(self, run: _Run) -> RgbArray:
        request, plan = run.request, run.plan
        self._warn_of_what_has_no_effect(run)
        run.check()
        with run.timer.stage("text"):
            words = self._encode_words(self._models.text_to_image, request)
        with run.timer.stage("base"):
            latents = self._retried(run, lambda: self._base_pass(run, words))
        if plan.second is not None:
            latents = self._second_pass(run, words, latents, plan.second)
        picture = self._decode(run, latents)
        return self._finish_size(run, picture)

    def _second_pass(
        self, run: _Run, words: dict[str, Any], latents: torch.Tensor, size: Size
    ) -> torch.Tensor:
        if size != run.plan.base:
            picture = self._decode(run, latents)
            picture = self._enlarge(run, picture, size, self._network_upscaler(run))
            with run.timer.stage("encode_latents"):
                latents = self._retried(run, lambda: self._encode(run, picture))
        if run.passes.refiner:
            schedule = refiner_schedule_steps(run.request.num_inference_steps)
            return self._again(run, words, latents, defaults.REFINER_STRENGTH, schedule, refine=True)
        refine = self._models.refiner is not None
        return self._again(
            run, words, latents, defaults.HIRES_STRENGTH, defaults.HIRES_STEPS, refine=refine, stage="hires"
        )

    def _finish_size(self, run: _Run, picture: RgbArray) -> RgbArray:
        plan = run.plan
        picture = self._enlarge(run, picture, plan.full, self._network_upscaler(run))
        if plan.limited:
            run.warnings.append(_limited_warning(plan, run.upscaler))
        if plan.result != plan.full:
            picture = self._enlarge(run, picture, plan.result, None)
        return picture

    # --- passes ---

    def _base_pass(self, run: _Run, words: dict[str, Any]) -> torch.Tensor:
        pipeline, size = self._models.text_to_image, run.plan.base
        shape = (
            1,
            pipeline.unet.config.in_channels,
            size.height // pipeline.vae_scale_factor,
            size.width // pipeline.vae_scale_factor,
        )
        # Drawn in float32 on the CPU: one seed means one picture on every device and number format.
        noise = torch.randn(shape, generator=_noise_generator(run.request, 0))
        return self._denoise(
            run,
            pipeline,
            "base",
            run.passes.base,
            latents=noise.to(self._models.dtype),
            width=size.width,
            height=size.height,
            num_inference_steps=run.request.num_inference_steps,
            **words,
        )

    def _again(
        self,
        run: _Run,
        words: dict[str, Any],
        latents: torch.Tensor,
        strength: float,
        schedule_steps: int,
        *,
        refine: bool,
        stage: str = "refiner",
    ) -> torch.Tensor:
        """Image to image on latents, by the refiner network or by the base network."""
        pipeline = self._models.image_to_image
        with run.timer.stage(stage):
            if refine:
                assert self._models.refiner is not None, "callers refine only with a refiner"
                pipeline = self._models.refiner
                words = self._encode_words(pipeline, run.request)
            steps = run.passes.second or run.passes.refiner
            latents = self._retried(
                run,
                lambda: self._denoise(
                    run,
                    pipeline,
                    stage,
                    steps,
                    image=latents.to(self._models.dtype),
                    strength=strength,
                    num_inference_steps=schedule_steps,
                    generator=_noise_generator(run.request, 1),
                    **words,
                ),
            )
        run.refined = run.refined or refine
        return latents

    def _denoise(self, run: _Run, pipeline: Any, stage: str, steps: int, **arguments: Any) -> torch.Tensor:
        def after_step(pipeline: Any, index: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
            # Schedulers of second order call back twice a step.
            total = pipeline.num_timesteps
            run.steps_done = run.steps_finished + min(steps, (index + 1) * steps // total)
            run.emit(Progress(stage, index + 1, total))
            run.check()
            return tensors

        run.steps_done = run.steps_finished  # a second try takes its steps again
        answer = pipeline(
            output_type="latent",
            guidance_scale=run.request.guidance_scale,
            guidance_rescale=self._models.model_set.guidance_rescale,
            callback_on_step_end=after_step,
            callback_on_step_end_tensor_inputs=[],
            return_dict=False,
            **arguments,
        )
        run.steps_finished += steps
        latents: torch.Tensor = answer[0]
        return latents

    def _encode_words(self, pipeline: Any, request: GenerateRequest) -> dict[str, Any]:
        """Return the prompt's embeddings by the names of the pipelines' arguments."""
        names = (
            "prompt_embeds",
            "negative_prompt_embeds",
            "pooled_prompt_embeds",
            "negative_pooled_prompt_embeds",
        )
        embeddings = pipeline.encode_prompt(
            prompt=request.prompt,
            device=self._models.device,
            do_classifier_free_guidance=request.guidance_scale > 1,
            # None lets the set's own configuration say what an empty prompt is (SDXL: zeros).
            negative_prompt=request.negative_prompt or None,
        )
        return dict(zip(names, embeddings, strict=True))

    # --- between latents and pictures ---

    def _decode(self, run: _Run, latents: torch.Tensor) -> RgbArray:
        run.check()
        autoencoder = self._models.autoencoder
        with run.timer.stage("decode"):
            try:
                picture = self._retried(
                    run, lambda: autoencoder.decode(latents, tiled=self._tiled(run, latents))
                )
            except BadImage:
                # In 32 bits only the autoencoder can do better, not latents that are already broken.
                if not autoencoder.half_precision or not torch.isfinite(latents).all():
                    raise
            else:
                return picture
            picture = autoencoder.decode_in_float32(latents, tiled=self._tiled(run, latents))
        run.warnings.append("The autoencoder failed in 16 bits; the picture was decoded again in 32 bits.")
        return picture

    def _encode(self, run: _Run, picture: RgbArray) -> torch.Tensor:
        run.check()
        tiled = self._models.device.type == "cuda" and picture.shape[0] * picture.shape[1] > _TILED_PIXELS
        return self._models.autoencoder.encode(picture, tiled=tiled or run.memory_retry_used)

    def _tiled(self, run: _Run, latents: torch.Tensor) -> bool:
        factor = self._models.text_to_image.vae_scale_factor
        pixels = latents.shape[-1] * latents.shape[-2] * factor**2
        return run.memory_retry_used or (self._models.device.type == "cuda" and pixels > _TILED_PIXELS)

    def _enlarge(self, run: _Run, picture: RgbArray, size: Size, upscaler: Upscaler | None) -> RgbArray:
        if Size(picture.shape[1], picture.shape[0]).contains(size):
            return cropped(picture, size)
        with run.timer.stage("upscale"):
            enlarged = self._retried(run, lambda: enlarge_to(picture, size, upscaler, run.check))
        run.upscaler = run.upscaler or (upscaler.name if upscaler else LANCZOS)
        return enlarged

    def _network_upscaler(self, run: _Run) -> Upscaler | None:
        return self._models.upscaler if run.request.use_upscaler else None

    def _retried(self, run: _Run, work: Callable[[], T]) -> T:
        """Do some work; once a request, if memory is short, free what can be freed and do it again.

        From then on the VAE works in tiles.
        """
        try:
            return work()
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            if run.memory_retry_used:
                raise OutOfMemory from None
        # Not inside `except`: there the exception's frames still hold the tensors of the failed try.
        run.memory_retry_used = True
        gc.collect()
        if self._models.device.type == "cuda":
            torch.cuda.empty_cache()
        run.warnings.append(
            "The device's memory was short; a part was done again with the autoencoder in tiles."
        )
        try:
            return work()
        except Exception as error:
            if is_out_of_memory(error):
                raise OutOfMemory from None
            raise

    def _warn_of_what_has_no_effect(self, run: _Run) -> None:
        request, pipeline = run.request, self._models.text_to_image
        tokenizers = [pipeline.tokenizer, pipeline.tokenizer_2]
        for name, text in (("prompt", request.prompt), ("negative_prompt", request.negative_prompt or "")):
            warning = overlong_warning(name, text, tokenizers)
            if warning is not None:
                run.warnings.append(warning)
        own_words = (request.negative_prompt or "") != self._models.model_set.default_negative_prompt
        if own_words and request.negative_prompt and request.guidance_scale <= 1:
            run.warnings.append("negative_prompt: has no effect when guidance_scale is 1 or less")


def _noise_generator(request: GenerateRequest, index: int) -> torch.Generator:
    """Return the CPU generator of a request's pass; pass 0 takes the seed itself."""
    assert request.seed is not None, "draw() takes completed requests"
    return torch.Generator("cpu").manual_seed((request.seed + index * _SEED_STRIDE) % _GENERATOR_SEEDS)


def _limited_warning(plan: Plan, upscaler: str) -> str:
    drawn = f"drawn at {plan.base}"
    if plan.second is not None:
        drawn += f" with a second pass at {plan.second}"
    drawn += ", the longest side that this model set draws well"
    if not (plan.second or plan.base).contains(plan.full):
        drawn += f", then enlarged to {plan.full} by {upscaler}"
    return drawn
