"""Everything that a GPU is timed for, as one table: `python -m bench.cards`, best after `make test-gpu`.

SDXL at its published size with made-up weights: one image, batches of 2 and 4, hires fix with refiner, each
beside plain diffusers in the same process, in turn; the gap between the steps of two waiting requests;
CodeFormer in batches of 1, 8 and 16; a photo of 24 megapixels with 30 faces from file to file. Each setting
of COMPILE runs in a process of its own. `--tiny` takes narrow networks and small images, on a CPU as well, to
try the script.
"""

from __future__ import annotations

import argparse
import copy
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import nullcontext, redirect_stdout
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import torch

from atelier_generator.compilation import compile_networks
from atelier_generator.models import Models
from atelier_generator.pipeline import Pipeline
from atelier_generator.request import CompletedRequest, GenerateRequest
from atelier_generator.settings import GeneratorSettings
from atelier_restorer.compilation import compile_codeformer
from atelier_restorer.models import FaceRestorer, restorer_dtype
from atelier_restorer.nets.codeformer import CodeFormer
from atelier_restorer.settings import RestorerSettings
from atelier_runtime.compilation import compiled, prepare
from atelier_runtime.device import choose_device, choose_dtype, device_name
from atelier_runtime.model_defaults import ModelDefaults
from atelier_runtime.settings import Compile
from atelier_runtime.torch_setup import prepare_torch
from atelier_runtime.vram import probe_for
from bench.report import machine, spread
from bench.sdxl import NEGATIVE_PROMPT, PROMPT, Case, DiffusersFlow, make_models

MODES: tuple[Compile, ...] = ("off", "blocks", "max")
BATCHES = (1, 2, 4)
FACES = (1, 8, 16)
PHOTO = ("--networks", "published", "--faces", "30", "--megapixels", "24", "--scale", "1", "--parse", "off")

TO_BEAT = {
    "SDXL, batch of 1": "1.47 s (TensorRT, H100); goal 1.47",
    "SDXL, batch of 4": "goal 1.2 s an image",
    "SDXL, hires fix with refiner": "goal 5 s",
    "CodeFormer, 1 face": "23 ms (TensorRT, A10G)",
    "CodeFormer, 8 faces": "goal 4 ms a face",
    "photo, 24 MP, 30 faces": "goal 1 s",
}


@dataclass(frozen=True)
class Row:
    """A line of the table: seconds of an image, a face or a photo, and of what stands beside it."""

    name: str
    compile: str
    seconds: list[float]
    beside: list[float]
    note: str = ""


def timed(device: torch.device, work: Callable[[], object]) -> float:
    """Return the seconds of some work, between two synchronizations of the device."""
    probe = probe_for(device)
    probe.synchronize()
    start = time.perf_counter()
    work()
    probe.synchronize()
    return time.perf_counter() - start


def in_turn(device: torch.device, works: list[Callable[[], object]], rounds: int) -> list[list[float]]:
    """Run each work once uncounted, then all in turn; return the seconds of each."""
    seconds: list[list[float]] = [[] for _ in works]
    for number in range(rounds + 1):
        for taken, work in zip(seconds, works, strict=True):
            value = timed(device, work)
            if number:
                taken.append(value)
    return seconds


def sdxl(given: argparse.Namespace, device: torch.device, folder: str) -> list[Row]:
    """Time SDXL in one mode."""
    side, steps = (256, 2) if given.tiny else (1024, 30)
    dtype = choose_dtype("auto", device)
    diffusers.utils.logging.set_verbosity_error()
    models = make_models(device, dtype, given.tiny)
    settings = GeneratorSettings(
        device=given.device, compile=given.mode, compile_cache=folder, warm_sizes=f"{side}x{side}"
    )
    prepare(settings)
    compile_networks(models, settings, batch_sizes=BATCHES)
    plain = DiffusersFlow(models)
    pipeline = Pipeline(models, max_batch=max(BATCHES))

    def eagerly(case: Case) -> None:
        with nullcontext() if given.mode == "off" else compiled(False):
            plain.generate(case)

    rows = []
    for count in BATCHES:
        case = Case("", side, steps, hires=False)
        ours, theirs = in_turn(
            device, [partial(generate, pipeline, case, count), partial(eagerly, case)], given.rounds
        )
        rows.append(Row(f"SDXL, batch of {count}", given.mode, [s / count for s in ours], theirs))
    case = Case("", side, steps, hires=True)
    ours, theirs = in_turn(
        device, [partial(generate, pipeline, case, 1), partial(eagerly, case)], given.rounds
    )
    peaks = peaks_by_stage(pipeline, case)
    rows.append(Row("SDXL, hires fix with refiner", given.mode, ours, theirs, peaks))
    if device.type == "cuda":
        rows.append(gap(models, pipeline, Case("", side, steps, hires=False), given))
    return rows


def request_of(case: Case, seed: int) -> CompletedRequest:
    """Return a case as a request."""
    return GenerateRequest(
        PROMPT,
        negative_prompt=NEGATIVE_PROMPT,
        width_px=case.side,
        height_px=case.side,
        num_inference_steps=case.steps,
        hires_fix=case.hires,
        use_refiner=case.hires,
        seed=seed,
    ).completed(ModelDefaults())


def generate(pipeline: Pipeline, case: Case, count: int) -> None:
    """Generate some images together."""
    runs = [
        pipeline.run(request, lambda: None, lambda progress: None, pipeline.start_prompt(request))
        for request in (request_of(case, seed) for seed in range(count))
    ]

    def end(run: object, error: Exception | None) -> None:
        if error is not None:
            raise error

    pipeline.generate_batch(runs, end)
    for run in runs:
        pipeline.finish(run)


def peaks_by_stage(pipeline: Pipeline, case: Case) -> str:
    """Return the peak memory of each stage, in words; nothing on a CPU."""
    stages = pipeline.generate(request_of(case, 0)).stages
    return ", ".join(
        f"{stage.stage} {stage.peak_vram_bytes / 2**30:.1f} GiB"
        for stage in stages
        if stage.peak_vram_bytes is not None
    )


def gap(models: Models, pipeline: Pipeline, case: Case, given: argparse.Namespace) -> Row:
    """Time what lies between the UNet steps of two waiting requests, but for the decoding of the first."""
    events: list[tuple[str, Any]] = []

    def mark(name: str) -> Callable[..., None]:
        def record(*arguments: object) -> None:
            event = torch.cuda.Event(enable_timing=True)
            event.record()
            events.append((name, event))

        return record

    unet, decoder = models.text_to_image.unet, models.text_to_image.vae.decoder
    hooks = []
    for name, module in (("step", unet), ("decode", decoder)):
        hooks.append(module.register_forward_pre_hook(mark(f"{name} starts")))
        hooks.append(module.register_forward_hook(mark(f"{name} ends")))
    gaps, steps = [], []
    for _ in range(given.rounds):
        events.clear()
        prompts = [(request_of(case, seed), pipeline.start_prompt(request_of(case, seed))) for seed in (1, 2)]
        for request, prompt in prompts:
            run = pipeline.run(request, lambda: None, lambda progress: None, prompt)
            pipeline.generate_batch([run], lambda run, error: None)
        torch.cuda.synchronize()
        marks = [name for name, _ in events]
        first = marks.index("decode starts")
        last_end = max(i for i in range(first) if marks[i] == "step ends")
        next_start = marks.index("step starts", first)
        at = [event for _, event in events]
        decode = at[first].elapsed_time(at[marks.index("decode ends", first)])
        gaps.append((at[last_end].elapsed_time(at[next_start]) - decode) / 1000)
        steps.append(at[last_end - 1].elapsed_time(at[last_end]) / 1000)
    for hook in hooks:
        hook.remove()
    return Row("gap between two requests, beside a step", given.mode, gaps, steps, "goal: under 5 %")


def codeformer(given: argparse.Namespace, device: torch.device, folder: str) -> list[Row]:
    """Time CodeFormer in one mode, beside one face at a time in float32, as the reference runs it."""
    counts = FACES[:1] if given.tiny else FACES
    settings = RestorerSettings(
        device=given.device, compile=given.mode, compile_cache=folder, max_batch=max(counts)
    )
    torch.manual_seed(0)
    network = CodeFormer()
    torch.nn.init.normal_(network.position_emb)
    reference = FaceRestorer(copy.deepcopy(network), device, torch.float32)
    crops = np.random.default_rng(0).integers(0, 256, (max(counts), 512, 512, 3), np.uint8)
    one = partial(reference.restore, crops[:1], [(0, 0.5)])
    [before] = in_turn(device, [one], given.rounds)
    restorer = FaceRestorer(network, device, restorer_dtype("auto", device))
    prepare(settings)
    compile_codeformer(restorer, settings, max_batch=max(counts))
    rows = []
    for count in counts:
        decodes = [(row, 0.5) for row in range(count)]
        [ours] = in_turn(
            device, [partial(restorer.restore, crops[:count], decodes, max_batch=max(counts))], given.rounds
        )
        name = f"CodeFormer, {count} face{'s' * (count > 1)}"
        rows.append(Row(name, given.mode, [s / count for s in ours], before))
    return rows


def photo(given: argparse.Namespace) -> list[Row]:
    """Time a photo from file to file, beside the reference."""
    size = ("--faces", "4", "--megapixels", "1", "--scale", "1", "--parse", "off") if given.tiny else PHOTO
    repeats = ("--repeats", str(given.rounds), "--reference-repeats", "1", "--reference-limit", "1000")
    device = () if given.tiny else ("--device", given.device)
    result = child("bench.restore", *size, *repeats, *device, "--format", "jpeg")
    [row] = result["cases"]
    return [Row("photo, 24 MP, 30 faces", "off", total(row, "atelier"), total(row, "reference"))]


def total(row: dict[str, Any], flow: str) -> list[float]:
    """Return the total seconds of a flow in a row of bench.restore: median, minimum, maximum."""
    return [row[f"{flow}_seconds"]["total"][key] for key in ("median", "min", "max")]


def child(module: str, *options: str) -> dict[str, Any]:
    """Run a benchmark in a process of its own and return what it prints."""
    command = [sys.executable, "-m", module, *options]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True)
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def table(rows: list[Row]) -> str:
    """Return the rows in Markdown."""
    lines = ["| | COMPILE | seconds | beside it | times as fast | to beat |", "|---|---|---|---|---|---|"]
    for row in rows:
        own, other = spread(row.seconds), spread(row.beside)
        ratio = other["median"] / own["median"] if own["median"] else 0
        cells = [
            row.name,
            row.compile,
            f"{own['median']:.4g} ({own['min']:.4g} to {own['max']:.4g})",
            f"{other['median']:.4g} ({other['min']:.4g} to {other['max']:.4g})",
            f"{ratio:.2f}",
            "; ".join(filter(None, (TO_BEAT.get(row.name, ""), row.note))),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Run everything and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tiny", action="store_true", help="narrow networks and small images")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--modes", nargs="+", choices=MODES, default=MODES)
    parser.add_argument("--cache", type=Path, help="keep what was compiled in this folder")
    parser.add_argument("--mode", choices=MODES, help=argparse.SUPPRESS)
    given = parser.parse_args()
    device = choose_device(given.device)
    if device.type == "cpu" and not given.tiny:
        parser.error("the table is of a GPU; --tiny tries the script anywhere")
    if given.mode:
        prepare_torch()
        with redirect_stdout(sys.stderr):
            rows = sdxl(given, device, str(given.cache)) + codeformer(given, device, str(given.cache))
        print(json.dumps({"rows": [vars(row) for row in rows]}))
        return
    rows = []
    with tempfile.TemporaryDirectory() as temporary:
        for mode in given.modes:
            options = ["--mode", mode, "--cache", str(given.cache or temporary), "--device", given.device]
            options += ["--rounds", str(given.rounds), *(["--tiny"] if given.tiny else [])]
            rows += [Row(**row) for row in child("bench.cards", *options)["rows"]]
    rows += photo(given)
    print(json.dumps(machine() | {"device": device_name(device)}))
    print(table(rows))


if __name__ == "__main__":
    main()
