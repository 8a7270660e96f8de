"""A second pass of the caller's own size and strength, and a refiner that redraws as much as it is told."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from atelier_generator.estimates import Estimate
from atelier_generator.generation import Generation
from atelier_generator.models import Models
from atelier_generator.pipeline import Pipeline
from atelier_generator.request import GenerateRequest, HiresPass
from atelier_runtime.errors import InvalidRequest
from atelier_runtime.outcomes import SkipReason, WarningCode
from atelier_runtime.sizes import Size
from tests.tiny_sdxl import build_set
from tests.unit.generator.conftest import SIDE, UnetCalls, generate, load, request_for

LARGER = HiresPass(384, 320, strength=0.5, num_inference_steps=4)


@pytest.fixture(scope="module")
def limited_models(tmp_path_factory: pytest.TempPathFactory) -> Models:
    """A set whose base draws small images, which its refiner enlarges."""
    folder = tmp_path_factory.mktemp("limited")
    return load(build_set(folder, refiner=True, max_side=128, refiner_max_side=512))


def stages(generation: Generation) -> list[str]:
    return [stage.stage for stage in generation.stages]


def test_the_base_runs_at_the_requested_size_and_the_result_has_that_of_the_pass(
    plain_models: Models,
) -> None:
    with UnetCalls(plain_models.text_to_image) as calls:
        generation = generate(plain_models, hires_pass=LARGER)
    assert generation.pixels.shape == (320, 384, 3)
    assert calls.sizes == [(SIDE // 8, SIDE // 8)] * 2 + [(40, 48)] * 2, "2 steps, then half of 4"
    assert generation.hires_fix_applied and not generation.refiner_applied
    assert stages(generation) == [*("text", "base", "decode", "upscale", "encode_latents", "hires", "decode")]


def test_a_pass_of_the_same_size_redraws_the_image(plain_models: Models) -> None:
    plain = generate(plain_models, use_refiner=False)
    again = generate(plain_models, use_refiner=False, hires_pass=HiresPass(SIDE, SIDE, 0.5, 4))
    assert plain.pixels.shape == again.pixels.shape
    assert not np.array_equal(plain.pixels, again.pixels)


@pytest.mark.parametrize(("strength", "by_refiner"), [(0.3, True), (0.4, True), (0.5, False), (1.0, False)])
def test_the_refiner_runs_it_as_far_as_it_is_made_for(
    full_models: Models, strength: float, by_refiner: bool
) -> None:
    generation = generate(full_models, hires_pass=replace(LARGER, strength=strength))
    assert generation.refiner_applied is by_refiner
    assert generation.refiner_reason is (None if by_refiner else SkipReason.SKIPPED)
    assert generation.warnings == ()
    unasked = generate(full_models, use_refiner=False, hires_pass=replace(LARGER, strength=strength))
    assert unasked.refiner_reason is None and np.array_equal(unasked.pixels, generation.pixels)


def test_a_base_of_small_images_leaves_it_to_the_refiner_and_says_so(limited_models: Models) -> None:
    wanted = HiresPass(512, 512, strength=0.7, num_inference_steps=10)
    generation = generate(limited_models, hires_pass=wanted)
    assert generation.refiner_applied and generation.pixels.shape == (512, 512, 3)
    codes = [warning.code for warning in generation.warnings]
    assert codes == [WarningCode.OPTION_LIMITED, WarningCode.SIZE_LIMITED]
    assert generation.hires_strength == 0.4, "as it ran"
    assert "hires_pass.strength: 0.4 instead of 0.7" in generation.warnings[0].message
    as_far_as_it_goes = generate(limited_models, hires_pass=replace(wanted, strength=0.4))
    assert np.array_equal(as_far_as_it_goes.pixels, generation.pixels)


def test_the_refiner_redraws_as_much_as_it_is_told_to(full_models: Models) -> None:
    usual = generate(full_models, num_inference_steps=10)
    assert np.array_equal(
        usual.pixels, generate(full_models, num_inference_steps=10, refiner_strength=0.3).pixels
    )
    with UnetCalls(full_models.text_to_image) as calls:
        less = generate(full_models, num_inference_steps=10, refiner_strength=0.1)
    assert len(calls) == 10 and less.refiner_applied, "of the base; the refiner ran one step more"
    assert not np.array_equal(usual.pixels, less.pixels)
    plan = Pipeline(full_models).plan(request_for(num_inference_steps=2, refiner_strength=0.05))
    assert plan.redraw is not None and plan.redraw.steps == 1, "never none"


def test_a_strength_of_no_pass_is_warned_of(full_models: Models, plain_models: Models) -> None:
    for models, options in (
        (full_models, {"use_refiner": False}),
        (full_models, {"hires_fix": True}),
        (full_models, {"hires_pass": LARGER}),
        (plain_models, {}),
    ):
        generation = generate(models, refiner_strength=0.2, **options)
        assert [warning.code for warning in generation.warnings] == [WarningCode.OPTION_HAS_NO_EFFECT]
        assert generation.warnings[0].message.startswith("refiner_strength: ")
    assert generate(full_models, refiner_strength=0.5).warnings == ()


def test_requests_of_other_strengths_do_not_run_together(full_models: Models) -> None:
    pipeline = Pipeline(full_models)

    def key(**options: Any) -> object:
        return pipeline.batch_key(request_for(**options))

    assert key(hires_pass=LARGER) == key(hires_pass=LARGER)
    for other in (
        replace(LARGER, strength=0.6),
        replace(LARGER, num_inference_steps=5),
        replace(LARGER, width_px=320),
    ):
        assert key(hires_pass=LARGER) != key(hires_pass=other)
    assert key(num_inference_steps=20, refiner_strength=0.3) != key(
        num_inference_steps=20, refiner_strength=0.32
    )


def test_what_it_takes_is_foretold(full_models: Models) -> None:
    def estimate(strength: float) -> Estimate:
        return Pipeline(full_models).estimate(request_for(hires_pass=replace(LARGER, strength=strength)))

    for strength in (0.4, 0.75):
        hires = next(stage for stage, _ in estimate(strength).stages if stage.name == "hires")
        assert (hires.size, hires.steps) == (Size(384, 320), int(4 * strength))
    assert estimate(0.75).result == (384, 320)


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"hires_pass": HiresPass(383, 320)}, "hires_pass.width_px"),
        ({"hires_pass": HiresPass(384, 4104)}, "hires_pass.height_px"),
        ({"hires_pass": HiresPass(384, 320, strength=0.03)}, "hires_pass.strength"),
        ({"hires_pass": HiresPass(384, 320, num_inference_steps=2)}, "hires_pass.num_inference_steps"),
        ({"hires_pass": HiresPass(384, 320, strength=float("nan"))}, "hires_pass.strength"),
        ({"hires_pass": HiresPass(384, 320, num_inference_steps=151)}, "hires_pass.num_inference_steps"),
        ({"hires_pass": LARGER, "hires_fix": True}, "hires_pass"),
        ({"hires_pass": LARGER, "lanczos_scale": 2.0}, "hires_pass"),
        ({"hires_pass": LARGER, "image": b"a file"}, "hires_pass"),
        ({"refiner_strength": 0.04}, "refiner_strength"),
        ({"mask_kind": "black"}, "mask_kind"),
        ({"mask_blur_px": 4.0}, "mask_blur_px"),
        ({"image": b"a file", "mask_blur_px": 4.0}, "mask_blur_px"),
        ({"image": b"a file", "mask": b"a file", "mask_blur_px": 65.0}, "mask_blur_px"),
    ],
)
def test_what_is_impossible_is_refused_by_name(options: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        GenerateRequest("a cat", **options)
    assert field in [violation.field for violation in caught.value.fields]


def test_the_size_of_the_pass_counts_as_pixels() -> None:
    request = GenerateRequest("a cat", width_px=512, height_px=512, hires_pass=HiresPass(4096, 4096))
    with pytest.raises(InvalidRequest, match="4096x4096") as caught:
        request.check_size(2**23)
    assert [violation.field for violation in caught.value.fields] == [
        "hires_pass.width_px",
        "hires_pass.height_px",
    ]


def test_a_set_is_known_by_its_hash(full_models: Models, tmp_path: Path) -> None:
    here, there = (load(build_set(tmp_path / name, refiner=True)).model_set for name in ("a", "b"))
    assert here.hash == there.hash and len(here.hash) == 64
    assert here.hash != load(build_set(tmp_path / "c", refiner=True, max_side=512)).model_set.hash
