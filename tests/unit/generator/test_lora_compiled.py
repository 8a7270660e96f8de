"""LoRAs beside compiled networks: their requests run eagerly, and leave what was compiled as it was."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch._dynamo.utils import counters

from atelier_generator.compilation import compile_networks
from atelier_generator.lora_tags import Lora
from atelier_generator.models import Models, load_models
from atelier_generator.settings import GeneratorSettings
from atelier_runtime.compilation import Backend, prepare
from tests import tiny_loras
from tests.compiling import CountingBackend, own_compiler
from tests.tiny_sdxl import build_set
from tests.unit.generator.conftest import generate, load

SIDE = 256
INK = (Lora("ink"),)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = build_set(tmp_path_factory.mktemp("set"), upscaler=False, max_side=64)
    tiny_loras.write(folder / "loras/ink.safetensors")
    return folder


def compiled_models(folder: Path, mode: str, backend: Backend, cache: Path) -> Models:
    settings = GeneratorSettings(
        device="cpu",
        dtype="float32",
        model_set=str(folder),
        cpu_threads=1,
        compile=mode,
        warm_sizes=f"{SIDE}x{SIDE}",
        compile_cache=str(cache),
    )
    prepare(settings)
    models = load_models(settings)
    compile_networks(models, settings, backend=backend)
    return models


@pytest.fixture(params=["blocks", "max"])
def mode(request: pytest.FixtureRequest) -> Iterator[str]:
    with own_compiler():
        yield request.param


def test_a_request_with_a_lora_runs_eagerly_and_the_next_one_compiled(folder, mode, tmp_path):
    backend = CountingBackend()
    models = compiled_models(folder, mode, backend, tmp_path)
    eager = load(folder)
    graphs, passes = backend.graphs, []
    hook = models.text_to_image.unet.register_forward_hook(lambda *_: passes.append(backend.runs))

    def runs_of_unet(**options: Any) -> int:
        """Return how many compiled parts ran in the UNet from its first call to its last."""
        passes.clear()
        pixels.append(generate(models, num_inference_steps=3, **options).pixels)
        return passes[-1] - passes[0]

    pixels: list[np.ndarray] = []
    usual = runs_of_unet()
    assert usual > 0
    for _ in range(2):
        assert runs_of_unet(loras=INK) == 0
        assert runs_of_unet() == usual
    hook.remove()
    assert backend.graphs == graphs
    assert np.array_equal(pixels[0], pixels[2]) and np.array_equal(pixels[0], pixels[4])
    expected = generate(eager, num_inference_steps=3, loras=INK).pixels
    assert np.abs(pixels[1].astype(int) - expected).max() <= 1
    assert np.abs(pixels[1].astype(int) - pixels[0]).max() > 5


@pytest.mark.slow
def test_a_lora_compiles_nothing_with_inductor(folder, tmp_path):
    with own_compiler():
        models = compiled_models(folder, "blocks", "inductor", tmp_path)
        graphs, before = counters["stats"]["unique_graphs"], generate(models).pixels
        with torch.inference_mode():
            changed = generate(models, loras=INK).pixels
        assert np.array_equal(generate(models).pixels, before)
        expected = generate(load(folder), loras=INK).pixels
        assert np.abs(changed.astype(int) - expected).max() <= 1
        assert counters["stats"]["unique_graphs"] == graphs
