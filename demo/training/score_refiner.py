"""Scores the refiner on held-out drawings: how much of the detail lost in a small image it restores."""

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

import drawing
from atelier_generator.plan import refiner_schedule_steps
from atelier_runtime import defaults
from atelier_runtime.sizes import Size
from atelier_runtime.upscaler import upscale_to
from training.figures import Figure
from training.score_restorer import Gain
from training.studio import Studio

Image = NDArray[np.uint8]


@torch.inference_mode()
def score_refiner(studio: Studio, seed: int, count: int) -> list[Figure]:
    """Score `count` drawings: downsampled to the base's size, through the autoencoder, upscaled, and refined.

    Sharpness is the mean gradient of the image, relative to that of the drawing itself.
    """
    models = studio.models
    if models.refiner is None:
        return []
    side, native = models.model_set.refiner_max_side or models.native_side, models.native_side
    rng = np.random.default_rng([seed, 6])
    generator = torch.Generator().manual_seed(seed)
    rows = []
    for _ in range(count):
        drawn = drawing.draw(rng, side, "portrait")
        small = np.asarray(cv2.resize(drawn.image, (native, native), interpolation=cv2.INTER_AREA), np.uint8)
        small = models.autoencoder.decode(models.autoencoder.encode(small, tiled=False), tiled=False)
        upscaled = upscale_to(small, Size(side, side), models.upscaler, lambda: None)
        latents = models.refiner(
            prompt=drawn.caption,
            image=models.autoencoder.encode(upscaled, tiled=False),
            strength=defaults.REFINER_STRENGTH,
            num_inference_steps=refiner_schedule_steps(studio.steps),
            guidance_scale=studio.guidance,
            guidance_rescale=models.model_set.guidance_rescale,
            generator=generator,
            output_type="latent",
            return_dict=False,
        )[0]
        refined = models.autoencoder.decode(latents, tiled=False)
        gain = Gain.of(drawn.image, upscaled, refined)
        sharp = [_gradient(image) / _gradient(drawn.image) for image in (upscaled, refined)]
        rows.append([gain.psnr, gain.ssim, *sharp])
    psnr, ssim, before, after = np.mean(rows, 0)
    return [
        Figure.number("refiner: PSNR gained on upscaled drawings", psnr, " dB", total=count),
        Figure.number("refiner: SSIM gained on upscaled drawings", ssim, "", total=count),
        Figure.number("refiner: sharpness before, relative to the drawing", 100 * before, "%", total=count),
        Figure.number("refiner: sharpness after, relative to the drawing", 100 * after, "%", total=count),
    ]


def _gradient(image: Image) -> float:
    down, across = np.gradient(image.astype(np.float32), axis=(0, 1))
    return float(np.hypot(down, across).mean())
