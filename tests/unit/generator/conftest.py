from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from atelier_generator.generation import Generation, Progress
from atelier_generator.models import Models, load_models
from atelier_generator.pipeline import Pipeline
from atelier_generator.request import CompletedRequest, GenerateRequest
from atelier_generator.settings import GeneratorSettings
from atelier_runtime.model_defaults import ModelDefaults
from tests import narrow_sdxl
from tests.tiny_sdxl import build_set

SIDE = 256


def load(folder: Path) -> Models:
    return load_models(
        # One thread: with networks this small a second one costs more than it gains.
        GeneratorSettings(device="cpu", dtype="float32", model_set=str(folder), cpu_threads=1)
    )


@pytest.fixture(scope="session")
def plain_models(tmp_path_factory: pytest.TempPathFactory) -> Models:
    """Base and upscaler, no refiner, no limit of the sides."""
    return load(build_set(tmp_path_factory.mktemp("plain")))


@pytest.fixture(scope="session")
def full_models(tmp_path_factory: pytest.TempPathFactory) -> Models:
    """Base, refiner and upscaler."""
    return load(build_set(tmp_path_factory.mktemp("full"), refiner=True))


@pytest.fixture(scope="session")
def inpaint_models(tmp_path_factory: pytest.TempPathFactory) -> Models:
    """Base, an inpainting network, refiner and upscaler."""
    return load(build_set(tmp_path_factory.mktemp("inpaint"), refiner=True, inpaint=True))


@pytest.fixture(scope="session")
def small_models(tmp_path_factory: pytest.TempPathFactory) -> Models:
    """Base and upscaler of a set that generates well up to 128 px only."""
    return load(build_set(tmp_path_factory.mktemp("small"), max_side=128, size_multiple=64))


@pytest.fixture(scope="session")
def bare_models(tmp_path_factory: pytest.TempPathFactory) -> Models:
    """Only the base."""
    return load(build_set(tmp_path_factory.mktemp("bare"), upscaler=False, max_side=128))


@pytest.fixture(scope="session")
def narrow_networks():
    return {kind: narrow_sdxl.networks(kind) for kind in ("base", "refiner")}


@pytest.fixture(scope="session")
def narrow_set(narrow_networks, tmp_path_factory):
    """Base and refiner with fp16 files only, like the downloads."""
    folder = tmp_path_factory.mktemp("narrow")
    for kind, networks in narrow_networks.items():
        narrow_sdxl.save_folder(folder / kind, kind, networks)
    return narrow_sdxl.write_set(folder, {"base": "base", "refiner": "refiner"})


def request_for(**options: Any) -> CompletedRequest:
    defaults = {
        "prompt": "a cat",
        "width_px": SIDE,
        "height_px": SIDE,
        "num_inference_steps": 2,
        "seed": 1,
        "guidance_scale": 5.0,
    }
    return GenerateRequest(**{**defaults, **options}).completed(ModelDefaults())


def generate(
    models: Models,
    *,
    check: Callable[[], None] = lambda: None,
    progress: list[Progress] | None = None,
    **options: Any,
) -> Generation:
    events = [] if progress is None else progress
    return Pipeline(models).generate(request_for(**options), check, events.append)


class UnetCalls:
    """Records the forward passes of a UNet while it is entered: `batches` and `sizes` of its latents."""

    def __init__(self, pipeline: Any) -> None:
        self._unet = pipeline.unet
        self.batches: list[int] = []
        self.sizes: list[tuple[int, int]] = []

    def __enter__(self) -> UnetCalls:
        def record(module: object, inputs: tuple[Any, ...]) -> None:
            self.batches.append(inputs[0].shape[0])
            self.sizes.append(tuple(inputs[0].shape[2:]))

        self._hook = self._unet.register_forward_pre_hook(record)
        return self

    def __exit__(self, *exception: object) -> None:
        self._hook.remove()

    def __len__(self) -> int:
        return len(self.batches)
