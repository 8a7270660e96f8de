"""Drawing a part of an image anew: what a mask means for latents.

A UNet that knows nothing of masks draws all of the image; after each step what is to be kept is put back,
with as much noise as that step leaves (Lugmayr et al. 2022, arXiv:2201.09865, section 4.1, as in diffusers'
`StableDiffusionXLInpaintPipeline`). An inpainting UNet takes in the mask and the latents of the image without
what is drawn anew, so it knows what to continue, and draws all of the image itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from atelier_generator.source import DRAWN_FROM, MaskArray


@dataclass(frozen=True, eq=False)
class Masked:
    """A mask for latents: `cells` (1, 1, H/8, W/8) is 1 where they are drawn anew, else 0.

    `kept_image`: latents (1, C, H/8, W/8) of the image, gray where it is drawn anew; for inpainting UNets.
    """

    cells: torch.Tensor
    kept_image: torch.Tensor | None = None

    @property
    def unet_input(self) -> torch.Tensor | None:
        """The channels that an inpainting UNet takes in besides the latents."""
        return None if self.kept_image is None else torch.cat([self.cells, self.kept_image], dim=1)

    def to(self, device: torch.device, dtype: torch.dtype) -> Masked:
        """Return it on a device, in a dtype."""
        kept_image = None if self.kept_image is None else self.kept_image.to(device, dtype)
        return Masked(self.cells.to(device, dtype), kept_image)


@dataclass(frozen=True, eq=False)
class Kept:
    """What is put back after each step: latents (1, C, H/8, W/8), and the request's own noise for them."""

    latents: torch.Tensor
    noise: torch.Tensor
    cells: torch.Tensor

    def put_back(self, drawn: torch.Tensor, scheduler: Any, next_timestep: torch.Tensor) -> torch.Tensor:
        """Return a step's latents with what is kept; `next_timestep` has one, after the last step none."""
        kept = self.latents
        if len(next_timestep):
            kept = scheduler.add_noise(kept, self.noise, next_timestep)
        return (1 - self.cells) * kept + self.cells * drawn


def drawn_anew(mask: MaskArray) -> np.ndarray:
    """Return where the networks draw anew, bool (H, W)."""
    return mask >= DRAWN_FROM


def cells_of(mask: MaskArray, factor: int) -> torch.Tensor:
    """Return the cells of a mask (H, W), `factor` px wide, as of `Masked`.

    A cell is drawn anew if any of its pixels is: what would be kept of it would show in the result.
    """
    height, width = mask.shape
    blocks = drawn_anew(mask).reshape(height // factor, factor, width // factor, factor)
    return torch.from_numpy(blocks.any(axis=(1, 3)).astype(np.float32))[None, None]
