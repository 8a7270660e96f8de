"""Images that must never be returned, and devices that run out of memory."""

import shutil
from typing import Any

import numpy as np
import pytest
import torch

from atelier_generator.generation import Progress
from atelier_generator.pipeline import Pipeline
from atelier_generator.warm_up import warm_up
from atelier_runtime import metrics
from atelier_runtime.errors import BadImage, Cancelled, OutOfMemory
from atelier_runtime.settings import StartupError
from tests.unit.generator.conftest import generate, load


def cancelled_steps() -> float:
    return float(metrics.CANCELLED_STEPS._value.get())


# --- guards ---


@pytest.fixture
def corrupted_models(full_models, tmp_path):
    """Networks that a test may corrupt."""
    return load(shutil.copytree(full_models.model_set.folder, tmp_path / "set"))


def fill(module: torch.nn.Module, value: float) -> None:
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.fill_(value)


def test_an_image_with_nans_is_an_error(corrupted_models):
    fill(corrupted_models.text_to_image.vae.decoder.conv_out, float("nan"))
    with pytest.raises(BadImage, match="non-finite"):
        generate(corrupted_models)


def test_an_image_of_one_color_is_an_error(corrupted_models):
    fill(corrupted_models.text_to_image.vae.decoder.conv_out, 0.0)
    with pytest.raises(BadImage, match="single color"):
        generate(corrupted_models)


def test_latents_with_nans_are_an_error(corrupted_models):
    fill(corrupted_models.text_to_image.unet.conv_out, float("nan"))
    with pytest.raises(BadImage, match="diffusion network"):
        generate(corrupted_models, use_refiner=False)


def test_warm_up_refuses_networks_that_generate_nothing(corrupted_models):
    warm_up(Pipeline(corrupted_models), corrupted_models)
    fill(corrupted_models.text_to_image.vae.decoder.conv_out, 0.0)
    with pytest.raises(StartupError, match=r"MODEL_SET.*warm-up"):
        warm_up(Pipeline(corrupted_models), corrupted_models)


def fail_below_float32(vae: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the VAE overflow in 16 bits, like that of SDXL."""
    original = vae.decode

    def decode(latents, *args, **kwargs):
        output = original(latents, *args, **kwargs)
        if vae.dtype != torch.float32:
            output.sample.fill_(float("nan"))
        return output

    monkeypatch.setattr(vae, "decode", decode)


def test_a_vae_that_overflows_is_run_again_in_32_bits_with_a_warning(corrupted_models, monkeypatch):
    vae = corrupted_models.text_to_image.vae
    vae.to(torch.bfloat16)
    fail_below_float32(vae, monkeypatch)
    for _ in range(2):
        generation = generate(corrupted_models)
        assert [warning.code for warning in generation.warnings] == ["precision_fallback"]
        assert vae.dtype == torch.bfloat16
    assert [stage.stage for stage in generation.stages].count("decode") == 1


# --- memory ---


def run_out_of_memory(module: torch.nn.Module, times: int) -> list[bool]:
    """Make the next `times` forward passes of a module fail like CUDA; the list tells which failed."""
    failures: list[bool] = []

    def fail(module: object, inputs: object) -> None:
        failures.append(len(failures) < times)
        if failures[-1]:
            raise torch.OutOfMemoryError("CUDA out of memory")

    module.register_forward_pre_hook(fail)
    return failures


@pytest.mark.parametrize("where", ["unet", "decoder", "upscaler"])
def test_a_lack_of_memory_is_retried_once_with_a_warning(corrupted_models, where):
    expected = generate(corrupted_models, hires_fix=True).pixels
    modules = {
        "unet": corrupted_models.text_to_image.unet,
        "decoder": corrupted_models.text_to_image.vae.decoder,
        "upscaler": corrupted_models.upscaler._network.model,
    }
    failures = run_out_of_memory(modules[where], 1)
    generation = generate(corrupted_models, hires_fix=True)
    assert failures[0] and len(failures) > 1
    assert [warning.code for warning in generation.warnings] == ["memory_fallback"]
    # Tiles are blended where they overlap, so pixels near their edges may differ.
    assert generation.pixels.shape == expected.shape
    assert np.corrcoef(generation.pixels.ravel(), expected.ravel())[0, 1] > 0.9


def test_a_lasting_lack_of_memory_is_an_error_and_the_next_request_succeeds(corrupted_models):
    failures = run_out_of_memory(corrupted_models.text_to_image.vae.decoder, 2)
    with pytest.raises(OutOfMemory):
        generate(corrupted_models)
    assert failures == [True, True]
    assert generate(corrupted_models).warnings == ()


def test_steps_repeated_for_memory_are_counted_once(corrupted_models):
    run_out_of_memory(corrupted_models.text_to_image.unet, 1)
    events: list[Progress] = []

    def check() -> None:
        if len(events) == 2:
            raise Cancelled

    before = cancelled_steps()
    with pytest.raises(Cancelled):
        generate(corrupted_models, num_inference_steps=4, use_refiner=False, check=check, progress=events)
    assert cancelled_steps() - before == 2
