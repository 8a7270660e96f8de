"""What the processes cost: a request over HTTP against the same work done in this process, in turn.

`python -m bench.overhead` starts gateway, generator and restorer with the demo models, and loads those here
too. Both make the same files, which is checked. In each round a request goes through the processes, then the
work is done here: the pipeline and the encoder, without queue, gRPC, HTTP, JSON and base64.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import os
import sys
import time
from pathlib import Path

import httpx

from atelier_generator.models import load_models
from atelier_generator.pipeline import Pipeline
from atelier_generator.request import GenerateRequest
from atelier_generator.settings import GeneratorSettings
from atelier_restorer.client import Client
from atelier_restorer.in_process import open_in_process
from atelier_restorer.models import ROLES
from atelier_restorer.request import RestoreRequest
from atelier_restorer.settings import RestorerSettings
from atelier_runtime import images
from atelier_runtime.torch_setup import prepare_torch
from bench.generate import PROMPT, running
from bench.report import machine, print_json, spread

PHOTO = Path("docs/ruined.png")
SIZES = ((512, 20), (1024, 25))


def summary(served: list[float], bare: list[float]) -> dict[str, object]:
    """Return both times, and what is added: milliseconds, and per cent of the bare time."""
    added = [s - b for s, b in zip(served, bare, strict=True)]
    return {
        "served_s": spread(served),
        "bare_s": spread(bare),
        "added_ms": spread([1000 * a for a in added]),
        "added_percent": spread([100 * a / b for a, b in zip(added, bare, strict=True)]),
    }


def compare_generation(
    client: httpx.Client, pipeline: Pipeline, side: int, steps: int, rounds: int
) -> dict[str, object]:
    """Time an image without face restoration, served and bare."""
    served, bare = [], []
    for seed in range(rounds + 1):  # the first does not count
        body = {
            "prompt": PROMPT,
            "seed": seed,
            "width": side,
            "height": side,
            "num_inference_steps": steps,
            "use_face_restoration": False,
        }
        start = time.perf_counter()
        answer = client.post("/generate", json=body).raise_for_status().json()
        middle = time.perf_counter()
        request = pipeline.complete(
            GenerateRequest(PROMPT, width_px=side, height_px=side, num_inference_steps=steps, seed=seed)
        )
        generation = pipeline.generate(request)
        file = images.encode(images.Picture(rgb=generation.pixels), "png", request.quality)
        end = time.perf_counter()
        assert base64.b64decode(answer["image"].partition(",")[2] or answer["image"]) == file
        if seed:
            served.append(middle - start)
            bare.append(end - middle)
    return summary(served, bare)


async def compare_restoration(client: httpx.Client, restorer: Client, rounds: int) -> dict[str, object]:
    """Time the restoration of a photo, served and bare."""
    photo = PHOTO.read_bytes()
    served, bare = [], []
    for number in range(rounds + 1):
        start = time.perf_counter()
        file = {"image": (PHOTO.name, photo)}
        answer = client.post("/restore", files=file, headers={"Accept": "image/png"}).raise_for_status()
        middle = time.perf_counter()
        restored = await restorer.restore(photo, RestoreRequest())
        end = time.perf_counter()
        assert answer.content == restored.picture
        if number:
            served.append(middle - start)
            bare.append(end - middle)
    return summary(served, bare)


async def measure(client: httpx.Client, rounds: int) -> dict[str, object]:
    """Run all comparisons."""
    models = load_models(GeneratorSettings())
    pipeline = Pipeline(models)
    result: dict[str, object] = {
        f"generate {side}x{side}, {steps} steps": compare_generation(client, pipeline, side, steps, rounds)
        for side, steps in SIZES
    }
    async with open_in_process(RestorerSettings(), ROLES, ()) as restorer:
        result["restore a photo"] = await compare_restoration(client, restorer, rounds)
    return result


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    args = parser.parse_args()
    is_prepared = "OMP_WAIT_POLICY" in os.environ
    prepare_torch()
    if not is_prepared:  # OpenMP has read it already, when torch was imported above
        os.execv(sys.executable, [sys.executable, "-m", "bench.overhead", *sys.argv[1:]])
    with running() as url, httpx.Client(base_url=url, timeout=600, trust_env=False) as client:
        print_json({"machine": machine(), **asyncio.run(measure(client, args.rounds))})


if __name__ == "__main__":
    main()
