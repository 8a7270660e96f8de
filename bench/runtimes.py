"""Compare our networks in torch with the same networks in ONNX Runtime and in OpenVINO, on a CPU.

    python -m pip install --constraint constraints.txt --group runtimes
    python -m bench.runtimes                      # or with the names of some networks

Each network has its published size and made-up weights (those of the parity tests); torch runs it as a
service does. It is exported to ONNX once. Each variant then runs in a process of its own, with as many
threads and the same input, all variants in turn, round by round. The answers are compared with torch's in
float32: the largest and the mean difference, for CodeFormer the codes that differ. ONNX Runtime has no
convolution in bfloat16 for a CPU. `processor_seconds` are those of all threads together; they tell more than
seconds where other programs use the machine too.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from spandrel import ModelLoader
from torch import Tensor, nn

from atelier_restorer.detect import FaceDetector
from atelier_restorer.models import FaceRestorer
from atelier_restorer.nets.codeformer import CodeFormer, match_statistics
from atelier_restorer.parse import FaceParser
from atelier_runtime.torch_setup import prepare_torch
from bench.report import machine, print_json, spread
from bench.sdxl import synthetic_pipeline
from tests.parity import recipe

CPU = torch.device("cpu")
FIDELITY = 0.5
RUNTIMES = ("onnxruntime", "openvino")
REFERENCE = "torch float32"
VARIANTS = (
    REFERENCE,
    "torch bfloat16",
    "onnxruntime float32",
    "openvino float32",
    "openvino bfloat16",
)
CODES_TOO = (" bfloat16", " bfloat16, codes too")
NETWORKS = ("codeformer", "parsenet", "retinaface", "rrdbnet", "unet")
INPUTS = {
    "codeformer": "a face, 512x512, w 0.5",
    "parsenet": "a face, 512x512",
    "retinaface": "ResNet50, an image of 640x960",
    "rrdbnet": "RealESRGAN_x2plus, 256x256 to 512x512",
    "unet": "a narrow UNet of SDXL, a step with guidance at 512x512",
}

Parts = list[nn.Module]
"""Modules that run one after the other; each takes what the one before returns."""


class Encoding(nn.Module):
    """CodeFormer up to the codes."""

    def __init__(self, network: CodeFormer) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Return codes, their latent, and the features to fuse, largest side first."""
        features, latent = self.network.encode(x)
        codes = self.network.predict_codes(latent).argmax(dim=2)
        side = self.network.config.latent_size
        quantized = match_statistics(self.network.lookup(codes.view(1, side, side)), latent)
        return codes, quantized, *(features[size] for size in sorted(features, reverse=True))


class Decoding(nn.Module):
    """CodeFormer from the codes on, at one fidelity: `CodeFormer.decode` without what depends on data."""

    def __init__(self, network: CodeFormer) -> None:
        super().__init__()
        self.network = network

    def forward(self, codes: Tensor, quantized: Tensor, *features: Tensor) -> tuple[Tensor, Tensor]:
        """Return the image, and the codes as they are."""
        sizes = sorted(self.network.encoder.taps.values(), reverse=True)
        of_size = dict(zip(sizes, features, strict=True))
        x, weight = quantized, torch.full((1, 1, 1, 1), FIDELITY)
        for index, block in enumerate(self.network.generator.blocks):
            x = block(x)
            size = self.network.generator.taps.get(index)
            if size is not None:
                x = self.network.fuse_convs_dict[str(size)](of_size[size], x, weight)
        return x, codes


class Step(nn.Module):
    """A UNet's forward pass on plain tensors."""

    def __init__(self, unet: nn.Module) -> None:
        super().__init__()
        self.unet = unet

    def forward(self, latents: Tensor, words: Tensor, text: Tensor, sizes: Tensor) -> Tensor:
        """Return the predicted noise of step 500."""
        conditions = {"text_embeds": text, "time_ids": sizes}
        noise: Tensor = self.unet(
            latents, 500, encoder_hidden_states=words, added_cond_kwargs=conditions, return_dict=False
        )[0]
        return noise


def inputs_of(network: str) -> list[Tensor]:
    """Return a network's input."""
    if network == "unet":
        torch.manual_seed(0)
        unet = _unet()
        size = torch.tensor([[512.0, 512.0, 0, 0, 512.0, 512.0]] * 2)
        words = torch.randn(2, 77, unet.config.cross_attention_dim)
        text = torch.randn(2, unet.config.projection_class_embeddings_input_dim - 6 * 256)
        return [torch.randn(2, 4, 64, 64), words, text, size]
    height, width = {"retinaface": (640, 960), "rrdbnet": (256, 256)}.get(network, (512, 512))
    pixels = torch.from_numpy(recipe.image(network, 1, height, width)).permute(2, 0, 1)[None].float()
    if network == "retinaface":
        return [pixels - 110]
    return [pixels / 255 if network == "rrdbnet" else pixels / 127.5 - 1]


def parts_of(network: str) -> Parts:
    """Return a network as it is exported: in float32, as its authors define it."""
    if network == "codeformer":
        codeformer = CodeFormer.from_state_dict(recipe.state_dict("codeformer", 1))
        return [Encoding(codeformer), Decoding(codeformer)]
    if network == "parsenet":
        return [
            FaceParser.from_state_dict(recipe.state_dict("parsenet", 1), CPU)._network.to(
                memory_format=torch.contiguous_format
            )
        ]
    if network == "retinaface":
        return [FaceDetector.from_state_dict(recipe.state_dict("retinaface_resnet50", 1), CPU)._network]
    if network == "rrdbnet":
        return [ModelLoader().load_from_state_dict(dict(recipe.state_dict("realesrgan_x2plus", 1))).model]
    return [Step(_unet())]


def torch_network(network: str, variant: str) -> Callable[[Sequence[Tensor]], Sequence[Tensor]]:
    """Return a network as a service runs it."""
    dtype = torch.bfloat16 if "bfloat16" in variant else torch.float32
    if network == "codeformer":
        encoder = torch.bfloat16 if "codes too" in variant else torch.float32
        codeformer = CodeFormer.from_state_dict(recipe.state_dict("codeformer", 1))
        restoring = FaceRestorer(codeformer, CPU, dtype, encoder).network

        def restore(given: Sequence[Tensor]) -> Sequence[Tensor]:
            output = restoring(given[0].contiguous(memory_format=torch.channels_last), FIDELITY)
            return output.image, output.codes.flatten(1)

        return restore
    (part,) = parts_of(network)
    if network == "retinaface":
        return lambda given: part(*given)  # always in float32, plane by plane
    part.to(memory_format=torch.channels_last).to(dtype)

    def run(given: Sequence[Tensor]) -> Sequence[Tensor]:
        first = given[0].to(dtype, memory_format=torch.channels_last)
        output = part(first, *(value.to(dtype) for value in given[1:]))
        return output if isinstance(output, tuple) else (output,)

    return run


def _unet() -> Any:
    return synthetic_pipeline("base", CPU, tiny=True).networks["unet"].load(torch.float32)


# --- export and run ---


def export(network: str, folder: Path) -> None:
    """Write a network's input, and its parts as ONNX."""
    given = inputs_of(network)
    np.savez(folder / "input.npz", *(value.numpy() for value in given))
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for number, part in enumerate(parts_of(network)):
            part.requires_grad_(False).eval()
            torch.onnx.export(
                part, tuple(given), folder / f"part_{number}.onnx", dynamo=True, optimize=True, verbose=False
            )
            given = list(part(*given)) if network == "codeformer" else given


def onnx_files(folder: Path) -> list[Path]:
    """Return a network's parts."""
    return sorted(folder.glob("part_*.onnx"))


def onnxruntime_network(folder: Path, threads: int) -> Callable[[Sequence[Any]], Sequence[Any]]:
    """Return a network in ONNX Runtime."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    sessions = [
        onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        for path in onnx_files(folder)
    ]

    def run(given: Sequence[Any]) -> Sequence[Any]:
        for session in sessions:
            names = [entry.name for entry in session.get_inputs()]
            given = session.run(None, dict(zip(names, given, strict=True)))
        return given

    return run


def openvino_network(folder: Path, variant: str, threads: int) -> Callable[[Sequence[Any]], Sequence[Any]]:
    """Return a network in OpenVINO; CodeFormer's codes stay in float32 unless the variant says so."""
    import openvino

    core = openvino.Core()
    files = onnx_files(folder)
    models = []
    for path in files:
        low = "bfloat16" in variant and (len(files) == 1 or path != files[0] or "codes too" in variant)
        config = {
            "INFERENCE_PRECISION_HINT": "bf16" if low else "f32",
            "INFERENCE_NUM_THREADS": threads,
            "PERFORMANCE_HINT": "LATENCY",
        }
        models.append(core.compile_model(path, "CPU", config))

    def run(given: Sequence[Any]) -> Sequence[Any]:
        for model in models:
            result = model(list(given))
            given = [result[output] for output in model.outputs]
        return given

    return run


def run_here(
    network: str, variant: str, folder: Path, threads: int, repeats: int
) -> list[tuple[float, float]]:
    """Return seconds and processor seconds of each run but the first; writes the answer."""
    with np.load(folder / "input.npz") as stored:
        arrays = [stored[name] for name in stored.files]
    runtime = variant.split()[0]
    given: Sequence[Any] = arrays
    if runtime == "torch":
        torch.set_num_threads(threads)
        given = [torch.from_numpy(array) for array in arrays]
        work = partial(torch_network(network, variant), given)
    elif runtime == "onnxruntime":
        work = partial(onnxruntime_network(folder, threads), given)
    else:
        work = partial(openvino_network(folder, variant, threads), given)
    with torch.inference_mode():
        answer = work()
        runs = []
        for _ in range(repeats):
            start, processor = time.perf_counter(), time.process_time()
            work()
            runs.append((time.perf_counter() - start, time.process_time() - processor))
    plain = [value.float().numpy() if isinstance(value, Tensor) else value for value in answer]
    np.savez(folder / f"{variant}.npz", *plain)
    return runs


def run_apart(
    network: str, variant: str, folder: Path, threads: int, repeats: int
) -> list[tuple[float, float]]:
    """Return what `run_here` returns in a new process."""
    command = [sys.executable, "-m", "bench.runtimes", network, "--run", variant, "--folder", str(folder)]
    command += ["--threads", str(threads), "--repeats", str(repeats)]
    done = subprocess.run(
        command, env=os.environ | {"OMP_WAIT_POLICY": "passive"}, stdout=subprocess.PIPE, check=True
    )
    runs: list[tuple[float, float]] = json.loads(done.stdout.splitlines()[-1])
    return runs


def differences(network: str, variant: str, folder: Path) -> dict[str, object]:
    """Compare a variant's answer with the reference's."""
    with np.load(folder / f"{REFERENCE}.npz") as ours, np.load(folder / f"{variant}.npz") as theirs:
        pairs = [(ours[name].astype(np.float64), theirs[name].astype(np.float64)) for name in ours.files]
    result: dict[str, object] = {}
    if network == "codeformer":
        codes = pairs.pop()
        result["codes_that_differ"] = int((codes[0] != codes[1]).sum())
    gaps = [np.abs(a - b) for a, b in pairs]
    return result | {
        "largest_value": float(max(np.abs(a).max() for a, _ in pairs)),
        "largest_difference": float(max(gap.max() for gap in gaps)),
        "mean_difference": float(np.mean([gap.mean() for gap in gaps])),
    }


def measure(network: str, folder: Path, threads: int, rounds: int, repeats: int) -> dict[str, object]:
    """Return seconds by variant, how many times as fast as torch in float32 each is, and what differs."""
    variants = list(VARIANTS)
    if network == "codeformer":
        variants += [name.replace(*CODES_TOO) for name in VARIANTS if name.endswith(CODES_TOO[0])]
    if network == "retinaface":
        variants.remove("torch bfloat16")
    samples: dict[str, list[float]] = {variant: [] for variant in variants}
    processor: dict[str, list[float]] = {variant: [] for variant in variants}
    for _ in range(rounds):
        for variant in variants:
            runs = run_apart(network, variant, folder, threads, repeats)
            samples[variant].append(min(seconds for seconds, _ in runs))
            processor[variant].append(min(seconds for _, seconds in runs))
            print(f"{network}, {variant}: {runs} s", file=sys.stderr)
    result: dict[str, object] = {"input": INPUTS[network]}
    for variant, seconds in samples.items():
        ratios = [r / s for r, s in zip(samples[REFERENCE], seconds, strict=True)]
        result[variant] = {
            "seconds": spread(seconds),
            "times_as_fast": spread(ratios),
            "processor_seconds": spread(processor[variant]),
            **differences(network, variant, folder),
        }
    return result


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("networks", nargs="*", default=NETWORKS, help=f"of {', '.join(NETWORKS)}")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--repeats", type=int, default=2, help="runs in a process, of which the fastest counts"
    )
    parser.add_argument("--folder", type=Path, help="keep exported networks here, and use those that are")
    parser.add_argument("--run", help=argparse.SUPPRESS)
    given = parser.parse_args()
    prepare_torch()
    logging.disable(logging.WARNING)
    if given.run:
        print(json.dumps(run_here(given.networks[0], given.run, given.folder, given.threads, given.repeats)))
        return
    if unknown := set(given.networks) - set(NETWORKS):
        parser.error(f"{', '.join(sorted(unknown))}: not one of {', '.join(NETWORKS)}")
    versions = {name: version(name) for name in RUNTIMES}
    result: dict[str, object] = {"machine": machine() | versions, "threads": given.threads}
    with tempfile.TemporaryDirectory() as temporary:
        for network in given.networks:
            folder = (given.folder or Path(temporary)) / network
            if not onnx_files(folder):
                folder.mkdir(parents=True, exist_ok=True)
                export(network, folder)
            if given.rounds:
                result[network] = measure(network, folder, given.threads, given.rounds, given.repeats)
    print_json(result)


if __name__ == "__main__":
    main()
