"""The VAE: between pixels and scaled latents, with checks of its output."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from atelier_runtime.errors import BadImage
from atelier_runtime.images import RgbArray

_ONE_COLOR_DEVIATION = 0.5  # of 255: no image, however plain, is as uniform as that


class Autoencoder:
    """The VAE: pixels (uint8 RGB) to scaled latents (1, C, H/8, W/8) and back."""

    def __init__(self, vae: Any) -> None:
        """`vae`: diffusers' `AutoencoderKL`, shared with the pipelines."""
        self._vae = vae

    @property
    def half_precision(self) -> bool:
        """True if it runs in fewer than 32 bits."""
        return bool(self._vae.dtype != torch.float32)

    def encode(
        self, image: RgbArray, *, tiled: bool, without: NDArray[np.bool_] | None = None
    ) -> torch.Tensor:
        """Return the mean latents of an image whose sides are multiples of the VAE's factor.

        `without`: pixels (H, W) to take for gray, the middle of the VAE's range.
        """
        self.set_tiling(tiled)
        pixels = torch.from_numpy(image.copy()).to(self._vae.device)
        batch = pixels.permute(2, 0, 1).unsqueeze(0).float().div_(127.5).sub_(1)
        if without is not None:
            batch.masked_fill_(torch.from_numpy(without).to(batch.device), 0)
        latents = self._vae.encode(batch.to(self._vae.dtype)).latent_dist.mode()
        mean, std = self._statistics(latents)
        scaled: torch.Tensor = (latents - mean) * (self._vae.config.scaling_factor / std)
        return scaled

    def decode(self, latents: torch.Tensor, *, tiled: bool) -> RgbArray:
        """Return the image of some latents.

        Raises `BadImage` if latents or image have non-finite values, or the image is a single color.
        """
        if not torch.isfinite(latents).all():
            raise BadImage("The output of the diffusion network has non-finite values.")
        self.set_tiling(tiled)
        latents = latents.to(self._vae.dtype)
        mean, std = self._statistics(latents)
        pixels = self._vae.decode(latents * (std / self._vae.config.scaling_factor) + mean).sample
        return checked_picture(pixels.float())

    def decode_in_float32(self, latents: torch.Tensor, *, tiled: bool) -> RgbArray:
        """`decode` in 32 bits, whatever the VAE's own dtype."""
        usual = self._vae.dtype
        try:  # the conversion may run out of memory halfway through
            self._convert(torch.float32)
            return self.decode(latents, tiled=tiled)
        finally:
            self._convert(usual)

    def _convert(self, dtype: torch.dtype) -> None:
        with torch.inference_mode(False):  # parameters created in inference mode could not be changed later
            self._vae.to(dtype)

    def set_tiling(self, tiled: bool) -> None:
        """Let the VAE work in tiles, or not, until the next encoding or decoding."""
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
    """Convert a VAE's output, float (1, 3, H, W) from -1 to 1, to uint8 RGB (H, W, 3).

    Raises `BadImage` for non-finite values and for an image of a single color.
    """
    if not torch.isfinite(pixels).all():
        raise BadImage("The output of the autoencoder has non-finite values.")
    scaled = pixels.squeeze(0).add(1).mul_(127.5).clamp_(0, 255).round_()
    if scaled.flatten(1).std(dim=1, correction=0).max() < _ONE_COLOR_DEVIATION:
        raise BadImage("The networks produced an image of a single color.")
    return np.ascontiguousarray(scaled.to(torch.uint8).permute(1, 2, 0).cpu().numpy())
