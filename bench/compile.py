"""Time networks eager, with compiled blocks and compiled at most, and what compiling itself takes.

`python -m bench.compile sdxl` or `codeformer`: on a GPU at the published sizes with made-up weights; `--tiny`
takes narrow networks and small images, on a CPU as well. Each mode compiles in a process of its own, with an
empty cache and then with the one that the first process left, and runs beside an eager copy in the same
process, in turn. CodeFormer runs at its published size on either device unless `--tiny` is given.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch._dynamo.utils import counters

from atelier_generator.compilation import compile_networks
from atelier_generator.settings import GeneratorSettings
from atelier_restorer.compilation import compile_codeformer
from atelier_restorer.models import FaceRestorer, restorer_dtype
from atelier_restorer.nets.codeformer import CodeFormer, CodeFormerConfig
from atelier_restorer.settings import RestorerSettings
from atelier_runtime.compilation import compiled, prepare
from atelier_runtime.device import choose_device, choose_dtype, device_name
from atelier_runtime.processors import usable_processors
from atelier_runtime.settings import Compile
from atelier_runtime.torch_setup import prepare_torch
from atelier_runtime.vram import probe_for
from bench.report import machine, print_json, spread
from bench.sdxl import make_models

MODES: tuple[Compile, ...] = ("blocks", "max")
Work = dict[str, Callable[[], object]]


def sdxl(given: argparse.Namespace, device: torch.device) -> Work:
    """Compile base, refiner and decoder at one size; return a step of each with guidance, and a decode."""
    side = 256 if given.tiny else 1024
    settings = GeneratorSettings(
        device=given.device, compile=given.mode, compile_cache=given.cache, warm_sizes=f"{side}x{side}"
    )
    dtype = choose_dtype(given.dtype, device)
    models = make_models(device, dtype, given.tiny)
    if given.tiny:  # all passes at one size, or a CPU compiles for half an hour
        models = replace(models, model_set=replace(models.model_set, max_side=side, size_multiple=side))
    prepare(settings)
    compile_networks(models, settings)
    latents = torch.randn(2, 4, side // 8, side // 8, device=device).to(dtype)
    work: Work = {}
    unets: tuple[tuple[str, Any, int], ...] = (
        ("base", models.text_to_image, 6),
        ("refiner", models.refiner, 5),
    )
    for name, pipeline, time_ids in unets:
        config = pipeline.unet.config
        text_width = config.projection_class_embeddings_input_dim - 256 * time_ids
        work[f"a step of the {name}"] = partial(
            pipeline.unet,
            latents,
            torch.tensor(500.0, device=device),
            torch.randn(2, 77, config.cross_attention_dim, device=device).to(dtype),
            added_cond_kwargs={
                "text_embeds": torch.randn(2, text_width, device=device).to(dtype),
                "time_ids": torch.randn(2, time_ids, device=device).to(dtype),
            },
            return_dict=False,
        )
    vae = models.text_to_image.vae
    work["a decode"] = partial(vae.decode, latents[:1].to(vae.dtype))
    return work


def codeformer(given: argparse.Namespace, device: torch.device) -> Work:
    """Compile CodeFormer; return batches of one face and, on a GPU, of eight."""
    max_batch = 1 if device.type == "cpu" else 8
    settings = RestorerSettings(
        device=given.device, compile=given.mode, compile_cache=given.cache, max_batch=max_batch
    )
    torch.manual_seed(0)
    network = CodeFormer(_narrow()) if given.tiny else CodeFormer()
    torch.nn.init.normal_(network.position_emb)
    restorer = FaceRestorer(network, device, restorer_dtype(given.dtype, device))
    prepare(settings)
    compile_codeformer(restorer, settings, max_batch=max_batch)
    crops = np.random.default_rng(0).integers(0, 256, (max_batch, 512, 512, 3), np.uint8)
    return {
        f"{count} face{'s' * (count > 1)}": partial(
            restorer.restore, crops[:count], [(row, 0.5) for row in range(count)], max_batch=max_batch
        )
        for count in sorted({1, max_batch})
    }


def _narrow() -> CodeFormerConfig:
    from tests.tiny_restorer import CONFIG

    return CONFIG


NETWORKS: dict[str, Callable[[argparse.Namespace, torch.device], Work]] = {
    "sdxl": sdxl,
    "codeformer": codeformer,
}


def child(given: argparse.Namespace) -> dict[str, object]:
    """Compile in this process, then time each part compiled and eagerly, in turn."""
    prepare_torch()
    device = choose_device(given.device)
    torch.set_num_threads(given.threads or usable_processors())
    start = time.perf_counter()
    with redirect_stdout(sys.stderr):
        work = NETWORKS[given.network](given, device)
    result: dict[str, object] = {
        "seconds_until_warm": round(time.perf_counter() - start, 1),
        "graphs": counters["stats"]["unique_graphs"],
        "graphs_from_cache": counters["inductor"]["fxgraph_cache_hit"],
    }
    probe = probe_for(device)
    for name, run in work.items() if given.repeats else ():
        times: dict[bool, list[float]] = {True: [], False: []}
        for repeat in range(given.repeats + 1):
            for enabled in (True, False):
                with compiled(enabled), torch.inference_mode():
                    probe.synchronize()
                    start = time.perf_counter()
                    run()
                    probe.synchronize()
                if repeat:
                    times[enabled].append(time.perf_counter() - start)
        pairs = zip(times[True], times[False], strict=True)
        result[name] = {
            "compiled_s": spread(times[True]),
            "eager_s": spread(times[False]),
            "eager / compiled": spread([eager / ours for ours, eager in pairs]),
        }
    return result


def measure(given: argparse.Namespace, mode: str) -> dict[str, object]:
    """Compile twice, each time in a new process, the second time with the cache of the first."""
    result: dict[str, object] = {}
    with tempfile.TemporaryDirectory() as cache:
        for name, repeats in (("empty cache", 0), ("the next start", given.repeats)):
            options = ["--mode", mode, "--cache", cache, "--device", given.device, "--dtype", given.dtype]
            options += ["--repeats", str(repeats), "--threads", str(given.threads)]
            command = [sys.executable, "-m", "bench.compile", given.network, *options]
            done = subprocess.run(
                [*command, *(["--tiny"] if given.tiny else [])],
                stdout=subprocess.PIPE,
                env=os.environ,
                check=True,
            )
            result[name] = json.loads(done.stdout)
    return result


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("network", choices=NETWORKS)
    parser.add_argument("--tiny", action="store_true", help="narrow networks and small images")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    parser.add_argument("--dtype", default="auto", choices=["auto", "float32", "bfloat16", "float16"])
    parser.add_argument("--threads", type=int, default=0, help="of a network; 0: one for each CPU")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--modes", nargs="+", choices=MODES, default=MODES)
    parser.add_argument("--mode", choices=MODES, help=argparse.SUPPRESS)
    parser.add_argument("--cache", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.mode:
        print(json.dumps(child(given)))
        return
    device = choose_device(given.device)
    if device.type == "cpu" and given.network == "sdxl" and not given.tiny:
        parser.error("the real size needs a GPU; --tiny runs anywhere")
    result: dict[str, object] = {"machine": machine() | {"device": device_name(device)}}
    print_json(result | {mode: measure(given, mode) for mode in given.modes})


if __name__ == "__main__":
    main()
