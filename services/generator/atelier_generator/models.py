"""The networks of a model set, loaded from its folder into one device's memory.

    text_to_image  ──┐ share UNet, text encoders, tokenizers, scheduler, VAE:
    image_to_image ──┘ one copy in memory
    refiner             its own UNet and scheduler; VAE and second text encoder of the base
    autoencoder         the VAE with its own number format and a check of what it makes
    upscaler            any network that spandrel loads

Nothing is fetched: a file that is missing or that the manifest does not list stops the start.
"""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import torch
import transformers
from diffusers import StableDiffusionXLImg2ImgPipeline, StableDiffusionXLPipeline

from atelier_generator.upscale import Upscaler
from atelier_runtime.device import choose_device, choose_dtype
from atelier_runtime.errors import BadPicture
from atelier_runtime.images import RgbArray
from atelier_runtime.settings import StageSettings, StartupError
from atelier_runtime.weights import Component, ModelSet

log = logging.getLogger(__name__)

_ONE_COLOUR_DEVIATION = 0.5  # of 255: no drawing, however plain, is as even as that


@dataclass(frozen=True)
class Models:
    """Everything that a request may run.

    diffusers' classes hide their attributes from the type checker, hence `Any`: `text_to_image` is a
    `StableDiffusionXLPipeline`, `image_to_image` and `refiner` are `LatentsToLatents` pipelines.
    """

    model_set: ModelSet
    device: torch.device
    dtype: torch.dtype
    text_to_image: Any
    image_to_image: Any
    refiner: Any | None
    autoencoder: Autoencoder
    upscaler: Upscaler | None

    @property
    def native_side(self) -> int:
        """Side in px of the pictures that the base network was trained on, within `max_side`."""
        side = int(self.text_to_image.default_sample_size * self.text_to_image.vae_scale_factor)
        return min(side, self.model_set.max_side or side)


class LatentsToLatents(StableDiffusionXLImg2ImgPipeline):
    """diffusers' image to image, given latents of as many channels as the VAE has.

    diffusers' own takes four channels for latents and any other number for a picture.
    """

    scheduler: Any

    def prepare_latents(
        self,
        image: torch.Tensor,
        timestep: torch.Tensor,
        batch_size: int,
        num_images_per_prompt: int,
        dtype: torch.dtype,
        device: torch.device,
        generator: torch.Generator | None = None,
        add_noise: bool = True,
    ) -> torch.Tensor:
        """Return the latents `image` (1, C, H/8, W/8) with the noise of the first step."""
        latents = image.to(device, dtype)
        # Drawn in float32 on the generator's device: one seed means one picture, as in the base pass.
        noise = torch.randn(latents.shape, generator=generator).to(latents)
        noisy: torch.Tensor = self.scheduler.add_noise(latents, noise, timestep)
        return noisy


class Autoencoder:
    """The VAE: pictures (uint8 RGB) to scaled latents (1, C, H/8, W/8) and back."""

    def __init__(self, vae: Any) -> None:
        """`vae`: diffusers' `AutoencoderKL`, shared with the pipelines."""
        self._vae = vae

    @property
    def half_precision(self) -> bool:
        """True if it runs in fewer than 32 bits."""
        return bool(self._vae.dtype != torch.float32)

    def encode(self, picture: RgbArray, *, tiled: bool) -> torch.Tensor:
        """Return the mean latents of a picture whose sides are multiples of the VAE's factor."""
        self._tile(tiled)
        pixels = torch.from_numpy(picture.copy()).to(self._vae.device)
        batch = pixels.permute(2, 0, 1).unsqueeze(0).float().div_(127.5).sub_(1)
        latents = self._vae.encode(batch.to(self._vae.dtype)).latent_dist.mode()
        mean, std = self._statistics(latents)
        scaled: torch.Tensor = (latents - mean) * (self._vae.config.scaling_factor / std)
        return scaled

    def decode(self, latents: torch.Tensor, *, tiled: bool) -> RgbArray:
        """Return the picture of some latents.

        Raises `BadPicture` if latents or picture have non-finite values, or the picture is of one colour.
        """
        if not torch.isfinite(latents).all():
            raise BadPicture("The drawing network made non-finite values.")
        self._tile(tiled)
        latents = latents.to(self._vae.dtype)
        mean, std = self._statistics(latents)
        pixels = self._vae.decode(latents * (std / self._vae.config.scaling_factor) + mean).sample
        return checked_picture(pixels.float())

    def decode_in_float32(self, latents: torch.Tensor, *, tiled: bool) -> RgbArray:
        """`decode` in 32 bits, whatever the VAE usually runs in."""
        usual = self._vae.dtype
        try:  # the conversion too may run out of memory, half done
            self._convert(torch.float32)
            return self.decode(latents, tiled=tiled)
        finally:
            self._convert(usual)

    def _convert(self, dtype: torch.dtype) -> None:
        with torch.inference_mode(False):  # parameters made inside could never be changed again
            self._vae.to(dtype)

    def _tile(self, tiled: bool) -> None:
        if tiled:
            self._vae.enable_tiling()
        else:
            self._vae.disable_tiling()

    def _statistics(self, latents: torch.Tensor) -> tuple[Any, Any]:
        """Return mean and deviation of the latent channels, for the sets whose VAE names them."""
        config = self._vae.config
        if config.latents_mean is None or config.latents_std is None:
            return 0.0, 1.0
        mean, std = (
            torch.tensor(values, dtype=latents.dtype, device=latents.device).view(1, -1, 1, 1)
            for values in (config.latents_mean, config.latents_std)
        )
        return mean, std


def checked_picture(pixels: torch.Tensor) -> RgbArray:
    """Turn a VAE's answer, float (1, 3, H, W) in -1 to 1, into uint8 RGB (H, W, 3).

    Raises `BadPicture` for non-finite values and for a picture of one colour.
    """
    if not torch.isfinite(pixels).all():
        raise BadPicture("The autoencoder made non-finite values.")
    scaled = pixels.squeeze(0).add(1).mul_(127.5).clamp_(0, 255).round_()
    if scaled.flatten(1).std(dim=1, correction=0).max() < _ONE_COLOUR_DEVIATION:
        raise BadPicture("The networks made a picture of one colour.")
    return np.ascontiguousarray(scaled.to(torch.uint8).permute(1, 2, 0).cpu().numpy())


def load_models(settings: StageSettings) -> Models:
    """Load and check the generator's part of the model set that the settings name.

    Raises `StartupError` naming the setting or the file.
    """
    _quieten_libraries()
    torch.set_num_threads(settings.cpu_threads or os.cpu_count() or 1)
    device = choose_device(settings.device)
    dtype = choose_dtype(settings.dtype, device)
    if device.type == "cpu" and dtype != torch.float32:
        raise StartupError("DTYPE: on a CPU the networks run in float32; leave it at auto")
    model_set = ModelSet.open(settings.model_set)
    base = model_set.require("base")
    model_set.verify("base", "refiner", "upscaler")

    text_to_image = _load_pipeline(StableDiffusionXLPipeline, base, dtype)
    text_to_image.to(device)
    for network in (text_to_image.unet, text_to_image.vae):
        # Convolutions run up to several times faster in this layout, on a CPU as on a GPU.
        network.to(memory_format=torch.channels_last)
    # SDXL's VAE overflows float16 (its activations pass 65504). bfloat16 has float32's range.
    text_to_image.vae.to(torch.float32 if dtype == torch.float16 else dtype)
    image_to_image: Any = LatentsToLatents(
        **text_to_image.components,
        force_zeros_for_empty_prompt=text_to_image.config.force_zeros_for_empty_prompt,
        requires_aesthetics_score=False,
        add_watermarker=False,
    )
    image_to_image.set_progress_bar_config(disable=True)
    _let_latents_through(image_to_image)

    upscaler = model_set.component("upscaler")
    models = Models(
        model_set=model_set,
        device=device,
        dtype=dtype,
        text_to_image=text_to_image,
        image_to_image=image_to_image,
        refiner=_load_refiner(model_set, text_to_image, device, dtype),
        autoencoder=Autoencoder(text_to_image.vae),
        upscaler=Upscaler.load(upscaler, device, dtype) if upscaler else None,
    )
    for role in ("base", "refiner", "upscaler"):
        component = model_set.component(role)
        if component is not None:
            log.info("network loaded", extra={"role": role, "network": component.name})
    return models


def _load_refiner(model_set: ModelSet, base: Any, device: torch.device, dtype: torch.dtype) -> Any | None:
    component = model_set.component("refiner")
    if component is None:
        return None
    refiner = _load_pipeline(
        LatentsToLatents,
        component,
        dtype,
        # The refiner was trained with the second text encoder alone.
        tokenizer=None,
        text_encoder=None,
        tokenizer_2=base.tokenizer_2,
        text_encoder_2=base.text_encoder_2,
        vae=base.vae,
    )
    # Not the whole pipeline: `to` with a number format would convert the shared VAE.
    refiner.unet.to(device, memory_format=torch.channels_last)
    _let_latents_through(refiner)
    return refiner


def _let_latents_through(pipeline: Any) -> None:
    # What has another number of channels than this is resized and scaled as a picture.
    pipeline.image_processor.register_to_config(vae_latent_channels=pipeline.vae.config.latent_channels)


def _load_pipeline(pipeline_class: Any, component: Component, dtype: torch.dtype, **shared: Any) -> Any:
    try:
        pipeline = pipeline_class.from_pretrained(
            component.path,
            dtype=dtype,
            variant=_variant(component.path),
            use_safetensors=True,
            local_files_only=True,
            add_watermarker=False,
            **shared,
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StartupError(f"MODEL_SET: the {component.role} in {component.path}: {error}") from error
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def _variant(folder: Path) -> str | None:
    """Return "fp16" for a folder that was downloaded with only those weights."""
    weights = list(folder.glob("unet/*.safetensors"))
    return "fp16" if weights and all(".fp16." in path.name for path in weights) else None


def _quieten_libraries() -> None:
    # diffusers' warning about a long prompt quotes it, and prompts do not belong into logs;
    # the caller is told by a warning in the answer.
    diffusers.utils.logging.set_verbosity_error()
    diffusers.utils.logging.disable_progress_bar()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
