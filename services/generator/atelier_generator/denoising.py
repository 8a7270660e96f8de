"""What one request denoises in one pass: its latents, its own scheduler, its text and its noise.

The arithmetic is that of diffusers' `StableDiffusionXLPipeline`, `StableDiffusionXLImg2ImgPipeline` and
`StableDiffusionXLInpaintPipeline`, step by step, so that one request alone gives their images. Only the
UNet is shared by the requests of a batch.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import TCDScheduler

from atelier_generator.inpainting import Kept, Masked
from atelier_generator.previews import estimate
from atelier_generator.prompts import Text
from atelier_generator.samplers import OWN, Choice
from atelier_generator.scheduling import TCD_GAMMA, Schedulers, set_timesteps
from atelier_runtime.sizes import Size

_AESTHETIC_SCORE, _NEGATIVE_AESTHETIC_SCORE = 6.0, 2.5  # diffusers' defaults, for refiners that want one


@dataclass(eq=False)
class Denoising:
    """One request in one pass.

    `latents`: (1, C, H/8, W/8). `time_ids`: sizes and crop of SDXL's micro-conditioning (SDXL paper,
    section 2.2), one row, or two with guidance, the negative one first. `timestep_condition`: of UNets that
    are distilled with their guidance scale as an input (LCM). With a mask: `kept` is put back after each
    step, or an inpainting UNet takes in `unet_input`, (1, C + 1, H/8, W/8).
    """

    latents: torch.Tensor
    scheduler: Any
    timesteps: torch.Tensor
    generator: torch.Generator
    text: Text
    time_ids: torch.Tensor
    timestep_condition: torch.Tensor | None
    guidance_scale: float
    guidance_rescale: float
    guided: bool
    kept: Kept | None = None
    unet_input: torch.Tensor | None = None
    prediction: torch.Tensor | None = None
    """The UNet's output for the current step, (1, C, H/8, W/8), or two rows with guidance, see `time_ids`."""

    def step(self, index: int, *, estimated: bool = False) -> torch.Tensor | None:
        """Take a step with the prediction; return what that says the end will be, if asked: `estimate`."""
        assert self.prediction is not None, "the UNet runs first"
        prediction, self.prediction = self.prediction, None
        if self.guided:
            negative, positive = prediction.chunk(2)
            prediction = negative + self.guidance_scale * (positive - negative)
            if self.guidance_rescale > 0:
                prediction = _rescaled(prediction, positive, self.guidance_rescale)
        end = None
        if estimated:
            end = estimate(self.scheduler, self.latents, prediction, self.timesteps[index])
        known = inspect.signature(self.scheduler.step).parameters
        # eta: stochasticity. DDIM's is 0, as in diffusers' pipelines.
        eta = TCD_GAMMA if isinstance(self.scheduler, TCDScheduler) else 0.0
        given = {"eta": eta, "generator": self.generator}
        options: dict[str, Any] = {name: value for name, value in given.items() if name in known}
        step = self.scheduler.step(
            prediction, self.timesteps[index], self.latents, return_dict=False, **options
        )
        self.latents = step[0]
        if self.kept is not None:
            following = self.timesteps[index + 1 : index + 2]
            self.latents = self.kept.put_back(self.latents, self.scheduler, following)
        return end

    def scaled_input(self, timestep: torch.Tensor) -> torch.Tensor:
        """Return what the UNet takes in at a step, without guidance, (1, C, H/8, W/8)."""
        scaled: torch.Tensor = self.scheduler.scale_model_input(self.latents, timestep)
        return scaled if self.unet_input is None else torch.cat([scaled, self.unet_input], dim=1)


class Conditions:
    """How the requests of a pass are set up for one network: a base or a refiner.

    `pipeline` is diffusers', for its networks and configuration.
    """

    def __init__(self, pipeline: Any, device: torch.device, guidance_rescale: float) -> None:
        self._pipeline = pipeline
        self._device = device
        self._rescale = guidance_rescale
        self.schedulers = Schedulers(pipeline.scheduler)

    def from_noise(
        self,
        size: Size,
        steps: int,
        text: Text,
        guidance_scale: float,
        generator: torch.Generator,
        choice: Choice = OWN,
    ) -> Denoising:
        """Start from noise, for an image of `size`."""
        factor = self._pipeline.vae_scale_factor
        shape = (1, self._pipeline.unet.config.in_channels, size.height // factor, size.width // factor)
        # Sampled in float32 on the CPU: one seed means one image on every device and dtype.
        noise = torch.randn(shape, generator=generator).to(self._dtype).to(self._device)
        scheduler = self._scheduler(choice, steps)
        scheduler_timesteps = scheduler.timesteps
        if hasattr(scheduler, "set_begin_index"):
            scheduler.set_begin_index(0)
        latents = noise * scheduler.init_noise_sigma
        return self._denoising(latents, scheduler, scheduler_timesteps, text, guidance_scale, generator)

    def from_latents(
        self,
        latents: torch.Tensor,
        steps: int,
        strength: float,
        text: Text,
        guidance_scale: float,
        generator: torch.Generator,
        choice: Choice = OWN,
        masked: Masked | None = None,
    ) -> Denoising:
        """Start from latents with noise added, `strength` (0 to 1) of the way up the schedule of `steps`.

        `masked`: only a part of them is drawn anew; at strength 1 that part starts from noise alone.
        """
        scheduler = self._scheduler(choice, steps)
        first = max(steps - min(int(steps * strength), steps), 0) * scheduler.order
        timesteps = scheduler.timesteps[first:]
        if hasattr(scheduler, "set_begin_index"):
            scheduler.set_begin_index(first)
        latents = latents.to(self._device, self._dtype)
        noise = torch.randn(latents.shape, generator=generator).to(latents)
        if masked is not None and strength == 1:
            noisy = noise * scheduler.init_noise_sigma
        else:
            noisy = scheduler.add_noise(latents, noise, timesteps[:1])
        denoising = self._denoising(noisy, scheduler, timesteps, text, guidance_scale, generator)
        if masked is not None:
            masked = masked.to(self._device, self._dtype)
            denoising.unet_input = masked.unet_input
            if denoising.unet_input is None:
                denoising.kept = Kept(latents, noise, masked.cells)
        return denoising

    def guides(self, guidance_scale: float) -> bool:
        """Return whether guidance needs a second row; it does not where its scale is an input (LCM)."""
        return guidance_scale > 1 and self._pipeline.unet.config.time_cond_proj_dim is None

    def schedule_length(self, choice: Choice, steps: int) -> tuple[int, int]:
        """Return how often the UNet runs in a schedule, and how often for each step that is left out."""
        scheduler = self.schedulers.make(choice)
        set_timesteps(scheduler, steps)
        return len(scheduler.timesteps), scheduler.order

    @property
    def _dtype(self) -> torch.dtype:
        dtype: torch.dtype = self._pipeline.unet.dtype
        return dtype

    def _scheduler(self, choice: Choice, steps: int) -> Any:
        scheduler = self.schedulers.make(choice)
        set_timesteps(scheduler, steps, self._device)
        return scheduler

    def _denoising(
        self,
        latents: torch.Tensor,
        scheduler: Any,
        timesteps: torch.Tensor,
        text: Text,
        guidance_scale: float,
        generator: torch.Generator,
    ) -> Denoising:
        condition_features = self._pipeline.unet.config.time_cond_proj_dim
        guided = self.guides(guidance_scale)
        condition = None
        if condition_features is not None:
            condition = self._pipeline.get_guidance_scale_embedding(
                torch.tensor([guidance_scale - 1]), embedding_dim=condition_features
            ).to(latents)
        return Denoising(
            latents=latents,
            scheduler=scheduler,
            timesteps=timesteps,
            generator=generator,
            text=text,
            time_ids=self._time_ids(latents, guided=guided),
            timestep_condition=condition,
            guidance_scale=guidance_scale,
            guidance_rescale=self._rescale,
            guided=guided,
        )

    def _time_ids(self, latents: torch.Tensor, *, guided: bool) -> torch.Tensor:
        factor = self._pipeline.vae_scale_factor
        size = [side * factor for side in latents.shape[-2:]]
        no_crop = [0, 0]
        if self._pipeline.config.get("requires_aesthetics_score"):
            positive = [*size, *no_crop, _AESTHETIC_SCORE]
            negative = [*size, *no_crop, _NEGATIVE_AESTHETIC_SCORE]
        else:
            positive = negative = [*size, *no_crop, *size]
        return torch.tensor([negative, positive] if guided else [positive], dtype=self._dtype).to(
            self._device
        )


def predict(unet: Any, parts: Sequence[Denoising], index: int) -> list[torch.Tensor]:
    """Return the UNet's output for each of some requests, in one forward pass.

    Their timesteps agree, and so do the lengths of their texts.

    With guidance each output has two rows, the negative one first.
    """
    timestep = parts[0].timesteps[index]
    guided = parts[0].guided
    inputs = [part.scaled_input(timestep) for part in parts]
    texts = [part.text for part in parts]
    embeddings, pooled = [text.embeddings for text in texts], [text.pooled for text in texts]
    time_ids = [part.time_ids[-1:] for part in parts]
    conditions = [part.timestep_condition for part in parts if part.timestep_condition is not None]
    if guided:
        # All negative rows, then all positive ones.
        inputs = inputs * 2
        embeddings = [t.negative_embeddings for t in texts if t.negative_embeddings is not None] + embeddings
        pooled = [t.negative_pooled for t in texts if t.negative_pooled is not None] + pooled
        time_ids = [part.time_ids[:1] for part in parts] + time_ids
    output = unet(
        torch.cat(inputs),
        timestep,
        encoder_hidden_states=torch.cat(embeddings),
        timestep_cond=torch.cat(conditions) if conditions else None,
        added_cond_kwargs={"text_embeds": torch.cat(pooled), "time_ids": torch.cat(time_ids)},
        return_dict=False,
    )[0]
    return [output[number :: len(parts)] for number in range(len(parts))]


def _rescaled(guided: torch.Tensor, positive: torch.Tensor, rescale: float) -> torch.Tensor:
    """Rescale a guided prediction towards the deviation of the positive one.

    Lin et al., "Common Diffusion Noise Schedules and Sample Steps Are Flawed", section 3.4.
    """
    dims = list(range(1, positive.ndim))
    deviation = positive.std(dim=dims, keepdim=True) / guided.std(dim=dims, keepdim=True)
    return rescale * (guided * deviation) + (1 - rescale) * guided
