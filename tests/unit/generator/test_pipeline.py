"""The whole drawing on tiny networks of the real classes."""

from dataclasses import replace

import numpy as np
import pytest
from diffusers import HeunDiscreteScheduler

from atelier_generator.models import Autoencoder
from atelier_generator.pipeline import Pipeline, Progress
from atelier_generator.plan import Size
from atelier_generator.upscale import enlarge_to
from atelier_runtime import metrics
from atelier_runtime.errors import Cancelled, DeadlineExceeded
from atelier_runtime.outcomes import SkipReason
from tests.tiny_sdxl import UPSCALER_NAME, build_set
from tests.unit.generator.conftest import UnetCalls, draw, load, request_for


def cancelled_steps() -> float:
    return metrics.CANCELLED_STEPS._value.get()


# --- sizes ---


@pytest.mark.parametrize(("width", "height"), [(256, 256), (264, 256), (256, 312)])
def test_the_picture_has_exactly_the_asked_size(plain_models, width, height):
    drawing = draw(plain_models, width_px=width, height_px=height)
    assert drawing.picture.shape == (height, width, 3)
    assert drawing.picture.dtype == np.uint8
    assert (drawing.upscaler, drawing.warnings) == ("", ())


def test_a_crop_is_the_middle_of_the_next_larger_drawing(plain_models):
    cut = draw(plain_models, width_px=264, height_px=256).picture
    whole = draw(plain_models, width_px=272, height_px=256).picture
    assert np.array_equal(cut, whole[:, 4:268])


def test_max_side_is_kept_and_told(small_models):
    drawing = draw(small_models, width_px=512, height_px=256)
    assert drawing.picture.shape == (256, 512, 3)
    assert drawing.upscaler == UPSCALER_NAME
    assert drawing.warnings == (
        "drawn at 128x64, the longest side that this model set draws well, "
        f"then enlarged to 512x256 by {UPSCALER_NAME}",
    )


def test_a_sets_guidance_rescale_is_used_where_there_is_guidance(plain_models):
    rescaled = replace(plain_models, model_set=replace(plain_models.model_set, guidance_rescale=1.0))
    pictures = {
        (models is rescaled, guidance): draw(models, guidance_scale=guidance).picture
        for models in (plain_models, rescaled)
        for guidance in (1.0, 20.0)
    }
    assert np.array_equal(pictures[False, 1.0], pictures[True, 1.0])
    assert not np.array_equal(pictures[False, 20.0], pictures[True, 20.0])


@pytest.mark.parametrize("fixture", ["small_models", "bare_models"])
@pytest.mark.parametrize("network", [True, False])
def test_what_enlarged_the_picture_is_named(request, fixture, network):
    drawing = draw(request.getfixturevalue(fixture), use_upscaler=network)
    by_network = network and fixture == "small_models"
    assert drawing.upscaler == (UPSCALER_NAME if by_network else "lanczos")
    assert drawing.warnings[0].endswith(f"by {drawing.upscaler}")


# --- seeds ---


def test_one_seed_is_one_picture(plain_models):
    first = draw(plain_models, seed=5).picture
    draw(plain_models, seed=6)
    assert np.array_equal(first, draw(plain_models, seed=5).picture)
    assert not np.array_equal(first, draw(plain_models, seed=6).picture)


def test_the_largest_seed_draws(full_models):
    largest = draw(full_models, seed=2**53 - 1, hires_fix=True)
    assert np.array_equal(largest.picture, draw(full_models, seed=2**53 - 1, hires_fix=True).picture)


def test_words_matter(plain_models):
    one, other = (draw(plain_models, prompt=words).picture for words in ("a cat", "a dog"))
    assert not np.array_equal(one, other)
    without = draw(plain_models, negative_prompt="").picture
    assert not np.array_equal(without, draw(plain_models, negative_prompt="blurry").picture)


# --- refiner ---


def test_refiner_runs_a_third_of_the_steps_when_asked(full_models):
    events: list[Progress] = []
    with UnetCalls(full_models.text_to_image) as base, UnetCalls(full_models.refiner) as refiner:
        drawing = draw(full_models, num_inference_steps=10, progress=events)
    assert (len(base), len(refiner)) == (10, 3)
    assert (drawing.refiner_applied, drawing.refiner_reason) == (True, None)
    assert events[-1] == Progress("refiner", 3, 3)
    plain = draw(full_models, num_inference_steps=10, use_refiner=False)
    assert (plain.refiner_applied, plain.refiner_reason) == (False, None)
    assert not np.array_equal(plain.picture, drawing.picture)


def test_refiner_takes_at_least_one_step_and_keeps_the_picture(full_models):
    with UnetCalls(full_models.refiner) as refiner:
        refined = draw(full_models, num_inference_steps=1)
    assert len(refiner) == 1 and refined.refiner_applied
    # At strength 0.3, not 1: the refined picture still is the base picture.
    base = draw(full_models, num_inference_steps=1, use_refiner=False).picture.astype(float)
    other = draw(full_models, num_inference_steps=1, use_refiner=False, seed=99).picture.astype(float)
    distance = [np.corrcoef(picture.ravel(), refined.picture.ravel())[0, 1] for picture in (base, other)]
    assert distance[0] > distance[1]


def test_a_refiner_may_draw_larger_than_its_base(tmp_path):
    models = load(build_set(tmp_path, refiner=True, max_side=64, refiner_max_side=128))
    with UnetCalls(models.text_to_image) as base, UnetCalls(models.refiner) as refiner:
        drawing = draw(models, num_inference_steps=10)
    assert (set(base.sizes), set(refiner.sizes)) == ({(8, 8)}, {(16, 16)})
    assert drawing.picture.shape == (256, 256, 3) and drawing.refiner_applied
    assert drawing.warnings == (
        "drawn at 64x64 with a second pass at 128x128, the longest side that this model set draws well, "
        f"then enlarged to 256x256 by {UPSCALER_NAME}",
    )
    names = [stage.stage for stage in drawing.stages]
    assert names == ["text", "base", "decode", "upscale", "encode_latents", "refiner", "decode", "upscale"]
    reached = draw(replace(models, model_set=replace(models.model_set, refiner_max_side=256)))
    assert reached.warnings == (
        "drawn at 64x64 with a second pass at 256x256, the longest side that this model set draws well",
    )
    plain = draw(models, num_inference_steps=10, use_refiner=False)
    assert [stage.stage for stage in plain.stages] == ["text", "base", "decode", "upscale"]


def test_a_refiner_that_is_not_loaded_is_told(plain_models):
    drawing = draw(plain_models)
    assert (drawing.refiner_applied, drawing.refiner_reason) == (False, SkipReason.NOT_LOADED)
    assert draw(plain_models, use_refiner=False).refiner_reason is None


# --- hires fix ---


@pytest.mark.parametrize("use_refiner", [True, False])
def test_hires_runs_eight_steps_by_the_refiner_network_if_loaded(full_models, use_refiner):
    events: list[Progress] = []
    with UnetCalls(full_models.text_to_image) as base, UnetCalls(full_models.refiner) as refiner:
        drawing = draw(full_models, hires_fix=True, use_refiner=use_refiner, progress=events)
    assert (len(base), len(refiner)) == (2, 8)
    assert drawing.picture.shape == (384, 384, 3)
    assert drawing.refiner_applied and drawing.hires_fix_applied and drawing.refiner_reason is None
    assert drawing.upscaler == UPSCALER_NAME
    assert [event.stage for event in events] == ["base"] * 2 + ["hires"] * 8
    assert events[-1] == Progress("hires", 8, 8)


def test_hires_without_a_refiner_runs_the_base_network_again(plain_models):
    with UnetCalls(plain_models.text_to_image) as base:
        drawing = draw(plain_models, hires_fix=True)
    assert len(base) == 2 + 8
    assert drawing.hires_fix_applied and not drawing.refiner_applied
    assert drawing.refiner_reason is SkipReason.NOT_LOADED
    assert [stage.stage for stage in drawing.stages] == [
        "text",
        "base",
        "decode",
        "upscale",
        "encode_latents",
        "hires",
        "decode",
    ]


def test_hires_without_the_network_enlarges_by_lanczos(plain_models):
    assert draw(plain_models, hires_fix=True, use_upscaler=False).upscaler == "lanczos"


def test_hires_of_a_small_set_enlarges_once_at_the_end(small_models):
    drawing = draw(small_models, hires_fix=True)
    assert drawing.picture.shape == (384, 384, 3)
    assert [stage.stage for stage in drawing.stages] == ["text", "base", "hires", "decode", "upscale"]
    assert drawing.warnings == (
        "drawn at 128x128 with a second pass at 128x128, the longest side that this model set draws "
        f"well, then enlarged to 384x384 by {UPSCALER_NAME}",
    )


def test_the_second_pass_starts_from_the_enlarged_base_picture(plain_models, monkeypatch):
    base = draw(plain_models, width_px=256, height_px=256).picture
    seen = []
    encode = Autoencoder.encode
    monkeypatch.setattr(
        Autoencoder,
        "encode",
        lambda self, picture, tiled: seen.append(picture) or encode(self, picture, tiled=tiled),
    )
    hires = draw(plain_models, width_px=336, height_px=336, hires_fix=True).picture
    assert hires.shape == (504, 504, 3)
    # 0.75 * 336 = 252 and 504, both up to the set's multiple of 16
    expected = enlarge_to(base, Size(512, 512), plain_models.upscaler, lambda: None)
    assert len(seen) == 1 and np.array_equal(seen[0], expected)


@pytest.mark.parametrize("refiner", [True, False])
def test_latents_may_have_any_number_of_channels(tmp_path, refiner):
    models = load(build_set(tmp_path, refiner=refiner, latent_channels=8))
    drawing = draw(models, hires_fix=True)
    assert drawing.picture.shape == (384, 384, 3)
    assert drawing.hires_fix_applied and drawing.refiner_applied is refiner
    assert draw(models).refiner_applied is refiner


def test_simple_hires_is_lanczos_alone(plain_models):
    from PIL import Image

    base = draw(plain_models).picture
    drawing = draw(plain_models, hires_fix_simple=True, hires_scale=1.5)
    expected = Image.fromarray(base).resize((384, 384), Image.Resampling.LANCZOS)
    assert np.array_equal(drawing.picture, np.asarray(expected))
    assert (drawing.upscaler, drawing.hires_fix_applied) == ("lanczos", False)


# --- steps and guidance ---


@pytest.mark.parametrize("steps", [1, 2, 3, 7])
def test_every_number_of_steps_works(full_models, steps):
    events: list[Progress] = []
    drawing = draw(full_models, num_inference_steps=steps, progress=events)
    assert drawing.picture.std() > 1
    assert [event.step for event in events if event.stage == "base"] == list(range(1, steps + 1))


@pytest.mark.slow
def test_a_hundred_and_fifty_steps_work(full_models):
    events: list[Progress] = []
    draw(full_models, num_inference_steps=150, progress=events)
    assert len(events) == 150 + 45


@pytest.mark.parametrize(("guidance", "batch"), [(0.0, 1), (1.0, 1), (1.5, 2), (30.0, 2)])
def test_guidance_of_one_or_less_halves_the_work(full_models, guidance, batch):
    with UnetCalls(full_models.text_to_image) as base, UnetCalls(full_models.refiner) as refiner:
        draw(full_models, guidance_scale=guidance)
    assert set(base.batches) == set(refiner.batches) == {batch}


def test_a_negative_prompt_without_guidance_is_told(plain_models):
    warnings = draw(plain_models, guidance_scale=1.0, negative_prompt="blurry").warnings
    assert warnings == ("negative_prompt: has no effect when guidance_scale is 1 or less",)
    assert draw(plain_models, guidance_scale=1.0).warnings == ()


def test_schedulers_of_second_order_count_right(plain_models):
    models = load(plain_models.model_set.folder)
    heun = HeunDiscreteScheduler.from_config(models.text_to_image.scheduler.config)
    models.text_to_image.scheduler = models.image_to_image.scheduler = heun
    events: list[Progress] = []
    draw(models, num_inference_steps=4, hires_fix=True, progress=events)
    for stage in ("base", "hires"):
        steps = [(event.step, event.total_steps) for event in events if event.stage == stage]
        assert steps == [(i, len(steps)) for i in range(1, len(steps) + 1)]


def test_words_beyond_the_limit_are_named_for_both_prompts(plain_models):
    drawing = draw(plain_models, prompt="x" * 75 + " red apple", negative_prompt="y" * 75 + " blurry")
    assert [warning.split(":")[0] for warning in drawing.warnings] == ["prompt", "negative_prompt"]
    assert '"red apple"' in drawing.warnings[0]
    assert '"blurry"' in drawing.warnings[1]


# --- stopping ---


@pytest.mark.parametrize("stop", [Cancelled, DeadlineExceeded])
@pytest.mark.parametrize(("at", "hires"), [(3, False), (9, False), (12, True), (20, True)])
def test_work_stops_within_one_step_and_what_was_saved_is_counted(full_models, stop, at, hires):
    events: list[Progress] = []

    def check() -> None:
        if len(events) == at:
            raise stop

    before = cancelled_steps()
    with pytest.raises(stop):
        draw(full_models, num_inference_steps=16, hires_fix=hires, check=check, progress=events)
    assert len(events) == at  # not one step more
    total = 16 + 8 if hires else 16 + 4
    assert cancelled_steps() - before == total - at


def test_a_stopped_request_leaves_no_trace(full_models):
    options = {"num_inference_steps": 4, "hires_fix": True, "seed": 3}
    undisturbed = draw(load(full_models.model_set.folder), **options).picture
    for at in (2, 6, 9):
        events: list[Progress] = []

        def check(at: int = at, events: list[Progress] = events) -> None:
            if len(events) == at:
                raise Cancelled

        with pytest.raises(Cancelled):
            draw(full_models, check=check, progress=events, **options)
        assert np.array_equal(draw(full_models, **options).picture, undisturbed)


def test_nothing_is_decoded_after_the_last_step_of_a_stopped_request(plain_models, monkeypatch):
    decoded = []
    vae = plain_models.text_to_image.vae
    original = vae.decode
    monkeypatch.setattr(vae, "decode", lambda *args, **kwargs: decoded.append(1) or original(*args, **kwargs))
    events: list[Progress] = []

    def check() -> None:
        if len(events) == 2:
            raise Cancelled

    with pytest.raises(Cancelled):
        draw(plain_models, num_inference_steps=2, check=check, progress=events)
    assert decoded == []


# --- reports ---


def test_stages_account_for_the_time(full_models):
    import time

    start = time.perf_counter()
    drawing = draw(full_models, num_inference_steps=4)
    wall = time.perf_counter() - start
    assert [stage.stage for stage in drawing.stages] == ["text", "base", "refiner", "decode"]
    assert 0 < sum(stage.seconds for stage in drawing.stages) <= wall
    assert all(stage.peak_vram_bytes is None for stage in drawing.stages)


def test_the_plan_is_what_is_drawn(small_models):
    plan = Pipeline(small_models).plan(request_for(width_px=512, height_px=384))
    assert (plan.base, plan.full) == ((128, 128), (512, 384))
