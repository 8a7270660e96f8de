"""The first images, before the service accepts any request: every network runs once."""

from __future__ import annotations

import time

import numpy as np

from atelier_generator.models import Models
from atelier_generator.pipeline import Pipeline
from atelier_generator.request import GenerateRequest
from atelier_generator.source import Source
from atelier_runtime import defaults
from atelier_runtime.errors import BadImage, InvalidRequest, OutOfMemory
from atelier_runtime.settings import StartupError
from atelier_runtime.sizes import Size


def warm_up(pipeline: Pipeline, models: Models) -> None:
    """Generate a small image with every network of the set. Raises `StartupError` if that fails."""
    side = max(models.native_side, defaults.SIDE_PX_RANGE[0])
    request = GenerateRequest(
        prompt="a red apple", width_px=side, height_px=side, num_inference_steps=2, seed=0
    )
    pipeline.estimator.warming_up = True
    try:
        completed = pipeline.complete(request)
        generation = pipeline.generate(completed)
        if models.upscaler is not None and not generation.upscaler:
            start = time.perf_counter()
            models.upscaler.upscale(generation.pixels[:64, :64], check=lambda: None)
            pipeline.estimator.learn_upscaling(Size(64, 64), time.perf_counter() - start)
        if models.inpaint is not None:
            mask = np.zeros(generation.pixels.shape[:2], np.uint8)
            mask[: side // 2] = 255
            pipeline.generate(completed.with_source(Source(generation.pixels, mask), strength=1.0))
    except (BadImage, InvalidRequest, OutOfMemory) as error:
        raise StartupError(f"MODEL_SET: the warm-up image failed: {error.message}") from error
    finally:
        pipeline.estimator.warming_up = False
