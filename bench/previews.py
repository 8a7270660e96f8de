"""What previews cost: a step with one and without, and their parts at the size of SDXL's latents.

`python -m bench.previews` uses the base of the model set of ATELIER_GENERATOR_MODEL_SET. In each round a
request with a preview after every step and one without run in turn; ratios are of the same round. The JPEG is
encoded beside the steps, the rest between them.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import diffusers
import torch

from atelier_generator.models import load_models
from atelier_generator.pipeline import Pipeline
from atelier_generator.previews import estimate, preview
from atelier_generator.settings import GeneratorSettings
from atelier_runtime.images import Picture, encode
from atelier_runtime.latent_colors import SDXL_COLORS
from atelier_runtime.torch_setup import prepare_torch
from bench.base_step import seconds_of_a_step
from bench.report import machine, print_json, spread


def steps(pipeline: Pipeline, side: int, count: int, rounds: int) -> dict[str, object]:
    """Return milliseconds of a step of the base without and with a preview, and the ratio."""
    samples: dict[int | None, list[float]] = {None: [], 1: []}
    for number in range(rounds + 1):  # the first does not count
        for interval, values in samples.items():
            seconds = seconds_of_a_step(pipeline, side, count, preview_interval_steps=interval)
            if number:
                values.append(1000 * seconds)
    ratios = [a / b for a, b in zip(samples[1], samples[None], strict=True)]
    return {"without, ms": spread(samples[None]), "with, ms": spread(samples[1]), "ratio": spread(ratios)}


def parts(device: torch.device, rounds: int) -> dict[str, object]:
    """Return milliseconds of what is done between steps, and of the JPEG, for an SDXL image of 1024 px."""
    build: Any = diffusers.EulerDiscreteScheduler
    scheduler = build(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
    scheduler.set_timesteps(30, device=device)
    latents = torch.randn(1, 4, 128, 128, device=device)
    prediction, timestep = torch.randn_like(latents), scheduler.timesteps[0]

    def colors() -> Any:
        return preview(estimate(scheduler, latents, prediction, timestep), SDXL_COLORS)

    picture = Picture(rgb=colors())
    return {
        "between steps, ms": spread(_times(colors, rounds)),
        "JPEG, ms": spread(_times(lambda: encode(picture, "jpeg", 75), rounds)),
    }


def _times(call: Callable[[], object], rounds: int) -> list[float]:
    samples = []
    for _ in range(rounds):
        start = time.perf_counter()
        call()
        samples.append(1000 * (time.perf_counter() - start))
    return samples


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--steps", type=int, default=20)
    args = parser.parse_args()
    prepare_torch()
    models = load_models(GeneratorSettings(device=args.device, dtype=args.dtype))
    with torch.inference_mode():
        result = {
            "machine": machine(),
            "dtype": args.dtype,
            "a step": steps(Pipeline(models), max(256, models.native_side), args.steps, args.rounds),
            "a preview of 1024x1024": parts(models.device, 10 * args.rounds),
        }
    print_json(result)


if __name__ == "__main__":
    main()
