"""Time each network at its published size on a CPU, as version 0.1 ran it and as it runs now.

`python -m bench.cpu`, or with the names of some networks. Weights are made up; their values do not change how
long a network takes. The settings of the memory allocator belong to a process, so each variant runs in one of
its own: one run that does not count, then one that does, all variants in turn, round by round. `--threads` is
what `CPU_THREADS` is for a service. `sdxl` needs 20 GiB of memory.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import redirect_stderr
from functools import partial
from io import StringIO

import torch
from facexlib.detection.retinaface import RetinaFace
from facexlib.parsing.parsenet import ParseNet
from spandrel import ModelLoader

from atelier_generator.models import load_base
from atelier_restorer.detect import FaceDetector
from atelier_restorer.models import FaceRestorer
from atelier_restorer.nets.codeformer import CodeFormer
from atelier_restorer.parse import FaceParser
from atelier_runtime.torch_setup import prepare_torch
from bench.report import machine, print_json, spread
from bench.sdxl import NEGATIVE_PROMPT, PROMPT, synthetic_pipeline
from tests.parity import recipe

AS_IN_0_1 = "float32, as in 0.1"
VARIANTS: dict[str, tuple[str, ...]] = {
    "codeformer": (AS_IN_0_1, "float32", "bfloat16", "bfloat16, codes too"),
    "parsenet": (AS_IN_0_1, "float32", "bfloat16"),
    "retinaface": (AS_IN_0_1, "float32"),
    "rrdbnet": (AS_IN_0_1, "float32", "bfloat16"),
    "sdxl": (AS_IN_0_1, "bfloat16"),
}
INPUTS = {
    "codeformer": "a face, 512x512, w 0.5",
    "parsenet": "a face, 512x512",
    "retinaface": "ResNet50, an image of 640x960",
    "rrdbnet": "RealESRGAN_x2plus, 256x256 to 512x512",
    "sdxl": "base, 1024x1024 with guidance: text, one step of the UNet, decoding",
}

Work = dict[str, Callable[[], object]]


def codeformer(variant: str) -> Work:
    """Return a forward pass."""
    network = CodeFormer()
    torch.nn.init.normal_(network.position_emb)
    if variant == AS_IN_0_1:
        network.requires_grad_(False).eval()
        x = torch.rand(1, 3, 512, 512) * 2 - 1
        return {"a face": partial(network, x, 0.5)}
    generator, encoder = _dtype(variant), torch.bfloat16 if "codes" in variant else torch.float32
    restorer = FaceRestorer(network, torch.device("cpu"), generator, encoder)
    crops = (torch.rand(1, 512, 512, 3) * 255).to(torch.uint8).numpy()
    return {"a face": partial(restorer.restore, crops, [(0, 0.5)])}


def parsenet(variant: str) -> Work:
    """Return a forward pass."""
    network = ParseNet(in_size=512, out_size=512, parsing_ch=19)
    if variant == AS_IN_0_1:
        network.requires_grad_(False).eval()
        x = torch.rand(1, 3, 512, 512) * 2 - 1
        return {"a face": partial(network, x)}
    parser = FaceParser.from_state_dict(network.state_dict(), torch.device("cpu"), _dtype(variant))
    crops = (torch.rand(1, 512, 512, 3) * 255).to(torch.uint8).numpy()
    return {"a face": partial(parser.classify, crops)}


def retinaface(variant: str) -> Work:
    """Return a forward pass; only the allocator differs."""
    network = RetinaFace(network_name="resnet50", device=torch.device("cpu"))
    detector = FaceDetector.from_state_dict(network.state_dict(), torch.device("cpu"))
    image = (torch.rand(1, 640, 960, 3) * 255).to(torch.uint8).numpy()
    return {"an image": partial(detector.raw, image)}


def rrdbnet(variant: str) -> Work:
    """Return a forward pass; version 0.1 had the memory format already."""
    network = ModelLoader().load_from_state_dict(dict(recipe.state_dict("realesrgan_x2plus", 1))).model
    network.eval().to(_dtype(variant), memory_format=torch.channels_last)
    x = torch.rand(1, 3, 256, 256).to(_dtype(variant), memory_format=torch.channels_last)
    return {"a tile": partial(network, x)}


def sdxl(variant: str) -> Work:
    """Return the three parts of an image."""
    cpu, dtype = torch.device("cpu"), _dtype(variant)
    base = load_base(synthetic_pipeline("base", cpu, tiny=False), cpu, dtype)
    latents = torch.randn(2, 4, 128, 128).to(dtype, memory_format=torch.channels_last)
    conditions = {
        "text_embeds": torch.randn(2, 1280).to(dtype),
        "time_ids": torch.tensor([[1024, 1024, 0, 0, 1024, 1024]] * 2).to(dtype),
    }
    words = torch.randn(2, 77, 2048).to(dtype)
    return {
        "text": partial(
            base.encode_prompt,
            PROMPT,
            device=cpu,
            negative_prompt=NEGATIVE_PROMPT,
            do_classifier_free_guidance=True,
        ),
        "a step": partial(base.unet, latents, 500, encoder_hidden_states=words, added_cond_kwargs=conditions),
        "decoding": partial(base.vae.decode, latents[:1]),
    }


NETWORKS: dict[str, Callable[[str], Work]] = {
    "codeformer": codeformer,
    "parsenet": parsenet,
    "retinaface": retinaface,
    "rrdbnet": rrdbnet,
    "sdxl": sdxl,
}


def _dtype(variant: str) -> torch.dtype:
    return torch.bfloat16 if variant.startswith("bfloat16") else torch.float32


def run_here(network: str, variant: str, threads: int) -> dict[str, float]:
    """Return the seconds of each part, and the peak of this process's memory."""

    if variant != AS_IN_0_1:
        prepare_torch()
    torch.manual_seed(0)
    torch.set_num_threads(threads)
    with torch.inference_mode(), redirect_stderr(StringIO()):  # warnings of the libraries
        seconds = {}
        for part, work in NETWORKS[network](variant).items():
            work()
            start = time.perf_counter()
            work()
            seconds[part] = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return seconds | {"peak_memory_bytes": peak}


def run_apart(network: str, variant: str, threads: int) -> dict[str, float]:
    """Return what `run_here` returns in a new process."""
    environment = os.environ | {"OMP_WAIT_POLICY": "passive"}
    given = ["--run", network, variant, "--threads", str(threads)]
    done = subprocess.run(
        [sys.executable, "-m", "bench.cpu", *given],
        env=environment,
        stdout=subprocess.PIPE,
        check=True,
    )
    result: dict[str, float] = json.loads(done.stdout)
    return result


def measure(network: str, threads: int, rounds: int) -> dict[str, object]:
    """Return seconds by variant and part, and how many times as fast as in 0.1 each is, round by round."""
    runs: dict[str, list[dict[str, float]]] = {variant: [] for variant in VARIANTS[network]}
    for _ in range(rounds):
        for variant, samples in runs.items():
            samples.append(run_apart(network, variant, threads))
    result: dict[str, object] = {"input": INPUTS[network]}
    before = runs[AS_IN_0_1]
    for variant, samples in runs.items():
        result[variant] = {
            part: {
                "seconds": spread([sample[part] for sample in samples]),
                "times_as_fast": spread([b[part] / s[part] for b, s in zip(before, samples, strict=True)]),
            }
            for part in before[0]
            if part != "peak_memory_bytes"
        } | {"peak_memory_mib": round(max(sample["peak_memory_bytes"] for sample in samples) / 2**20)}
    return result


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("networks", nargs="*", help=f"of {', '.join(VARIANTS)}; all but sdxl by default")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--run", nargs=2, metavar=("NETWORK", "VARIANT"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.run:
        network, variant = given.run
        print(json.dumps(run_here(network, variant, given.threads)))
        return
    networks = given.networks or [name for name in VARIANTS if name != "sdxl"]
    if unknown := set(networks) - set(VARIANTS):
        parser.error(f"{', '.join(sorted(unknown))}: not one of {', '.join(VARIANTS)}")
    result: dict[str, object] = {"machine": machine(), "threads": given.threads}
    for network in networks:
        result[network] = measure(network, given.threads, given.rounds)
    print_json(result)


if __name__ == "__main__":
    main()
