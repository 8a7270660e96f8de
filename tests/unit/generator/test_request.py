import math
from typing import Any

import pytest

from atelier_generator.request import GenerateRequest
from atelier_runtime.errors import InvalidRequest
from atelier_runtime.model_defaults import ModelDefaults

MAX_PIXELS = 50_000_000
BLURRY = ModelDefaults(negative_prompt="blurry")


def violations(max_pixels: int = MAX_PIXELS, **options: Any) -> dict[str, str]:
    with pytest.raises(InvalidRequest) as caught:
        GenerateRequest(**{"prompt": "a cat", **options}).check_size(max_pixels)
    return {violation.field: violation.message for violation in caught.value.fields}


def test_defaults_are_the_documented_ones():
    request = GenerateRequest("a cat")
    assert request.size == (1024, 1024)
    completed = request.completed(ModelDefaults())
    assert (completed.num_inference_steps, completed.guidance_scale) == (30, 7.5)
    assert (completed.sampler, completed.schedule) == (None, None)
    assert (request.use_refiner, request.use_upscaler) == (True, True)
    assert (request.hires_fix, request.lanczos_scale) == (False, None)
    assert (request.output_format, request.quality) == ("png", 92)
    assert request.prompt_syntax == "plain"


@pytest.mark.parametrize(
    ("field", "options", "limit"),
    [
        ("prompt", {"prompt": ""}, "1 to 2000"),
        ("prompt", {"prompt": "x" * 2001}, "1 to 2000"),
        ("negative_prompt", {"negative_prompt": "x" * 2001}, "0 to 2000"),
        ("width_px", {"width_px": 255}, "multiple of 8 from 256 to 2048"),
        ("width_px", {"width_px": 260}, "multiple of 8"),
        ("width_px", {"width_px": 0}, "multiple of 8"),
        ("height_px", {"height_px": 2056}, "from 256 to 2048"),
        ("num_inference_steps", {"num_inference_steps": 0}, "1 to 150"),
        ("num_inference_steps", {"num_inference_steps": 10**6}, "1 to 150"),
        ("guidance_scale", {"guidance_scale": -0.1}, "0 to 30"),
        ("guidance_scale", {"guidance_scale": math.nan}, "0 to 30"),
        ("guidance_scale", {"guidance_scale": math.inf}, "0 to 30"),
        ("prompt", {"prompt": "a (cat:10.5)", "prompt_syntax": "weighted"}, "0 to 10, is 10.5"),
        ("prompt", {"prompt": "((a cat:4):4)", "prompt_syntax": "weighted"}, "0 to 10, is 16"),
        ("prompt", {"prompt": "[a:b:0.5]", "prompt_syntax": "weighted"}, "not supported"),
        ("negative_prompt", {"negative_prompt": "(a:-1)", "prompt_syntax": "weighted"}, "0 to 10, is -1"),
        ("negative_prompt", {"negative_prompt": "[a|b]", "prompt_syntax": "weighted"}, "not supported"),
        ("prompt_syntax", {"prompt_syntax": "compel"}, "plain, weighted"),
        ("seed", {"seed": 2**53}, "0 to 9007199254740991"),
        ("lanczos_scale", {"lanczos_scale": 0.99}, "1 to 4"),
        ("lanczos_scale", {"lanczos_scale": math.nan}, "1 to 4"),
        ("num_images", {"num_images": 0}, "1 to 10"),
        ("num_images", {"num_images": 11}, "1 to 10"),
        ("seed", {"seed": 2**53 - 3, "num_images": 4}, "at most 9007199254740988 for 4 images"),
        ("output.quality", {"quality": 0}, "1 to 100"),
        ("output.quality", {"quality": 101}, "1 to 100"),
    ],
)
def test_a_bad_field_is_named_with_its_limit(field, options, limit):
    found = violations(**options)
    assert list(found) == [field]
    assert limit in found[field]


def test_every_bad_field_is_named_at_once():
    found = violations(prompt="", width_px=1, height_px=3, num_inference_steps=0, seed=2**60, quality=0)
    assert set(found) == {"prompt", "width_px", "height_px", "num_inference_steps", "seed", "output.quality"}


def test_hires_fix_and_lanczos_scale_exclude_each_other():
    assert set(violations(hires_fix=True, lanczos_scale=1.5)) == {"hires_fix", "lanczos_scale"}


def test_too_many_pixels_name_both_sides_before_any_work():
    found = violations(width_px=2048, height_px=2048, lanczos_scale=4.0)
    assert set(found) == {"width_px", "height_px"}
    assert "8192x8192 = 67108864 pixels" in found["width_px"]
    assert "50000000" in found["height_px"]


def test_the_limit_applies_to_the_finished_image():
    GenerateRequest("a cat", hires_fix=True).check_size(1536 * 1536)
    assert set(violations(1536 * 1536 - 1, hires_fix=True)) == {"width_px", "height_px"}


def test_limits_themselves_are_allowed():
    limits: tuple[dict[str, Any], ...] = (
        {"prompt": "x" * 2000, "negative_prompt": "x" * 2000, "seed": 2**53 - 1},
        {"width_px": 256, "height_px": 2048, "guidance_scale": 0.0, "num_inference_steps": 1, "seed": 0},
        {"guidance_scale": 30.0, "num_inference_steps": 150, "lanczos_scale": 1.0, "quality": 1},
        {"num_images": 8, "seed": 2**53 - 8},
    )
    for options in limits:
        GenerateRequest(**{"prompt": "a", **options}).check_size(MAX_PIXELS)


def test_brackets_of_a_plain_prompt_mean_themselves():
    GenerateRequest("a [cat|dog:0.5] AND (x:99)", negative_prompt="[a:b:0.5]")


def test_completion_adds_a_seed_and_the_sets_negative_prompt():
    request = GenerateRequest("a cat")
    seeds = {request.completed(BLURRY).seed for _ in range(20)}
    assert len(seeds) == 20
    assert all(seed is not None and 0 <= seed < 2**53 for seed in seeds)
    assert request.completed(BLURRY).negative_prompt == "blurry"
    kept = GenerateRequest("a cat", negative_prompt="", seed=7).completed(BLURRY)
    assert (kept.negative_prompt, kept.seed) == ("", 7)


def test_a_random_seed_leaves_room_for_those_of_all_images(monkeypatch):
    monkeypatch.setattr("secrets.randbelow", lambda limit: limit - 1)
    assert GenerateRequest("a cat").completed(BLURRY).seed == 2**53 - 1
    request = GenerateRequest("a cat", num_images=8).completed(BLURRY)
    assert [single.seed for single in request.for_each_image()][-1] == 2**53 - 1


def test_each_image_is_a_request_of_its_own():
    request = GenerateRequest("a cat", num_images=3, seed=5, hires_fix=True).completed(BLURRY)
    assert request.for_each_image() == [
        GenerateRequest("a cat", seed=seed, hires_fix=True).completed(BLURRY) for seed in (5, 6, 7)
    ]
