"""The generation on a CUDA device, in both half formats; run by `make test-gpu`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from atelier_generator.generation import Generation
from atelier_generator.models import Models, load_models
from atelier_generator.pipeline import Pipeline
from atelier_generator.request import GenerateRequest
from atelier_generator.settings import GeneratorSettings
from atelier_generator.warm_up import warm_up
from atelier_runtime.model_defaults import ModelDefaults
from tests.tiny_sdxl import build_set

pytestmark = pytest.mark.gpu


@pytest.fixture(scope="module")
def set_folder(tmp_path_factory):
    return build_set(tmp_path_factory.mktemp("set"), refiner=True)


def load(folder: Path, **options: Any) -> Models:
    return load_models(GeneratorSettings(model_set=str(folder), **options))


def generate(models: Models, **options: Any) -> Generation:
    request = GenerateRequest(
        "a cat", width_px=256, height_px=256, num_inference_steps=8, seed=1, **options
    ).completed(ModelDefaults())
    return Pipeline(models).generate(request)


@pytest.mark.parametrize(("dtype", "vae"), [("bfloat16", "bfloat16"), ("float16", "float32")])
@pytest.mark.parametrize("hires", [False, True])
def test_half_precision_gives_nearly_the_image_of_the_cpu(set_folder, dtype, vae, hires):
    models = load(set_folder, device="cuda", dtype=dtype)
    assert models.refiner is not None
    assert models.text_to_image.unet.dtype == models.refiner.unet.dtype == getattr(torch, dtype)
    assert models.text_to_image.vae.dtype == getattr(torch, vae)
    warm_up(Pipeline(models), models)
    generation = generate(models, hires_fix=hires)
    expected = generate(load(set_folder, device="cpu"), hires_fix=hires)
    assert generation.warnings == () and generation.refiner_applied
    assert models.text_to_image.vae.dtype == getattr(torch, vae), "a pass converted the shared VAE"
    assert np.abs(generation.pixels.astype(int) - expected.pixels).mean() < 4


def test_auto_suits_the_card_and_stages_report_their_memory(set_folder):
    models = load(set_folder)
    native = torch.cuda.get_device_capability() >= (8, 0)
    assert (models.device.type, models.dtype) == ("cuda", torch.bfloat16 if native else torch.float16)
    for stage in generate(models).stages:
        assert (stage.peak_vram_bytes or 0) > 0


def test_the_peak_of_a_request_that_ran_is_expected_again(set_folder):
    pipeline = Pipeline(load(set_folder))
    request = GenerateRequest("a cat", width_px=512, height_px=512, num_inference_steps=4, seed=1)
    completed = pipeline.complete(request)
    assert pipeline.estimate(completed).peak_bytes is None
    stages = [stage for stage in pipeline.generate(completed).stages if stage.stage != "text"]
    assert pipeline.estimate(completed).peak_bytes == max(stage.peak_vram_bytes or 0 for stage in stages)


def test_memory_is_flat_over_requests(set_folder):
    models = load(set_folder)
    generate(models, hires_fix=True)
    before = torch.cuda.memory_allocated()
    for _ in range(5):
        generate(models, hires_fix=True)
    assert abs(torch.cuda.memory_allocated() - before) < 2**20


def test_real_exhaustion_is_an_error_and_the_next_request_succeeds(set_folder):
    from atelier_runtime.errors import OutOfMemory

    models = load(set_folder)
    expected = generate(models).pixels
    total = torch.cuda.get_device_properties(models.device).total_memory
    # Memory for the networks but not for a large image.
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + 24 * 2**20) / total)
    try:
        request = GenerateRequest("a cat", width_px=2048, height_px=2048, num_inference_steps=1, seed=1)
        with pytest.raises(OutOfMemory):
            Pipeline(models).generate(
                request.completed(ModelDefaults()), check=lambda: None, emit=lambda progress: None
            )
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert np.array_equal(generate(models).pixels, expected)


def test_offloading_changes_no_pixel_and_takes_less_memory(set_folder):
    images, peaks = [], []
    for memory in ("full", "offload"):
        models = load(set_folder, device="cuda", dtype="bfloat16", memory=memory)
        torch.cuda.synchronize()
        generation = generate(models, hires_fix=True)
        images.append(generation.pixels)
        peaks.append(max(stage.peak_vram_bytes or 0 for stage in generation.stages))
        del models
        torch.cuda.empty_cache()
    assert np.array_equal(images[0], images[1])
    assert peaks[1] < peaks[0]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_requests_denoised_together_give_nearly_the_images_of_each_alone(set_folder, dtype):
    pipeline = Pipeline(load(set_folder, device="cuda", dtype=dtype), max_batch=4)
    requests = [
        GenerateRequest(
            prompt, width_px=256, height_px=256, num_inference_steps=8, seed=seed, guidance_scale=4.0 + seed
        ).completed(ModelDefaults())
        for seed, prompt in enumerate(("a cat", "a dog", "a red apple"))
    ]
    alone = [pipeline.generate(request).pixels for request in requests]
    runs = [
        pipeline.run(request, lambda: None, lambda progress: None, pipeline.start_prompt(request))
        for request in requests
    ]
    errors: list[Exception] = []
    pipeline.generate_batch(runs, lambda run, error: errors.append(error) if error else None)
    assert not errors
    for run, image in zip(runs, alone, strict=True):
        difference = np.abs(pipeline.finish(run).pixels.astype(int) - image)
        assert difference.mean() < (0.1 if dtype == "float32" else 2)
