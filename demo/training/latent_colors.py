"""Fits the colors that the autoencoder's latents stand for, for the previews of a packaged set."""

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

import drawing

SEED, PICTURES = 900_002, 64
"""Of drawings that are not in the training data."""


@torch.inference_mode()
def fit(autoencoder: Any, side: int) -> dict[str, list[Any]]:
    """Return the manifest's entry `preview`: the least squares of colors on latents, over drawings of `side`.

    `autoencoder`: diffusers' `AutoencoderKL`, on the CPU. Levels of 0 to 255, see `LatentColors`.
    """
    rng = np.random.default_rng(SEED)
    drawn = np.stack([drawing.draw(rng, side).image for _ in range(PICTURES)])
    pixels = torch.from_numpy(drawn).permute(0, 3, 1, 2).float()
    encoder = autoencoder.float()
    latents = encoder.encode(pixels / 127.5 - 1).latent_dist.mode() * autoencoder.config.scaling_factor
    colors = F.avg_pool2d(pixels, side // latents.shape[-1])
    positions = _rows(latents)
    ones = torch.ones(len(positions), 1)
    solution = torch.linalg.lstsq(torch.cat([positions, ones], dim=1), _rows(colors)).solution
    rounded = [[round(value, 2) for value in row] for row in solution.tolist()]
    return {"factors": rounded[:-1], "bias": rounded[-1]}


def _rows(images: Tensor) -> Tensor:
    """(N, C, H, W) to (N * H * W, C)."""
    return images.movedim(1, -1).flatten(0, -2)
