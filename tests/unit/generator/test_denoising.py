"""The denoising loop against diffusers' pipelines: the same latents, bit for bit."""

from __future__ import annotations

from typing import Any

import diffusers
import pytest
import torch

from atelier_generator.denoising import Conditions, predict
from atelier_generator.inpainting import Masked
from atelier_generator.models import Models
from atelier_generator.prompts import PromptEncoder, Text
from atelier_generator.scheduling import TCD_GAMMA
from atelier_runtime.sizes import Size
from tests.unit.generator.conftest import request_for

STEPS = 5
SCHEDULERS = (
    "EulerDiscreteScheduler",
    "EulerAncestralDiscreteScheduler",
    "HeunDiscreteScheduler",
    "DPMSolverMultistepScheduler",
    "DPMSolverSinglestepScheduler",
    "UniPCMultistepScheduler",
    "DDIMScheduler",
    "LCMScheduler",
    "TCDScheduler",
)


def noise_of(generator: torch.Generator) -> torch.Tensor:
    return torch.randn((1, 4, 32, 32), generator=generator)


def denoised(conditions: Conditions, unet: Any, denoising: Any) -> torch.Tensor:
    for index in range(len(denoising.timesteps)):
        [denoising.prediction] = predict(unet, [denoising], index)
        denoising.step(index)
    latents: torch.Tensor = denoising.latents
    return latents


def own_pipeline(models: Models, kind: type[Any], scheduler: str, **options: Any) -> Any:
    base = models.text_to_image
    chosen = getattr(diffusers, scheduler).from_config(base.scheduler.config)
    pipeline = kind(**base.components | {"scheduler": chosen}, add_watermarker=False, **options)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def drawn_by_diffusers(pipeline: Any, text: Text, **options: Any) -> torch.Tensor:
    """Return the latents of diffusers' own loop, with TCD's stochasticity as ours."""
    latents: torch.Tensor = pipeline(
        eta=TCD_GAMMA if isinstance(pipeline.scheduler, diffusers.TCDScheduler) else 0.0,
        prompt_embeds=text.embeddings,
        negative_prompt_embeds=text.negative_embeddings,
        pooled_prompt_embeds=text.pooled,
        negative_pooled_prompt_embeds=text.negative_pooled,
        output_type="latent",
        **options,
    ).images
    return latents


@pytest.mark.parametrize("scheduler", SCHEDULERS)
@pytest.mark.parametrize(("guidance", "rescale"), [(5.0, 0.0), (5.0, 0.7), (1.0, 0.0)])
@torch.inference_mode()
def test_the_base_pass_is_that_of_diffusers(
    plain_models: Models, scheduler: str, guidance: float, rescale: float
) -> None:
    pipeline = own_pipeline(plain_models, diffusers.StableDiffusionXLPipeline, scheduler)
    request = request_for(guidance_scale=guidance)
    text = PromptEncoder(plain_models).encode(request, refine=False).base
    generator = torch.Generator().manual_seed(3)
    conditions = Conditions(pipeline, torch.device("cpu"), rescale)
    ours = denoised(
        conditions,
        pipeline.unet,
        conditions.from_noise(Size(256, 256), STEPS, text, guidance, generator),
    )
    generator = torch.Generator().manual_seed(3)
    expected = drawn_by_diffusers(
        pipeline,
        text,
        latents=noise_of(generator),
        generator=generator,
        width=256,
        height=256,
        num_inference_steps=STEPS,
        guidance_scale=guidance,
        guidance_rescale=rescale,
    )
    assert torch.equal(ours, expected)


def latents(seed: int) -> torch.Tensor:
    return torch.randn((1, 4, 32, 32), generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("strength", [0.1, 0.35, 0.5, 1.0])
@pytest.mark.parametrize("scheduler", SCHEDULERS)
@torch.inference_mode()
def test_image_to_image_is_that_of_diffusers(plain_models: Models, scheduler: str, strength: float) -> None:
    pipeline = own_pipeline(
        plain_models,
        diffusers.StableDiffusionXLImg2ImgPipeline,
        scheduler,
        requires_aesthetics_score=False,
    )
    text = PromptEncoder(plain_models).encode(request_for(), refine=False).base
    start = latents(9)
    conditions = Conditions(pipeline, torch.device("cpu"), 0.0)
    ours = denoised(
        conditions,
        pipeline.unet,
        conditions.from_latents(start, 10, strength, text, 5.0, torch.Generator().manual_seed(3)),
    )
    expected = drawn_by_diffusers(
        pipeline,
        text,
        image=start,
        generator=torch.Generator().manual_seed(3),
        num_inference_steps=10,
        strength=strength,
        guidance_scale=5.0,
    )
    assert torch.equal(ours, expected)


@pytest.mark.parametrize("nine_channels", [False, True], ids=["4 channels", "9 channels"])
@pytest.mark.parametrize(("strength", "guidance"), [(0.5, 5.0), (0.5, 1.0), (1.0, 5.0)])
@pytest.mark.parametrize("scheduler", SCHEDULERS)
@torch.inference_mode()
def test_inpainting_is_that_of_diffusers(
    plain_models: Models,
    inpaint_models: Models,
    scheduler: str,
    strength: float,
    guidance: float,
    nine_channels: bool,
) -> None:
    pipeline = own_pipeline(plain_models, diffusers.StableDiffusionXLInpaintPipeline, scheduler)
    if nine_channels:
        assert inpaint_models.inpaint is not None
        pipeline.register_modules(unet=inpaint_models.inpaint.unet)
    text = PromptEncoder(plain_models).encode(request_for(guidance_scale=guidance), refine=False).base
    cells = torch.zeros(1, 1, 32, 32)
    cells[..., 8:20, 4:16] = 1
    start, kept_image = latents(9), latents(10)
    conditions = Conditions(pipeline, torch.device("cpu"), 0.0)
    masked = Masked(cells, kept_image if nine_channels else None)
    generator = torch.Generator().manual_seed(3)
    ours = denoised(
        conditions,
        pipeline.unet,
        conditions.from_latents(start, 10, strength, text, guidance, generator, masked=masked),
    )
    expected = drawn_by_diffusers(
        pipeline,
        text,
        image=start,
        mask_image=cells.repeat_interleave(8, 2).repeat_interleave(8, 3),
        masked_image_latents=kept_image,
        generator=torch.Generator().manual_seed(3),
        num_inference_steps=10,
        strength=strength,
        guidance_scale=guidance,
        width=256,
        height=256,
    )
    assert torch.equal(ours, expected)
    kept = (cells == 0).expand_as(ours)
    assert torch.equal(ours[kept], start[kept]) is not nine_channels
