"""Compiled networks of the generator: what is compiled, when, and that requests cannot tell."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, EulerDiscreteScheduler
from torch._dynamo.utils import counters

from atelier_generator.compilation import compile_networks
from atelier_generator.generation import Generation
from atelier_generator.models import Models, load_models
from atelier_generator.pipeline import Pipeline
from atelier_generator.request import CompletedRequest, GenerateRequest
from atelier_generator.settings import GeneratorSettings
from atelier_runtime.compilation import compiled, prepare
from atelier_runtime.model_defaults import ModelDefaults
from atelier_runtime.settings import StartupError
from tests.compiling import CountingBackend, own_compiler
from tests.tiny_sdxl import build_set

BLOCKS = ("BasicTransformerBlock", "ResnetBlock2D")
WARM = "320x256"
ROWS = (1, 2, 4)
"""Of one image and of two, without and with guidance."""


def load(folder: Path, **options: Any) -> tuple[Models, GeneratorSettings]:
    usual: dict[str, Any] = {"device": "cpu", "dtype": "float32", "cpu_threads": 1}
    settings = GeneratorSettings(**usual | options, model_set=str(folder))
    return load_models(settings), settings


def request(width: int = 320, height: int = 256, **options: Any) -> CompletedRequest:
    chosen: dict[str, Any] = {
        "num_inference_steps": 2,
        "seed": 3,
        "use_refiner": False,
        "use_upscaler": False,
    } | options
    return GenerateRequest(
        prompt="a cat", negative_prompt="", width_px=width, height_px=height, **chosen
    ).completed(ModelDefaults())


def generate(models: Models, given: CompletedRequest) -> Generation:
    return Pipeline(models).generate(given)


@dataclass
class Compiled:
    """Models whose networks are compiled, and how often each network was called."""

    models: Models
    backend: CountingBackend
    parts: dict[str, int]
    calls: dict[str, int] = field(default_factory=dict)

    def runs_of(self, work: Callable[[], object]) -> tuple[int, int]:
        """Return how many compiled parts ran, and how many there were in the networks that were called."""
        before = self.backend.runs
        self.calls.update(dict.fromkeys(self.parts, 0))
        work()
        return self.backend.runs - before, sum(self.parts[name] * n for name, n in self.calls.items())


def compile_all(folder: Path, mode: str = "blocks", **options: Any) -> Compiled:
    batch_sizes = options.pop("batch_sizes", (1,))
    models, settings = load(folder, compile=mode, warm_sizes=WARM, **options)
    backend = CountingBackend()
    networks = {"base": models.text_to_image.unet, "decoder": models.text_to_image.vae.decoder}
    if models.refiner is not None:
        networks["refiner"] = models.refiner.unet
    result = Compiled(models, backend, {name: part_count(n, mode) for name, n in networks.items()})
    for name, network in networks.items():

        def count(module: object, args: object, output: object, name: str = name) -> None:
            result.calls[name] = result.calls.get(name, 0) + 1

        network.register_forward_hook(count)
    compile_networks(models, settings, batch_sizes=batch_sizes, backend=backend)
    return result


def part_count(network: torch.nn.Module, mode: str) -> int:
    return 1 if mode == "max" else sum(type(m).__name__ in BLOCKS for m in network.modules())


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {
        "blocks": build_set(tmp_path_factory.mktemp("full"), refiner=True),
        "max": build_set(tmp_path_factory.mktemp("plain")),
    }


@pytest.fixture(scope="module", params=["blocks", "max"])
def warmed(folders: dict[str, Path], request: pytest.FixtureRequest) -> Iterator[Compiled]:
    """Blocks of a set with a refiner, and whole networks of one without, for batches of two."""
    with own_compiler():
        mode = request.param
        yield compile_all(folders[mode], mode, batch_sizes=(1, 2) if mode == "max" else (1,))


@pytest.fixture(scope="module")
def eager(warmed: Compiled) -> Models:
    return load(warmed.models.model_set.folder)[0]


MIXED = [
    request(),
    request(guidance_scale=1.0),
    request(seed=4, guidance_scale=3.0),
    request(guidance_scale=1.0, num_inference_steps=3),
    request(hires_fix=True),
    request(hires_fix=True, guidance_scale=0.0),
    request(use_refiner=True),
    request(use_refiner=True, guidance_scale=1.0),
    request(hires_fix=True, use_upscaler=True),
    request(lanczos_scale=1.5),
]


def test_ten_mixed_requests_of_warmed_sizes_compile_nothing_and_run_compiled_throughout(
    warmed: Compiled,
) -> None:
    graphs = warmed.backend.graphs
    for given in MIXED:
        runs, parts = warmed.runs_of(partial(generate, warmed.models, given))
        assert runs == parts > 0, given
    assert warmed.backend.graphs == graphs


@pytest.mark.parametrize("scheduler", [DDIMScheduler, DPMSolverMultistepScheduler, EulerDiscreteScheduler])
def test_another_scheduler_is_no_other_shape(warmed: Compiled, scheduler: Any) -> None:
    """DDIM's timesteps are integers, Euler's are not."""
    base, usual = warmed.models.text_to_image, warmed.models.text_to_image.scheduler
    base.scheduler = scheduler.from_config(usual.config)
    try:
        runs, parts = warmed.runs_of(lambda: generate(warmed.models, request()))
    finally:
        base.scheduler = usual
    assert runs == parts > 0


def test_a_size_that_was_not_warmed_runs_eagerly(warmed: Compiled, eager: Models) -> None:
    graphs = warmed.backend.graphs
    given = request(272, 304, use_refiner=True)
    runs, parts = warmed.runs_of(lambda: generate(warmed.models, given))
    assert runs == 0 < parts and warmed.backend.graphs == graphs
    assert np.array_equal(generate(warmed.models, given).pixels, generate(eager, given).pixels)


def test_a_prompt_of_several_chunks_runs_eagerly_where_its_length_matters(
    warmed: Compiled, eager: Models
) -> None:
    graphs = warmed.backend.graphs
    given = replace(request(use_refiner=True), prompt="a cat in the snow, " * 9)
    runs, parts = warmed.runs_of(lambda: generate(warmed.models, given))
    assert 0 < runs < parts and warmed.backend.graphs == graphs
    difference = generate(warmed.models, given).pixels.astype(int) - generate(eager, given).pixels
    assert np.abs(difference).max() <= 1
    runs, parts = warmed.runs_of(lambda: generate(warmed.models, request(use_refiner=True)))
    assert runs == parts > 0, "those of one chunk are not affected"


def test_images_are_those_of_eager_networks(warmed: Compiled, eager: Models) -> None:
    for given in MIXED[3:9]:
        difference = generate(warmed.models, given).pixels.astype(int) - generate(eager, given).pixels
        assert np.abs(difference).max() <= 1, given  # the layout of latents may differ, and sums with it


def test_another_thread_runs_what_was_compiled(warmed: Compiled) -> None:
    def elsewhere() -> None:
        thread = threading.Thread(target=generate, args=(warmed.models, request()))
        thread.start()
        thread.join()

    graphs = warmed.backend.graphs
    runs, parts = warmed.runs_of(elsewhere)
    assert runs == parts > 0
    thread = threading.Thread(target=generate, args=(warmed.models, request(272, 304)))
    thread.start()
    thread.join()
    assert warmed.backend.graphs == graphs


def test_compiled_parts_can_be_switched_off_for_a_request(warmed: Compiled) -> None:
    with compiled(False):
        assert warmed.runs_of(lambda: generate(warmed.models, request()))[0] == 0
    with compiled(True):
        runs, parts = warmed.runs_of(lambda: generate(warmed.models, request()))
    assert runs == parts > 0


def test_a_changed_module_runs_eagerly(warmed: Compiled) -> None:
    """Such as a LoRA makes it: a block whose modules are no longer those that were compiled."""
    unet = warmed.models.text_to_image.unet
    block = next(m for m in unet.modules() if type(m).__name__ == "BasicTransformerBlock")
    usual, graphs = block.attn1.to_q, warmed.backend.graphs
    block.attn1.to_q = torch.nn.Sequential(usual, torch.nn.Identity())
    try:
        runs, parts = warmed.runs_of(lambda: generate(warmed.models, request()))
    finally:
        block.attn1.to_q = usual
    assert runs < parts and warmed.backend.graphs == graphs
    runs, parts = warmed.runs_of(lambda: generate(warmed.models, request()))
    assert runs == parts


def test_a_decode_in_another_dtype_compiles_nothing_and_leaves_what_was_compiled(warmed: Compiled) -> None:
    """As when a decode that failed in 16 bits is repeated in 32."""
    autoencoder, vae = warmed.models.autoencoder, warmed.models.text_to_image.vae
    graphs, latents = warmed.backend.graphs, torch.randn(1, 4, 32, 40)
    with torch.inference_mode():
        for _ in range(2):
            vae.to(torch.bfloat16)
            assert warmed.runs_of(lambda: autoencoder.decode_in_float32(latents, tiled=False))[0] > 0
            assert warmed.runs_of(lambda: autoencoder.decode(latents, tiled=False))[0] == 0
            with torch.inference_mode(False):
                vae.to(torch.float32)
            runs, parts = warmed.runs_of(lambda: autoencoder.decode(latents, tiled=False))
            assert runs == parts > 0
        warmed.runs_of(lambda: autoencoder.decode(latents, tiled=True))
    assert warmed.backend.graphs == graphs


def test_batches_are_warmed_with_and_without_guidance(warmed: Compiled) -> None:
    unet, graphs = warmed.models.text_to_image.unet, warmed.backend.graphs
    rows_warmed = ROWS if warmed.models.refiner is None else ROWS[:2]

    def call(rows: int) -> None:
        conditions = {"time_ids": torch.zeros(rows, 6), "text_embeds": torch.zeros(rows, 32)}
        words = torch.zeros(rows, 77, 64)
        with torch.inference_mode():
            unet(
                torch.zeros(rows, 4, 32, 40), 3, words, None, added_cond_kwargs=conditions, return_dict=False
            )

    for rows in range(1, 6):
        runs, parts = warmed.runs_of(partial(call, rows))
        assert runs == (parts if rows in rows_warmed else 0)
    assert warmed.backend.graphs == graphs


def test_two_requests_together_run_compiled(warmed: Compiled) -> None:
    pipeline = Pipeline(warmed.models, max_batch=2)
    graphs = warmed.backend.graphs

    def together() -> None:
        runs = [
            # with prompts from the encoder's own thread
            pipeline.run(given, lambda: None, lambda progress: None, pipeline.start_prompt(given))
            for given in (request(), request(seed=4, guidance_scale=3.0))
        ]
        pipeline.generate_batch(runs, lambda run, error: None)
        assert all(run.image is not None for run in runs)

    runs, parts = warmed.runs_of(together)
    assert warmed.backend.graphs == graphs
    if warmed.models.refiner is None:  # the set that was warmed for batches of two
        assert runs == parts > 0
    else:
        assert 0 < runs < parts, "only the decoder"


def test_nothing_is_compiled_unless_the_settings_say_so(folders: dict[str, Path]) -> None:
    with own_compiler():
        warmed = compile_all(folders["max"], "off")
        generate(warmed.models, request())
        assert warmed.backend == CountingBackend(0, 0)


def test_a_warm_size_larger_than_a_request_may_be_names_both_settings(folders: dict[str, Path]) -> None:
    models, settings = load(folders["max"], compile="blocks", warm_sizes="512x256", max_pixels=65_536)
    with pytest.raises(StartupError, match=r"^WARM_SIZES: .*512x256.*MAX_PIXELS is 65536"):
        compile_networks(models, settings)


@pytest.mark.slow
def test_ten_mixed_requests_compile_nothing_with_inductor(tmp_path: Path) -> None:
    """Every pass runs at 64x64 or below: inductor takes seconds for each block and shape."""
    with own_compiler():
        folder = build_set(tmp_path / "set", max_side=64, upscaler=False)
        models, settings = load(folder, compile="blocks", warm_sizes="256x256", compile_cache=str(tmp_path))
        prepare(settings)
        compile_networks(models, settings)
        graphs, ran = counters["stats"]["unique_graphs"], counters["inductor"]["fxgraph_cache_miss"]
        assert graphs >= ran > 0
        eager = load(folder)[0]
        for given in [*(replace(given, width_px=256) for given in MIXED), request(512, 256)]:
            difference = generate(models, given).pixels.astype(int) - generate(eager, given).pixels
            assert np.abs(difference).max() <= 1, given
        assert counters["stats"]["unique_graphs"] == graphs
        assert counters["inductor"]["fxgraph_cache_miss"] == ran
