"""Which colors the channels of latents stand for, roughly: for previews without decoding."""

from __future__ import annotations

from dataclasses import dataclass

Rgb = tuple[float, float, float]


@dataclass(frozen=True)
class LatentColors:
    """A linear map from a position of scaled latents to the mean color of its pixels, in levels of 0 to 255.

    `factors`: of each channel, red, green and blue; `bias`: what is added.
    """

    factors: tuple[Rgb, ...]
    bias: Rgb


SDXL_COLORS = LatentColors(
    factors=((60, 60, 60), (-60, -5, 10), (25, 15, -5), (-70, -50, -35)), bias=(150, 140, 130)
)
"""Those of SDXL's VAE: T. A. Vass, "Explaining the SDXL latent space", 2023; diffusers documents them too."""
