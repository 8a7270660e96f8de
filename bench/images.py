"""Four images of one request beside four requests with the same seeds: seconds, memory, levels apart.

`python -m bench.images` uses the model set of ATELIER_GENERATOR_MODEL_SET, `--device cuda` a GPU. In each
round every way takes its turn: four requests one after another; `num_images` 4; and `num_images` 4 with one
image in a forward pass, which shows what sharing them adds to the prompt that is encoded once. Prints JSON:
seconds, and the peak memory above what was held before, on a CPU resident (VmHWM), on a GPU allocated; ratios
are to the four requests of the same round.
"""

from __future__ import annotations

import argparse
import ctypes
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import torch

from atelier_generator.generation import Generation
from atelier_generator.models import load_models
from atelier_generator.pipeline import Pipeline
from atelier_generator.request import CompletedRequest, GenerateRequest
from atelier_generator.settings import GeneratorSettings
from atelier_runtime.torch_setup import prepare_torch
from bench.phases import reset_high_water_mark, resident_kib
from bench.report import machine, print_json, spread

PROMPT = "a portrait of a smiling woman, black hair"
MIB = 2**20

Work = Callable[[], list[Generation]]


class Memory:
    """Peak memory of some work above what was held before it, in MiB."""

    def __init__(self, device: torch.device) -> None:
        self._cuda = device.type == "cuda"
        self._held = 0.0
        if self._cuda:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
            self._held = torch.cuda.memory_allocated() / MIB
        else:
            ctypes.CDLL(None).malloc_trim(0)
            reset_high_water_mark()
            self._held = resident_kib("VmRSS") / 1024

    def peak_mib(self) -> float:
        """Return the peak since this object was made."""
        peak = torch.cuda.max_memory_allocated() / MIB if self._cuda else resident_kib("VmHWM") / 1024
        return peak - self._held


def ways(pipeline: Pipeline, apart: Pipeline, request: CompletedRequest) -> dict[str, Work]:
    """Return the ways to the same images; `apart` has one image in a forward pass."""
    several = f"num_images {request.num_images}"
    return {
        f"{request.num_images} requests": lambda: [
            pipeline.generate(single) for single in request.for_each_image()
        ],
        several: lambda: pipeline.generate_images(request),
        f"{several}, apart": lambda: apart.generate_images(request),
    }


def compare(device: torch.device, works: dict[str, Work], rounds: int) -> dict[str, dict[str, object]]:
    """Run every way in turn; return its seconds, MiB, ratios to the first way and levels from its images."""
    seconds: dict[str, list[float]] = {name: [] for name in works}
    memory: dict[str, list[float]] = {name: [] for name in works}
    images: dict[str, list[Generation]] = {}
    for number in range(rounds + 1):  # the first does not count
        for name, work in works.items():
            used = Memory(device)
            start = time.perf_counter()
            images[name] = work()
            if device.type == "cuda":
                torch.cuda.synchronize()
            elapsed = time.perf_counter() - start
            if number:
                seconds[name].append(elapsed)
                memory[name].append(used.peak_mib())
    first = next(iter(works))
    return {
        name: {
            "seconds": spread(seconds[name]),
            "of_the_seconds": spread(ratios(seconds[name], seconds[first])),
            "peak_mib": spread(memory[name]),
            "of_the_memory": spread(ratios(memory[name], memory[first])),
            "levels": levels(images[name], images[first]),
        }
        for name in works
    }


def ratios(samples: Sequence[float], others: Sequence[float]) -> list[float]:
    """Return the ratio of each pair."""
    return [one / other for one, other in zip(samples, others, strict=True)]


def levels(some: Sequence[Generation], others: Sequence[Generation]) -> dict[str, float]:
    """Return how far images are apart, in levels of 255."""
    pairs = zip(some, others, strict=True)
    apart = np.concatenate([np.abs(a.pixels.astype(np.int16) - b.pixels).ravel() for a, b in pairs])
    return {
        "mean": round(float(apart.mean()), 5),
        "99.9 %": float(np.quantile(apart, 0.999)),
        "max": float(apart.max()),
    }


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtypes", nargs="+", default=["float32", "bfloat16"])
    parser.add_argument("--side", type=int, default=512)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--images", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    prepare_torch()
    result: dict[str, object] = {}
    for dtype in args.dtypes:
        models = load_models(GeneratorSettings(device=args.device, dtype=dtype))
        pipeline, apart = Pipeline(models), Pipeline(models, max_images=1)
        request = GenerateRequest(
            PROMPT,
            width_px=args.side,
            height_px=args.side,
            num_inference_steps=args.steps,
            seed=1,
            num_images=args.images,
        ).completed(models.model_set.defaults)
        for hires in (False, True):
            name = f"{dtype}, {'hires fix' if hires else 'no hires fix'}"
            works = ways(pipeline, apart, replace(request, hires_fix=hires))
            result[name] = compare(models.device, works, args.rounds)
    print_json({"machine": machine(), "several_images": result})


if __name__ == "__main__":
    main()
