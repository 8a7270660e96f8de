"""Between latents and pixels: the stages of a run that decode, encode and upscale; on the device thread."""

from __future__ import annotations

import torch

from atelier_generator.generation import Run
from atelier_generator.models import Models
from atelier_runtime.errors import BadImage
from atelier_runtime.images import RgbArray
from atelier_runtime.metrics import StageTimer
from atelier_runtime.outcomes import WarningCode
from atelier_runtime.sizes import Size
from atelier_runtime.upscaler import LANCZOS, Upscaler, crop_to, upscale_to

TILED_PIXELS = 1536 * 1536
"""Above this the VAE works in tiles on CUDA: its memory grows with the image."""


def works_in_tiles(device: torch.device, pixels: int) -> bool:
    """Return whether the VAE works in tiles on an image of some pixels, as long as memory suffices."""
    return device.type == "cuda" and pixels > TILED_PIXELS


class PixelStages:
    """Runs the VAE and the upscaler of a model set."""

    def __init__(self, models: Models) -> None:
        self._models = models

    def decode(self, run: Run) -> RgbArray:
        """Return the image of a run's latents, in 32 bits if 16 fail. Raises `BadImage`."""
        run.check()
        latents = run.scaled_latents
        self._models.placement.use("vae")
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

    def encode(self, run: Run, image: RgbArray) -> torch.Tensor:
        """Return the latents of an image whose sides are multiples of the VAE's factor."""
        self._models.placement.use("vae")
        tiled = works_in_tiles(self._models.device, image.shape[0] * image.shape[1])
        return self._models.autoencoder.encode(image, tiled=tiled or run.memory_retry_used)

    def _tiled(self, run: Run, latents: torch.Tensor) -> bool:
        factor = self._models.text_to_image.vae_scale_factor
        pixels = latents.shape[-1] * latents.shape[-2] * factor**2
        return run.memory_retry_used or works_in_tiles(self._models.device, pixels)

    def upscale(
        self, run: Run, image: RgbArray, size: Size, upscaler: Upscaler | None, timer: StageTimer
    ) -> RgbArray:
        """Return an image that covers `size`, cropped to it, or upscaled if it is smaller."""
        if Size(image.shape[1], image.shape[0]).contains(size):
            return crop_to(image, size)
        with timer.stage("upscale"):
            upscaled = run.retried(lambda: upscale_to(image, size, upscaler, run.check))
        run.upscaler = run.upscaler or (upscaler.name if upscaler else LANCZOS)
        return upscaled

    def network_upscaler(self, run: Run) -> Upscaler | None:
        """Return the network that a request wants its image upscaled with, if there is one."""
        return self._models.upscaler if run.request.use_upscaler else None
