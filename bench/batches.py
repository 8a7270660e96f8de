"""Requests denoised together: seconds an image, and how far each image is from that of its request alone.

`python -m bench.batches` uses the model set of ATELIER_GENERATOR_MODEL_SET, `--device cuda` a GPU. In each
round every batch size makes eight images, in turn.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence

import numpy as np

from atelier_generator.generation import Run
from atelier_generator.models import load_models
from atelier_generator.pipeline import Pipeline
from atelier_generator.request import CompletedRequest, GenerateRequest
from atelier_generator.settings import GeneratorSettings
from atelier_runtime.images import RgbArray
from atelier_runtime.model_defaults import ModelDefaults
from bench.report import machine, print_json, spread

SIZES = (1, 2, 4, 8)
PROMPTS = (
    "a woman with long red hair",
    "an old man with a white beard and glasses",
    "a boy in a blue hat",
    "a portrait of a smiling woman, black hair",
    "two people side by side",
    "a bald man",
    "a girl with braids",
    "a woman with glasses",
)


def requests(side: int, steps: int, *, hires: bool) -> list[CompletedRequest]:
    """Return eight requests that may run together."""
    return [
        GenerateRequest(
            prompt,
            width_px=side,
            height_px=side,
            num_inference_steps=steps,
            guidance_scale=3.0 + number,
            seed=number,
            hires_fix=hires,
        ).completed(ModelDefaults())
        for number, prompt in enumerate(PROMPTS)
    ]


def generate(pipeline: Pipeline, group: Sequence[CompletedRequest]) -> list[RgbArray]:
    """Return the images of some requests, denoised together."""
    runs = [pipeline.run(request, lambda: None, lambda progress: None) for request in group]

    def end(run: Run, error: Exception | None) -> None:
        if error is not None:
            raise error

    pipeline.generate_batch(runs, end)
    return [pipeline.finish(run).pixels for run in runs]


def compare(pipeline: Pipeline, asked: Sequence[CompletedRequest], rounds: int) -> dict[str, object]:
    """Return seconds an image and levels from the single images, by batch size."""
    seconds: dict[int, list[float]] = {size: [] for size in SIZES}
    images: dict[int, list[RgbArray]] = {}
    for number in range(rounds + 1):  # the first does not count
        for size in SIZES:
            start = time.perf_counter()
            groups = [asked[first : first + size] for first in range(0, len(asked), size)]
            images[size] = [image for group in groups for image in generate(pipeline, group)]
            if number:
                seconds[size].append((time.perf_counter() - start) / len(asked))
    result: dict[str, object] = {}
    for size in SIZES:
        pairs = zip(images[size], images[1], strict=True)
        levels = np.concatenate([np.abs(a.astype(np.int16) - b).ravel() for a, b in pairs])
        result[str(size)] = {
            "seconds_per_image": spread(seconds[size]),
            "times_as_fast": spread([a / b for a, b in zip(seconds[1], seconds[size], strict=True)]),
            "levels": {
                "mean": round(float(levels.mean()), 5),
                "99.9 %": int(np.quantile(levels, 0.999)),
                "max": int(levels.max()),
            },
        }
    return result


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtypes", nargs="+", default=["float32", "bfloat16"])
    parser.add_argument("--side", type=int, default=512)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    result: dict[str, object] = {}
    for dtype in args.dtypes:
        models = load_models(GeneratorSettings(device=args.device, dtype=dtype))
        pipeline = Pipeline(models, max_batch=max(SIZES))
        for hires in (False, True):
            name = f"{dtype}, {'hires fix' if hires else 'no hires fix'}"
            result[name] = compare(pipeline, requests(args.side, args.steps, hires=hires), args.rounds)
    print_json({"machine": machine(), "by_batch_size": result})


if __name__ == "__main__":
    main()
