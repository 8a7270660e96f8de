"""The complete generation with tiny networks of the real classes."""

import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import HeunDiscreteScheduler

from atelier_generator.autoencoder import Autoencoder
from atelier_generator.generation import Generation, Progress
from atelier_generator.pipeline import Pipeline
from atelier_runtime import metrics
from atelier_runtime.errors import Cancelled, DeadlineExceeded
from atelier_runtime.outcomes import SkipReason
from atelier_runtime.sizes import Size
from atelier_runtime.upscaler import upscale_to
from tests.tiny_sdxl import UPSCALER_NAME, build_set
from tests.unit.generator.conftest import UnetCalls, generate, load, request_for


def cancelled_steps() -> float:
    return float(metrics.CANCELLED_STEPS._value.get())


def size_limits(generation: Generation) -> list[str]:
    """The sizes, and the upscaler, in the one warning that the set's size limit was applied."""
    [warning] = generation.warnings
    assert warning.code == "size_limited"
    return re.findall(rf"\d+x\d+|{UPSCALER_NAME}", warning.message)


# --- sizes ---


@pytest.mark.parametrize(("width", "height"), [(256, 256), (264, 256), (256, 312)])
def test_the_image_has_exactly_the_requested_size(plain_models, width, height):
    generation = generate(plain_models, width_px=width, height_px=height)
    assert generation.pixels.shape == (height, width, 3)
    assert generation.pixels.dtype == np.uint8
    assert (generation.upscaler, generation.warnings) == ("", ())


def test_a_crop_is_the_center_of_the_next_larger_pass(plain_models):
    cut = generate(plain_models, width_px=264, height_px=256).pixels
    whole = generate(plain_models, width_px=272, height_px=256).pixels
    assert np.array_equal(cut, whole[:, 4:268])


def test_max_side_is_respected_and_warned_of(small_models):
    generation = generate(small_models, width_px=512, height_px=256)
    assert generation.pixels.shape == (256, 512, 3)
    assert generation.upscaler == UPSCALER_NAME
    assert size_limits(generation) == ["128x64", "512x256", UPSCALER_NAME]


def test_a_sets_guidance_rescale_is_used_where_there_is_guidance(plain_models):
    rescaled = replace(plain_models, model_set=replace(plain_models.model_set, guidance_rescale=1.0))
    images = {
        (models is rescaled, guidance): generate(models, guidance_scale=guidance).pixels
        for models in (plain_models, rescaled)
        for guidance in (1.0, 20.0)
    }
    assert np.array_equal(images[False, 1.0], images[True, 1.0])
    assert not np.array_equal(images[False, 20.0], images[True, 20.0])


@pytest.mark.parametrize("fixture", ["small_models", "bare_models"])
@pytest.mark.parametrize("network", [True, False])
def test_what_upscaled_the_image_is_named(request, fixture, network):
    generation = generate(request.getfixturevalue(fixture), use_upscaler=network)
    by_network = network and fixture == "small_models"
    assert generation.upscaler == (UPSCALER_NAME if by_network else "lanczos")
    assert generation.warnings[0].message.endswith(f"by {generation.upscaler}")


# --- seeds ---


def test_one_seed_is_one_image(plain_models):
    first = generate(plain_models, seed=5).pixels
    generate(plain_models, seed=6)
    assert np.array_equal(first, generate(plain_models, seed=5).pixels)
    assert not np.array_equal(first, generate(plain_models, seed=6).pixels)


def test_the_largest_seed_works(full_models):
    largest = generate(full_models, seed=2**53 - 1, hires_fix=True)
    assert np.array_equal(largest.pixels, generate(full_models, seed=2**53 - 1, hires_fix=True).pixels)


def test_both_prompts_matter(plain_models):
    one, other = (generate(plain_models, prompt=words).pixels for words in ("a cat", "a dog"))
    assert not np.array_equal(one, other)
    without = generate(plain_models, negative_prompt="").pixels
    assert not np.array_equal(without, generate(plain_models, negative_prompt="blurry").pixels)


# --- refiner ---


def test_the_refiner_runs_a_third_of_the_steps_on_request(full_models):
    events: list[Progress] = []
    with UnetCalls(full_models.text_to_image) as base, UnetCalls(full_models.refiner) as refiner:
        generation = generate(full_models, num_inference_steps=10, progress=events)
    assert (len(base), len(refiner)) == (10, 3)
    assert (generation.refiner_applied, generation.refiner_reason) == (True, None)
    assert events[-1] == Progress("refiner", 3, 3)
    plain = generate(full_models, num_inference_steps=10, use_refiner=False)
    assert (plain.refiner_applied, plain.refiner_reason) == (False, None)
    assert not np.array_equal(plain.pixels, generation.pixels)


def test_the_refiner_runs_at_least_one_step_and_keeps_the_image(full_models):
    with UnetCalls(full_models.refiner) as refiner:
        refined = generate(full_models, num_inference_steps=1)
    assert len(refiner) == 1 and refined.refiner_applied
    # At strength 0.3, not 1: the refined image still resembles the base image.
    base = generate(full_models, num_inference_steps=1, use_refiner=False).pixels.astype(float)
    other = generate(full_models, num_inference_steps=1, use_refiner=False, seed=99).pixels.astype(float)
    similarity = [np.corrcoef(image.ravel(), refined.pixels.ravel())[0, 1] for image in (base, other)]
    assert similarity[0] > similarity[1]


def test_a_refiner_may_work_at_a_larger_size_than_its_base(tmp_path):
    models = load(build_set(tmp_path, refiner=True, max_side=64, refiner_max_side=128))
    with UnetCalls(models.text_to_image) as base, UnetCalls(models.refiner) as refiner:
        generation = generate(models, num_inference_steps=10)
    assert (set(base.sizes), set(refiner.sizes)) == ({(8, 8)}, {(16, 16)})
    assert generation.pixels.shape == (256, 256, 3) and generation.refiner_applied
    assert size_limits(generation) == ["64x64", "128x128", "256x256", UPSCALER_NAME]
    names = [stage.stage for stage in generation.stages]
    assert names == ["text", "base", "decode", "upscale", "encode_latents", "refiner", "decode", "upscale"]
    unlimited = generate(replace(models, model_set=replace(models.model_set, refiner_max_side=256)))
    assert size_limits(unlimited) == ["64x64", "256x256"]
    plain = generate(models, num_inference_steps=10, use_refiner=False)
    assert [stage.stage for stage in plain.stages] == ["text", "base", "decode", "upscale"]


def test_a_refiner_that_is_not_loaded_is_reported(plain_models):
    generation = generate(plain_models)
    assert (generation.refiner_applied, generation.refiner_reason) == (False, SkipReason.NOT_LOADED)
    assert generate(plain_models, use_refiner=False).refiner_reason is None


# --- hires fix ---


@pytest.mark.parametrize("use_refiner", [True, False])
def test_hires_runs_eight_steps_by_the_refiner_network_if_loaded(full_models, use_refiner):
    events: list[Progress] = []
    with UnetCalls(full_models.text_to_image) as base, UnetCalls(full_models.refiner) as refiner:
        generation = generate(full_models, hires_fix=True, use_refiner=use_refiner, progress=events)
    assert (len(base), len(refiner)) == (2, 8)
    assert generation.pixels.shape == (384, 384, 3)
    assert generation.refiner_applied and generation.hires_fix_applied and generation.refiner_reason is None
    assert generation.upscaler == UPSCALER_NAME
    assert [event.stage for event in events] == ["base"] * 2 + ["hires"] * 8
    assert events[-1] == Progress("hires", 8, 8)


def test_hires_without_a_refiner_runs_the_base_network_again(plain_models):
    with UnetCalls(plain_models.text_to_image) as base:
        generation = generate(plain_models, hires_fix=True)
    assert len(base) == 2 + 8
    assert generation.hires_fix_applied and not generation.refiner_applied
    assert generation.refiner_reason is SkipReason.NOT_LOADED
    assert [stage.stage for stage in generation.stages] == [
        "text",
        "base",
        "decode",
        "upscale",
        "encode_latents",
        "hires",
        "decode",
    ]


def test_hires_without_the_upscaler_network_uses_lanczos(plain_models):
    assert generate(plain_models, hires_fix=True, use_upscaler=False).upscaler == "lanczos"


def test_hires_of_a_small_set_upscales_once_at_the_end(small_models):
    generation = generate(small_models, hires_fix=True)
    assert generation.pixels.shape == (384, 384, 3)
    assert [stage.stage for stage in generation.stages] == ["text", "base", "hires", "decode", "upscale"]
    assert size_limits(generation) == ["128x128", "128x128", "384x384", UPSCALER_NAME]


def test_the_second_pass_starts_from_the_upscaled_base_image(plain_models, monkeypatch):
    base = generate(plain_models, width_px=256, height_px=256).pixels
    encoded = []
    encode = Autoencoder.encode

    def recorded(self, image, **options):
        encoded.append(image)
        return encode(self, image, **options)

    monkeypatch.setattr(Autoencoder, "encode", recorded)
    hires = generate(plain_models, width_px=336, height_px=336, hires_fix=True).pixels
    assert hires.shape == (504, 504, 3)
    # 0.75 * 336 = 252 and 504, both up to the set's multiple of 16
    expected = upscale_to(base, Size(512, 512), plain_models.upscaler, lambda: None)
    assert len(encoded) == 1 and np.array_equal(encoded[0], expected)


@pytest.mark.parametrize("refiner", [True, False])
def test_latents_may_have_any_number_of_channels(tmp_path, refiner):
    models = load(build_set(tmp_path, refiner=refiner, latent_channels=8))
    generation = generate(models, hires_fix=True)
    assert generation.pixels.shape == (384, 384, 3)
    assert generation.hires_fix_applied and generation.refiner_applied is refiner
    assert generate(models).refiner_applied is refiner


def test_lanczos_scale_is_lanczos_only(plain_models):
    from PIL import Image

    base = generate(plain_models).pixels
    generation = generate(plain_models, lanczos_scale=1.5)
    expected = Image.fromarray(base).resize((384, 384), Image.Resampling.LANCZOS)
    assert np.array_equal(generation.pixels, np.asarray(expected))
    assert (generation.upscaler, generation.hires_fix_applied) == ("lanczos", False)


# --- steps and guidance ---


@pytest.mark.parametrize("steps", [1, 2, 3, 7])
def test_every_number_of_steps_works(full_models, steps):
    events: list[Progress] = []
    generation = generate(full_models, num_inference_steps=steps, progress=events)
    assert generation.pixels.std() > 1
    assert [event.step for event in events if event.stage == "base"] == list(range(1, steps + 1))


@pytest.mark.slow
def test_150_steps_work(full_models):
    events: list[Progress] = []
    generate(full_models, num_inference_steps=150, progress=events)
    assert len(events) == 150 + 45


@pytest.mark.parametrize(("guidance", "batch"), [(0.0, 1), (1.0, 1), (1.5, 2), (30.0, 2)])
def test_guidance_of_one_or_less_halves_the_work(full_models, guidance, batch):
    with UnetCalls(full_models.text_to_image) as base, UnetCalls(full_models.refiner) as refiner:
        generate(full_models, guidance_scale=guidance)
    assert set(base.batches) == set(refiner.batches) == {batch}


def test_a_negative_prompt_without_guidance_is_warned_of(plain_models):
    warnings = generate(plain_models, guidance_scale=1.0, negative_prompt="blurry").warnings
    assert [warning.code for warning in warnings] == ["option_has_no_effect"]
    assert generate(plain_models, guidance_scale=1.0).warnings == ()


def test_steps_of_second_order_schedulers_are_counted_correctly(plain_models):
    models = load(plain_models.model_set.folder)
    heun = HeunDiscreteScheduler.from_config(models.text_to_image.scheduler.config)
    models.text_to_image.scheduler = heun
    events: list[Progress] = []
    generate(models, num_inference_steps=4, hires_fix=True, progress=events)
    for stage in ("base", "hires"):
        steps = [(event.step, event.total_steps) for event in events if event.stage == stage]
        assert steps == [(i, len(steps)) for i in range(1, len(steps) + 1)]


def test_the_end_of_a_long_prompt_has_an_effect(full_models):
    start = "x" * 75
    images = [
        generate(full_models, prompt=start + end, negative_prompt=start + negative_end)
        for end, negative_end in (("", ""), (" red apple", ""), (" red apple", " blurry"))
    ]
    assert len({generation.pixels.tobytes() for generation in images}) == 3
    assert [generation.warnings for generation in images] == [()] * 3


# --- stopping ---


@pytest.mark.parametrize("stop", [Cancelled, DeadlineExceeded])
@pytest.mark.parametrize(("at", "hires"), [(3, False), (9, False), (12, True), (20, True)])
def test_work_stops_within_one_step_and_saved_steps_are_counted(full_models, stop, at, hires):
    events: list[Progress] = []

    def check() -> None:
        if len(events) == at:
            raise stop

    before = cancelled_steps()
    with pytest.raises(stop):
        generate(full_models, num_inference_steps=16, hires_fix=hires, check=check, progress=events)
    assert len(events) == at  # not one step more
    total = 16 + 8 if hires else 16 + 4
    assert cancelled_steps() - before == total - at


def test_a_stopped_request_does_not_affect_later_ones(full_models):
    options: dict[str, Any] = {"num_inference_steps": 4, "hires_fix": True, "seed": 3}
    undisturbed = generate(load(full_models.model_set.folder), **options).pixels
    for at in (2, 6, 9):
        events: list[Progress] = []

        def check(at: int = at, events: list[Progress] = events) -> None:
            if len(events) == at:
                raise Cancelled

        with pytest.raises(Cancelled):
            generate(full_models, check=check, progress=events, **options)
        assert np.array_equal(generate(full_models, **options).pixels, undisturbed)


def test_nothing_is_decoded_after_the_last_step_of_a_stopped_request(plain_models, monkeypatch):
    decoded = []
    vae = plain_models.text_to_image.vae
    original = vae.decode

    def recorded(*args, **kwargs):
        decoded.append(1)
        return original(*args, **kwargs)

    monkeypatch.setattr(vae, "decode", recorded)
    events: list[Progress] = []

    def check() -> None:
        if len(events) == 2:
            raise Cancelled

    with pytest.raises(Cancelled):
        generate(plain_models, num_inference_steps=2, check=check, progress=events)
    assert decoded == []


# --- reports ---


def test_stages_account_for_the_time(full_models):
    import time

    start = time.perf_counter()
    generation = generate(full_models, num_inference_steps=4)
    wall = time.perf_counter() - start
    assert [stage.stage for stage in generation.stages] == ["text", "base", "refiner", "decode"]
    assert 0 < sum(stage.seconds for stage in generation.stages) <= wall
    assert all(stage.peak_vram_bytes is None for stage in generation.stages)


def test_the_plan_is_what_is_run(small_models):
    plan = Pipeline(small_models).plan(request_for(width_px=512, height_px=384))
    assert (plan.base, plan.full) == ((128, 128), (512, 384))


def test_an_image_does_not_depend_on_the_number_of_threads(full_models):
    """In float32, within the rounding to levels."""
    before = torch.get_num_threads()
    pixels = []
    try:
        for threads in (1, 2, 3, 8):
            torch.set_num_threads(threads)
            pixels.append(generate(full_models, use_refiner=True).pixels.astype(int))
    finally:
        torch.set_num_threads(before)
    assert pixels[0].std() > 1
    assert max(np.abs(other - pixels[0]).max() for other in pixels[1:]) <= 1
