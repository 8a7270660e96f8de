"""Between latents and pixels: the stages of a run that decode, encode and upscale; on the device thread."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from atelier_generator.generation import Run
from atelier_generator.inpainting import Masked, cells_of, drawn_anew
from atelier_generator.models import Models
from atelier_generator.source_reading import at_pass
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

    def encode(self, run: Run, image: RgbArray, without: NDArray[np.bool_] | None = None) -> torch.Tensor:
        """Return the latents of an image whose sides are multiples of the VAE's factor.

        `without`: pixels (H, W) to take for gray.
        """
        self._models.placement.use("vae")
        tiled = works_in_tiles(self._models.device, image.shape[0] * image.shape[1])
        tiled = tiled or run.memory_retry_used
        return self._models.autoencoder.encode(image, tiled=tiled, without=without)

    def resize_latents(self, run: Run, size: Size) -> None:
        """Replace a run's latents by those of its image at another size."""
        image = self.decode(run)
        image = self.upscale(run, image, size, self.network_upscaler(run), run.timer)
        run.check()
        with run.timer.stage("encode_latents"):
            run.latents = run.retried(lambda: self.encode(run, image))

    def start(self, run: Run) -> None:
        """Encode what a request starts from; for its first image, the others have the same."""
        start, source = run.start, run.request.source
        assert start is not None and source is not None, "checked by the caller"
        run.check()
        if start.latents is None:
            source = at_pass(source, run.plan.base)
            start.latents = run.retried(lambda: self.encode(run, source.pixels))
            if (mask := source.mask) is not None:
                cells = cells_of(mask, self._models.text_to_image.vae_scale_factor)
                kept_image = None
                if self._models.inpaint is not None:
                    without = drawn_anew(mask)
                    kept_image = run.retried(lambda: self.encode(run, source.pixels, without))
                start.masked = Masked(cells, kept_image)
        run.latents = start.latents

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
