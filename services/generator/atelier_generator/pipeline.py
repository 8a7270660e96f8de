"""Generating one image: base pass, upscaling, second pass or refiner, guards.

    text ▶ base ▶ [refiner] ▶ decode ▶ [upscale]                           without hires fix
    text ▶ base ▶ decode ▶ upscale ▶ encode ▶ hires ▶ decode ▶ [upscale]   with it

Before a refiner that works at a larger size than its base, the image is upscaled as for hires fix.

Everything here runs on the device thread. A request is canceled when its `check` raises: within one
denoising step, before each decode, and before each tile of an upscaling. No state of a request outlives it:
noise comes from a new generator, and each pass resets its scheduler.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from atelier_generator.generation import Generation, Progress, Run
from atelier_generator.models import Models
from atelier_generator.plan import Plan, count_steps, make_plan, refiner_schedule_steps
from atelier_generator.request import GenerateRequest
from atelier_runtime import defaults, metrics
from atelier_runtime.errors import BadImage, Cancelled, DeadlineExceeded, OutOfMemory
from atelier_runtime.images import RgbArray
from atelier_runtime.metrics import StageTimer
from atelier_runtime.outcomes import WarningCode
from atelier_runtime.settings import StartupError
from atelier_runtime.sizes import Size
from atelier_runtime.upscaler import LANCZOS, Upscaler, center_crop, upscale_to
from atelier_runtime.vram import probe_for
from atelier_runtime.weights import ModelSet

TILED_PIXELS = 1536 * 1536
"""Above this the VAE works in tiles on CUDA: its memory grows with the image."""


class Pipeline:
    """Generates images with the networks of one model set, one request at a time."""

    def __init__(self, models: Models) -> None:
        self._models = models

    @property
    def model_set(self) -> ModelSet:
        """The model set that is loaded."""
        return self._models.model_set

    def plan(self, request: GenerateRequest) -> Plan:
        """Return the sizes of a request's passes."""
        model_set = self._models.model_set
        return make_plan(
            Size(request.width_px, request.height_px),
            hires_fix=request.hires_fix,
            refine=self._models.refiner is not None and (request.use_refiner or request.hires_fix),
            lanczos_scale=request.lanczos_scale,
            size_multiple=model_set.size_multiple,
            max_side=model_set.max_side,
            refiner_max_side=model_set.refiner_max_side,
        )

    def generate(
        self,
        request: GenerateRequest,
        check: Callable[[], None],
        emit: Callable[[Progress], None],
    ) -> Generation:
        """Generate the image of a completed request; the same request gives the same image.

        `check` is called between steps and raises to stop the work. Raises `BadImage` rather than return an
        image with non-finite values or of a single color, and `OutOfMemory` after one retry.
        """
        refine = self._models.refiner is not None and request.use_refiner and not request.hires_fix
        run = Run(
            request=request,
            plan=self.plan(request),
            passes=count_steps(request.num_inference_steps, hires_fix=request.hires_fix, refine=refine),
            device=self._models.device,
            check=check,
            emit=emit,
            timer=StageTimer(probe_for(self._models.device)),
        )
        try:
            with torch.inference_mode():
                pixels = self._generate(run)
        except (Cancelled, DeadlineExceeded):
            metrics.CANCELLED_STEPS.inc(max(0, run.passes.total - run.steps_done))
            raise
        return run.result(pixels)

    def warm_up(self) -> None:
        """Generate a small image with every network of the set. Raises `StartupError` if that fails."""
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
            generation = self.generate(request, check=lambda: None, emit=lambda progress: None)
            if self._models.upscaler is not None and not generation.upscaler:
                self._models.upscaler.upscale(generation.pixels[:64, :64], check=lambda: None)
        except (BadImage, OutOfMemory) as error:
            raise StartupError(f"MODEL_SET: the warm-up image failed: {error.message}") from error

    # --- the sequence of stages ---

    def _generate(self, run: Run) -> RgbArray:
        plan, text_to_image = run.plan, self._models.text_to_image
        run.warn_of_ineffective_options(
            (text_to_image.tokenizer, text_to_image.tokenizer_2),
            self._models.model_set.default_negative_prompt,
        )
        run.check()
        with run.timer.stage("text"):
            text = self._encode_text(text_to_image, run.request)
        with run.timer.stage("base"):
            latents = run.retried(lambda: self._base_pass(run, text))
        if plan.second is not None:
            latents = self._second_pass(run, text, latents, plan.second)
        image = self._decode(run, latents)
        return self._finish_size(run, image)

    def _second_pass(self, run: Run, text: dict[str, Any], latents: torch.Tensor, size: Size) -> torch.Tensor:
        if size != run.plan.base:
            image = self._decode(run, latents)
            image = self._upscale(run, image, size, self._network_upscaler(run))
            with run.timer.stage("encode_latents"):
                latents = run.retried(lambda: self._encode(run, image))
        if run.passes.refiner:
            schedule = refiner_schedule_steps(run.request.num_inference_steps)
            return self._image_to_image(run, text, latents, defaults.REFINER_STRENGTH, schedule, refine=True)
        refine = self._models.refiner is not None
        return self._image_to_image(
            run, text, latents, defaults.HIRES_STRENGTH, defaults.HIRES_STEPS, refine=refine, stage="hires"
        )

    def _finish_size(self, run: Run, image: RgbArray) -> RgbArray:
        plan = run.plan
        image = self._upscale(run, image, plan.full, self._network_upscaler(run))
        if plan.limited:
            run.warn_of_limited_size()
        if plan.result != plan.full:
            image = self._upscale(run, image, plan.result, None)
        return image

    # --- passes ---

    def _base_pass(self, run: Run, text: dict[str, Any]) -> torch.Tensor:
        pipeline, size = self._models.text_to_image, run.plan.base
        shape = (
            1,
            pipeline.unet.config.in_channels,
            size.height // pipeline.vae_scale_factor,
            size.width // pipeline.vae_scale_factor,
        )
        # Sampled in float32 on the CPU: one seed means one image on every device and dtype.
        noise = torch.randn(shape, generator=run.noise_generator(0))
        return self._denoise(
            run,
            pipeline,
            "base",
            run.passes.base,
            latents=noise.to(self._models.dtype),
            width=size.width,
            height=size.height,
            num_inference_steps=run.request.num_inference_steps,
            **text,
        )

    def _image_to_image(
        self,
        run: Run,
        text: dict[str, Any],
        latents: torch.Tensor,
        strength: float,
        schedule_steps: int,
        *,
        refine: bool,
        stage: str = "refiner",
    ) -> torch.Tensor:
        """Run image to image on latents, with the refiner network or the base network."""
        pipeline = self._models.image_to_image
        with run.timer.stage(stage):
            if refine:
                assert self._models.refiner is not None, "callers refine only with a refiner"
                pipeline = self._models.refiner
                text = self._encode_text(pipeline, run.request)
            steps = run.passes.second or run.passes.refiner
            latents = run.retried(
                lambda: self._denoise(
                    run,
                    pipeline,
                    stage,
                    steps,
                    image=latents.to(self._models.dtype),
                    strength=strength,
                    num_inference_steps=schedule_steps,
                    generator=run.noise_generator(1),
                    **text,
                ),
            )
        run.refined = run.refined or refine
        return latents

    def _denoise(self, run: Run, pipeline: Any, stage: str, steps: int, **arguments: Any) -> torch.Tensor:
        def after_step(pipeline: Any, index: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
            # Second-order schedulers call back twice per step.
            total = pipeline.num_timesteps
            run.steps_done = run.steps_finished + min(steps, (index + 1) * steps // total)
            run.emit(Progress(stage, index + 1, total))
            run.check()
            return tensors

        run.steps_done = run.steps_finished  # a retry takes its steps again
        output = pipeline(
            output_type="latent",
            guidance_scale=run.request.guidance_scale,
            guidance_rescale=self._models.model_set.guidance_rescale,
            callback_on_step_end=after_step,
            callback_on_step_end_tensor_inputs=[],
            return_dict=False,
            **arguments,
        )
        run.steps_finished += steps
        latents: torch.Tensor = output[0]
        return latents

    def _encode_text(self, pipeline: Any, request: GenerateRequest) -> dict[str, Any]:
        """Return the prompt's embeddings, keyed by the pipelines' argument names."""
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
            # None lets the set's own configuration decide what an empty prompt is (SDXL: zeros).
            negative_prompt=request.negative_prompt or None,
        )
        return dict(zip(names, embeddings, strict=True))

    # --- between latents and pixels ---

    def _decode(self, run: Run, latents: torch.Tensor) -> RgbArray:
        run.check()
        autoencoder = self._models.autoencoder
        with run.timer.stage("decode"):
            try:
                image = run.retried(lambda: autoencoder.decode(latents, tiled=self._tiled(run, latents)))
            except BadImage:
                # 32 bits can help the autoencoder, but not latents that are already broken.
                if not autoencoder.half_precision or not torch.isfinite(latents).all():
                    raise
            else:
                return image
            image = autoencoder.decode_in_float32(latents, tiled=self._tiled(run, latents))
        run.warn(
            WarningCode.PRECISION_FALLBACK,
            "The autoencoder failed in 16 bits; the image was decoded again in 32 bits.",
        )
        return image

    def _encode(self, run: Run, image: RgbArray) -> torch.Tensor:
        run.check()
        tiled = self._models.device.type == "cuda" and image.shape[0] * image.shape[1] > TILED_PIXELS
        return self._models.autoencoder.encode(image, tiled=tiled or run.memory_retry_used)

    def _tiled(self, run: Run, latents: torch.Tensor) -> bool:
        factor = self._models.text_to_image.vae_scale_factor
        pixels = latents.shape[-1] * latents.shape[-2] * factor**2
        return run.memory_retry_used or (self._models.device.type == "cuda" and pixels > TILED_PIXELS)

    def _upscale(self, run: Run, image: RgbArray, size: Size, upscaler: Upscaler | None) -> RgbArray:
        if Size(image.shape[1], image.shape[0]).contains(size):
            return _crop(image, size)
        with run.timer.stage("upscale"):
            upscaled = run.retried(lambda: upscale_to(image, size, upscaler, run.check))
        run.upscaler = run.upscaler or (upscaler.name if upscaler else LANCZOS)
        return upscaled

    def _network_upscaler(self, run: Run) -> Upscaler | None:
        return self._models.upscaler if run.request.use_upscaler else None


def _crop(image: RgbArray, size: Size) -> RgbArray:
    """Return the center of an image that contains the size, its pixels unchanged."""
    left, top, right, bottom = center_crop(Size(image.shape[1], image.shape[0]), size)
    return np.ascontiguousarray(image[top:bottom, left:right])
