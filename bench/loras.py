"""What LoRAs cost: reading one, switching to another, and a step with one and with five.

`python -m bench.loras` uses the base of the model set of ATELIER_GENERATOR_MODEL_SET and made-up LoRAs for
all layers of its attention, `--device cuda` a GPU. In each round every variant runs once, in turn; ratios are
of the same round.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from safetensors.torch import save_file

from atelier_generator.lora_store import LoraStore
from atelier_generator.lora_tags import Lora
from atelier_generator.models import Models, load_models
from atelier_generator.nets.lora_layers import PARTS, layers_by_name
from atelier_generator.pipeline import Pipeline
from atelier_generator.settings import GeneratorSettings
from atelier_runtime.torch_setup import prepare_torch
from bench.base_step import seconds_of_a_step
from bench.report import machine, print_json, spread

COUNT = 5
NAMES = [f"lora{number}" for number in range(COUNT)]


def write_loras(folder: Path, models: Models, rank: int) -> int:
    """Write LoRAs for every layer of attention, and return how many layers those are."""
    base = models.text_to_image
    layers = set(layers_by_name({part: getattr(base, part) for part in PARTS}).values())
    changed = [layer for layer in layers if "attn" in layer.name and len(layer.shape) == 2]
    for seed, name in enumerate(NAMES):
        generator = torch.Generator().manual_seed(seed)
        tensors = {}
        for layer in changed:
            rows, columns = layer.shape
            key = f"{layer.part}.{layer.name}"
            tensors[f"{key}.lora_A.weight"] = torch.randn(rank, columns, generator=generator).half() / 100
            tensors[f"{key}.lora_B.weight"] = torch.randn(rows, rank, generator=generator).half() / 100
        save_file(tensors, folder / f"{name}.safetensors")
    return len(changed)


def timed(work: Callable[[], object], device: torch.device) -> float:
    """Return the seconds that some work takes."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    start = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


def switching(models: Models, rounds: int) -> dict[str, object]:
    """Return milliseconds of a first load, and of changing the layers of the UNet to LoRAs and back."""
    store = models.loras
    samples: dict[str, list[float]] = {
        name: [] for name in ("first load", "to another", "to five others", "to the same again")
    }

    def switch(*names: str) -> Callable[[], None]:
        def work() -> None:
            with models.adapted_unet.applied(store.get([Lora(name) for name in names])):
                pass

        return work

    for number in range(rounds + 1):  # the first does not count: it imports peft
        fresh = LoraStore(store.folder, store.device, store.dtype, store.most_bytes)
        seconds = {"first load": timed(partial(fresh.get, [Lora(NAMES[0])]), models.device)}
        store.get([Lora(name) for name in NAMES])
        switch(NAMES[1])()
        seconds["to another"] = timed(switch(NAMES[2]), models.device)
        seconds["to the same again"] = timed(switch(NAMES[2]), models.device)
        seconds["to five others"] = timed(switch(*NAMES), models.device)
        if number:
            for name, value in seconds.items():
                samples[name].append(value * 1000)
    return {f"{name}, ms": spread(values) for name, values in samples.items()}


def steps(pipeline: Pipeline, side: int, count: int, rounds: int) -> dict[str, object]:
    """Return seconds of a step with none, one and five LoRAs, and the ratios to none of the same round.

    `none again` comes after the others, `none` of the first round before any was loaded.
    """
    variants = {"none": 0, "one": 1, "five": COUNT, "none again": 0}
    samples: dict[str, list[float]] = {name: [] for name in variants}
    for number in range(rounds + 1):
        for name, loras in variants.items():
            named = tuple(Lora(lora, 0.5) for lora in NAMES[:loras])
            seconds = seconds_of_a_step(pipeline, side, count, loras=named)
            if number:
                samples[name].append(seconds)
    result: dict[str, object] = {}
    for name, values in samples.items():
        ratios = [value / none for value, none in zip(values, samples["none"], strict=True)]
        result[name] = {"seconds": spread(values), "over none": spread(ratios)}
    return result


def main() -> None:
    """Print the measurements as JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--side", type=int, default=512)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--rank", type=int, default=16)
    args = parser.parse_args()
    prepare_torch()
    with tempfile.TemporaryDirectory() as folder:
        given = GeneratorSettings()
        chosen = {"device": args.device, "dtype": args.dtype}
        layers = write_loras(Path(folder), load_models(given.model_copy(update=chosen)), args.rank)
        models = load_models(given.model_copy(update=chosen | {"loras": folder}))
        with torch.inference_mode():
            switched = switching(models, args.rounds)
        [file, *_] = models.loras.folder.offered.values()
        print_json(
            {
                "machine": machine(),
                "model_set": models.model_set.name,
                "dtype": str(models.dtype),
                "layers": layers,
                "rank": args.rank,
                "bytes": file.bytes_in(models.dtype),
                "switching": switched,
                "a step": steps(Pipeline(models), args.side, args.steps, args.rounds),
            }
        )


if __name__ == "__main__":
    main()
