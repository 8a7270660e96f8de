"""What clients of AUTOMATIC1111's dialect are told in its own words: errors, warnings, what is in effect."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from atelier_gateway.http.ignored import WARNINGS_HEADER
from atelier_runtime import wire
from atelier_runtime.errors import InvalidRequest
from atelier_runtime.outcomes import ResponseWarning, WarningCode
from atelier_runtime.service_status import NetworkRole
from tests.contract.automatic1111 import PICTURE, WIDE, drawings, info_of, post, refusal, told
from tests.contract.services import eventually
from tests.contract.stack import Stack

KEY = {"X-API-Key": "told"}


def warnings(*pairs: tuple[WarningCode, str]) -> dict[str, Any]:
    return {"warnings": wire.warnings_to_proto(ResponseWarning(code, message) for code, message in pairs)}


# --- warnings ---


def test_warnings_name_the_clients_fields_and_are_in_a_header(stack: Stack) -> None:
    assert WARNINGS_HEADER not in post(stack, "txt2img").headers
    stack.generator.result = warnings(
        (WarningCode.OPTION_LIMITED, "hires_pass.strength: 0.4 instead of 0.75: the refiner is not for more"),
        (WarningCode.OPTION_HAS_NO_EFFECT, "negative_prompt: has no effect when guidance_scale is 1 or less"),
        (WarningCode.OPTION_HAS_NO_EFFECT, "refiner_strength: has no effect"),
        (WarningCode.SIZE_LIMITED, "generated at 256x256: the strength of an image"),
    )
    response = post(stack, "txt2img", enable_hr=True, batch_size=2)
    assert response.headers[WARNINGS_HEADER] == "option_limited, option_has_no_effect, size_limited"
    assert info_of(response)["warnings"] == [
        "denoising_strength: 0.4 instead of 0.75: the refiner is not for more",
        "negative_prompt: has no effect when cfg_scale is 1 or less",
        "refiner_switch_at: has no effect",
        "generated at 256x256: the strength of an image",
    ]


def test_warnings_of_extras(stack: Stack) -> None:
    stack.restorer.result = warnings((WarningCode.FIDELITY_IGNORED, "fidelity: GFPGAN has none"))
    response = post(stack, "extra-single-image", image=PICTURE, codeformer_visibility=1)
    assert response.headers[WARNINGS_HEADER] == "fidelity_ignored"
    assert "<p>codeformer_weight: GFPGAN has none</p>" in response.json()["html_info"]


# --- errors ---


@pytest.mark.parametrize(
    ("error", "detail"),
    [
        (
            ("strength", "0.01 of 30 steps is less than one step, or there must be more num_inference_steps"),
            "denoising_strength: 0.01 of 30 steps is less than one step, or there must be more steps",
        ),
        (
            ("hires_pass.num_inference_steps", "strength must be more, or num_inference_steps must"),
            "hr_second_pass_steps: denoising_strength must be more, or hr_second_pass_steps must",
        ),
        (
            ("schedule", "must be one of default, trailing with the sampler euler_ancestral"),
            "scheduler: must be one of Automatic, SGM Uniform with the sampler Euler a",
        ),
        (("mask_blur_px", "must be less"), "mask_blur: must be less"),
    ],
)
def test_errors_of_services_name_the_clients_fields(
    stack: Stack, error: tuple[str, str], detail: str
) -> None:
    stack.generator.error = InvalidRequest.of(*error)
    path = "txt2img" if "hires" in error[0] else "img2img"
    assert refusal(post(stack, path)) == detail


def test_an_unknown_sampler_is_named_as_it_came(stack: Stack) -> None:
    stack.generator.error = InvalidRequest.of("sampler", "must be one of euler, euler_ancestral, dpmpp_2m")
    for field in ("sampler_name", "sampler_index"):
        detail = refusal(post(stack, "txt2img", **{field: "PLMS"}), 400)
        assert detail == f'{field}: "PLMS" is not found; it must be one of Euler, Euler a, DPM++ 2M'


def test_a_wrong_picture_of_a_batch_is_named(stack: Stack) -> None:
    wrong = "R0lGODlhAQABAIAAAAAAAP///yH5BAEAAAAALAAAAAABAAEAAAIBRAA7"  # a GIF file
    pictures = [{"data": data, "name": "x"} for data in (PICTURE, WIDE, wrong)]
    detail = refusal(post(stack, "extra-batch-images", imageList=pictures, codeformer_visibility=1))
    assert detail.startswith("imageList[2].data: ")
    detail = refusal(post(stack, "extra-single-image", image=wrong, codeformer_visibility=1))
    assert detail.startswith("image: ")


def test_the_scheduler_is_named_as_in_its_list(stack: Stack) -> None:
    names = [each["name"] for each in stack.client.get("/sdapi/v1/schedulers").json()]
    for schedule, name in (("default", "automatic"), ("karras", "karras")):
        stack.generator.result = {"schedule": schedule}
        assert info_of(post(stack, "txt2img"))["scheduler"] == name
        assert name in names


# --- extras ---


def test_a_weight_that_was_not_used_is_told(stack: Stack) -> None:
    gfpgan = {"image": PICTURE, "gfpgan_visibility": 0.5, "codeformer_weight": 0.3}
    response = post(stack, "extra-single-image", **gfpgan)
    assert told(response) == ["gfpgan_visibility", "codeformer_weight"]
    html = response.json()["html_info"]
    assert "GFPGAN visibility: 0.5" in html and "CodeFormer" not in html
    codeformer = {"image": PICTURE, "codeformer_visibility": 1, "gfpgan_visibility": 0}
    html = post(stack, "extra-single-image", **codeformer).json()["html_info"]
    assert "CodeFormer weight: 0.0" in html and "GFPGAN" not in html


def test_progress_of_a_batch_counts_finished_pictures(stack: Stack) -> None:
    def state() -> tuple[float, int, int]:
        found = stack.client.get("/sdapi/v1/progress", headers=KEY).json()
        return found["progress"], found["state"]["job_no"], found["state"]["job_count"]

    def eta() -> float:
        found: float = stack.client.get("/sdapi/v1/progress", headers=KEY).json()["eta_relative"]
        return found

    pictures = [{"data": PICTURE, "name": str(number)} for number in range(4)]
    body = {"imageList": pictures, "codeformer_visibility": 1}
    with ThreadPoolExecutor() as pool:
        stack.restorer.hold = True
        future = pool.submit(post, stack, "extra-batch-images", headers=KEY, **body)
        eventually(lambda: stack.restorer.running == 1)
        assert state() == (0.01, 0, 4) and eta() == 0
        stack.restorer.held_after = 3
        stack.restorer.hold = False
        eventually(lambda: state() == (0.75, 3, 4))
        assert eta() > 0
        stack.restorer.held_after = None
        assert len(future.result().json()["images"]) == 4
    assert state() == (0, 0, 0)


# --- what is in effect ---


@pytest.mark.parametrize(
    ("body", "strength", "is_told"),
    [
        ({"steps": 1}, 1, True),  # less than a step at the default
        ({"steps": 20, "hr_second_pass_steps": 1, "denoising_strength": 0.5}, 1, True),
        ({"steps": 8, "denoising_strength": 0}, 0.125, True),
        ({"denoising_strength": 0}, 0.034, True),  # of the model set's 30 steps
        ({"steps": 3, "denoising_strength": 0.2}, 0.334, True),
        ({"steps": 3, "denoising_strength": 0.4}, 0.4, False),
        ({"steps": 2}, 0.75, False),
    ],
)
def test_a_second_pass_has_one_step_at_least(
    stack: Stack, body: dict[str, Any], strength: float, is_told: bool
) -> None:
    response = post(stack, "txt2img", enable_hr=True, **body)
    assert told(response) == ["denoising_strength"] * is_told
    assert drawings(stack)[-1].hires_pass.strength == info_of(response)["denoising_strength"] == strength


@pytest.mark.parametrize(
    ("body", "strength", "is_told"),
    [
        ({"steps": 1}, 1, True),
        ({"steps": 20, "denoising_strength": "0.01"}, 0.05, True),
        ({"denoising_strength": 0.01}, 0.034, True),
        ({"denoising_strength": 0}, 0, False),
        ({"steps": 4, "denoising_strength": 0.25}, 0.25, False),
    ],
)
def test_a_picture_is_drawn_one_step_at_least(
    stack: Stack, body: dict[str, Any], strength: float, is_told: bool
) -> None:
    response = post(stack, "img2img", **body)
    assert told(response) == ["denoising_strength"] * is_told
    assert drawings(stack)[-1].strength == info_of(response)["denoising_strength"] == strength


@pytest.mark.parametrize(
    "body", [{}, {"resize_mode": None, "inpainting_fill": None, "inpaint_full_res": None}]
)
def test_parameters_show_what_is_in_effect(stack: Stack, body: dict[str, Any]) -> None:
    effective = {
        "resize_mode": 1,
        "inpainting_fill": 1,
        "inpaint_full_res": False,
        "denoising_strength": 0.75,
    }
    shown = post(stack, "img2img", mask=PICTURE, **body).json()["parameters"]
    assert {name: shown[name] for name in effective} == effective
    response = post(stack, "img2img", mask=PICTURE, **effective)
    assert told(response) == [] and response.json()["parameters"] == shown


@pytest.mark.parametrize("body", [{}, {"refiner_checkpoint": None}])
def test_a_refiner_that_nobody_named_is_told(stack: Stack, body: dict[str, Any]) -> None:
    assert told(post(stack, "txt2img", **body)) == []
    stack.generator.networks[NetworkRole.REFINER] = "demo-refiner"
    stack.generator.result = {"refiner_applied": True, "refiner_reason": 0}
    assert told(post(stack, "txt2img", **body)) == ["refiner_checkpoint"]
    assert told(post(stack, "img2img", **body)) == ["refiner_checkpoint"]
    assert told(post(stack, "txt2img", refiner_checkpoint="demo-refiner")) == []


# --- the same in other words ---


@pytest.mark.parametrize(
    "body",
    [
        {"hr_scheduler": "Automatic"},
        {"hr_scheduler": "automatic", "scheduler": "Automatic"},
        {"hr_scheduler": "karras", "scheduler": "Karras"},
        {"hr_scheduler": "Karras", "sampler_name": "DPM++ 2M Karras"},
        {"hr_sampler_name": "Euler"},
        {"hr_sampler_name": "euler", "sampler_name": "Euler"},
        {"hr_sampler_name": "k_euler_ancestral", "sampler_name": "Euler a"},
        {"hr_sampler_name": "DPM++ 2M", "sampler_name": "dpmpp_2m_karras"},
        {"hr_sampler_name": "DPM++ 2M Karras", "sampler_name": "DPM++ 2M", "scheduler": "karras"},
        {"hr_sampler_name": "Use same sampler", "hr_scheduler": "Use same scheduler", "scheduler": "Karras"},
        {"hr_prompt": "a red apple "},
    ],
)
def test_a_second_pass_may_name_what_is_in_effect(stack: Stack, body: dict[str, Any]) -> None:
    assert told(post(stack, "txt2img", enable_hr=True, **body)) == []


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"hr_scheduler": "Karras"}, "hr_scheduler"),
        ({"hr_scheduler": "Automatic", "scheduler": "Karras"}, "hr_scheduler"),
        ({"hr_sampler_name": "Euler a"}, "hr_sampler_name"),
        ({"hr_sampler_name": "PLMS"}, "hr_sampler_name"),
        ({"hr_sampler_name": "Euler", "sampler_name": "Euler a"}, "hr_sampler_name"),
        ({"hr_sampler_name": "DPM++ 2M Karras", "sampler_name": "DPM++ 2M"}, "hr_sampler_name"),
    ],
)
def test_a_second_pass_by_another_sampler_is_refused(stack: Stack, body: dict[str, Any], field: str) -> None:
    error = refusal(post(stack, "txt2img", enable_hr=True, **body))
    assert error == f"{field}: must be that of the first pass, or empty"


@pytest.mark.parametrize(
    "body",
    [
        {"tiling": 0},
        {"tiling": "0"},
        {"tiling": " False "},
        {"subseed_strength": False},
        {"subseed_strength": "0e0"},
        {"s_noise": "1."},
        {"s_noise": True},
        {"eta": " 1.0 "},
        {"save_images": 0},
        {"save_images": "false"},
        {"override_settings": {"img2img_color_correction": 0, "eta_noise_seed_delta": "0.00"}},
        {
            "alwayson_scripts": {
                "ADetailer": {"args": [0, {"x": 1}]},
                "ControlNet": {"args": [{"enabled": 0}]},
            }
        },
    ],
)
def test_values_are_compared_not_how_they_are_written(stack: Stack, body: dict[str, Any]) -> None:
    assert told(post(stack, "txt2img", **body)) == []


@pytest.mark.parametrize("steps", [" 7", "7 ", "7.", "0.7e1", "70E-1", 7.0])
def test_numbers_as_they_are_written(stack: Stack, steps: Any) -> None:
    post(stack, "txt2img", steps=steps, cfg_scale=steps, restore_faces=" False ")
    assert (drawings(stack)[-1].num_inference_steps, drawings(stack)[-1].guidance_scale) == (7, 7)


@pytest.mark.parametrize("wrong", ["", " ", "7 7", "seven", "1e", "inf", "1e999", "--7", "0x7", True, [7]])
def test_what_is_no_number(stack: Stack, wrong: Any) -> None:
    for field in ("steps", "cfg_scale"):
        assert refusal(post(stack, "txt2img", **{field: wrong})).startswith(f"{field}: must be a")
    assert refusal(post(stack, "txt2img", tiling=2)).startswith("tiling: ")
    assert refusal(post(stack, "txt2img", subseed_strength="0.5")).startswith("subseed_strength: ")
    assert refusal(post(stack, "txt2img", subseed_strength=True)).startswith("subseed_strength: ")


def test_an_empty_mask_is_none(stack: Stack) -> None:
    assert told(post(stack, "img2img", mask="", restore_faces=True)) == []
    assert not drawings(stack)[-1].HasField("mask")
    assert refusal(post(stack, "img2img", init_images=[""])).startswith("init_images: ")
