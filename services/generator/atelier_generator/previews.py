"""Previews: small images of latents, by a linear map from their channels to colors."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from torch import Tensor
from torch.nn import functional

from atelier_runtime.images import RgbArray
from atelier_runtime.latent_colors import LatentColors

MAX_SIDE_PX = 256


def estimate(scheduler: Any, latents: Tensor, prediction: Tensor, timestep: Tensor) -> Tensor:
    """Return what the network takes the finished latents for; before the scheduler's step at `timestep`.

    `latents`, `prediction` (guidance applied): (1, C, H, W); so is the result, in float32.

    With x the latents scaled to the variance of training, and a the squared signal level of the timestep:
    (x - sqrt(1 - a) epsilon) / sqrt(a), Ho et al. 2020 (arXiv:2006.11239), equation 15;
    sqrt(a) x - sqrt(1 - a) v, Salimans and Ho 2022 (arXiv:2202.00512), appendix D. Of schedulers that have no
    such levels, or predict something else: x.
    """
    x: Tensor = scheduler.scale_model_input(latents, timestep).float()
    kind = scheduler.config.get("prediction_type")
    if not hasattr(scheduler, "alphas_cumprod") or kind not in ("epsilon", "v_prediction", "sample"):
        return x
    if kind == "sample":
        return prediction.float()
    level = _level(scheduler, timestep)
    signal, noise = math.sqrt(level), math.sqrt(1 - level)
    if kind == "epsilon":
        return (x - noise * prediction.float()) / signal
    return signal * x - noise * prediction.float()


def _level(scheduler: Any, timestep: Tensor) -> float:
    """Return the squared signal level, of at least 1e-6: at zero terminal SNR there is none."""
    if hasattr(scheduler, "sigmas"):
        index = scheduler.step_index
        index = (scheduler.begin_index or 0) if index is None else index
        level = 1 / (1 + float(scheduler.sigmas[index]) ** 2)
    else:
        level = float(scheduler.alphas_cumprod[int(timestep)])
    return max(level, 1e-6)


def preview(latents: Tensor, colors: LatentColors) -> RgbArray:
    """Return an image (h, w, 3) of scaled latents (1, C, h, w), made smaller if a side exceeds 256 px."""
    side = max(latents.shape[-2:])
    if side > MAX_SIDE_PX:
        smaller = [max(1, round(length * MAX_SIDE_PX / side)) for length in latents.shape[-2:]]
        latents = functional.interpolate(latents, smaller, mode="area")
    values = latents[0].float().cpu().numpy()
    pixels = np.tensordot(values, np.asarray(colors.factors, np.float32), axes=(0, 0))
    rounded: RgbArray = np.nan_to_num(pixels + np.asarray(colors.bias, np.float32)).round().clip(0, 255)
    return rounded.astype(np.uint8)
