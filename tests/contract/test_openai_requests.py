"""What OpenAI's requests for images become, and what their answers say."""

from __future__ import annotations

import base64
from typing import Any

import pytest

from atelier_gateway.api.openai.quality import QUALITIES
from tests.contract.openai_client import (
    GENERATIONS,
    answer,
    drawn,
    events_in,
    generate,
    picture,
    refused,
)
from tests.contract.stack import Stack

FACES = {"faces", "face_restoration_applied", "face_restoration_reason"}
SET_STEPS = 30  # of the scripted generator


def test_an_answer(stack: Stack) -> None:
    stack.generator.result = {"prompt_tokens": 7}
    response = generate(stack, headers={"Authorization": "Bearer anything"}, model="gpt-image-1", seed=5, n=2)
    content = answer(response)
    assert response.headers["x-atelier-model"] == content["model"] == "demo"
    assert "x-atelier-ignored" not in response.headers
    assert isinstance(content["created"], int)
    shown = {name: content[name] for name in ("background", "output_format", "quality", "size")}
    assert shown == {"background": "opaque", "output_format": "png", "quality": "medium", "size": "256x256"}
    assert content["usage"] == {
        "input_tokens": 7,
        "input_tokens_details": {"text_tokens": 7, "image_tokens": 0},
        "output_tokens": 2 * 16 * 16,
        "output_tokens_details": {"text_tokens": 0, "image_tokens": 2 * 16 * 16},
        "total_tokens": 7 + 2 * 16 * 16,
    }
    assert [each["seed"] for each in content["data"]] == [5, 6]
    for each in content["data"]:
        assert set(each) == {"b64_json", "revised_prompt", "seed", *FACES}
        assert picture(each["b64_json"]).size == (256, 256) and each["revised_prompt"] is None
    native = stack.generate(seed=5).json()
    assert content["data"][0]["faces"] == native["faces"] != []


def test_the_same_picture_as_from_generate(stack: Stack) -> None:
    file = base64.b64decode(
        answer(generate(stack, seed=5, face_restoration_weight=0.3))["data"][0]["b64_json"]
    )
    ours = stack.generator.requests[-1], stack.restorer.requests[-1]
    native = stack.generate(seed=5, face_restoration_weight=0.3, num_images=1).json()
    assert ours == (stack.generator.requests[-1], stack.restorer.requests[-1])
    assert file == base64.b64decode(native["image"].partition(",")[2])


def test_auto_is_1024(stack: Stack) -> None:
    content = answer(stack.client.post(GENERATIONS, json={"prompt": "x", "size": "auto", "quality": "auto"}))
    assert content["size"] == "1024x1024"
    assert (drawn(stack).width_px, drawn(stack).num_inference_steps) in ((1024, 0), (0, 0))


QUALITY_CASES = [
    ("low", SET_STEPS // 2, False),
    ("medium", 0, False),
    ("standard", 0, False),
    ("auto", 0, False),
    ("high", 0, True),
    ("hd", 0, True),
    ("xhigh", SET_STEPS * 3 // 2, True),
    ("max", SET_STEPS * 2, True),
]


@pytest.mark.parametrize(("quality", "steps", "hires"), QUALITY_CASES)
def test_qualities(stack: Stack, quality: str, steps: int, hires: bool) -> None:
    content = answer(generate(stack, quality=quality, size="512x768"))
    request = drawn(stack)
    assert request.num_inference_steps == steps
    assert request.HasField("hires_pass") is hires
    if hires:
        assert (request.width_px, request.height_px) == (384, 576)
        assert (request.hires_pass.width_px, request.hires_pass.height_px) == (512, 768)
    else:
        assert (request.width_px, request.height_px) == (512, 768)
    same = {"standard": "medium", "auto": "medium", "hd": "high"}
    assert content["quality"] == same.get(quality, quality)


def test_every_quality_is_tested() -> None:
    assert {case[0] for case in QUALITY_CASES} == set(QUALITIES)


@pytest.mark.parametrize(("own", "quality", "steps"), [(1, "low", 1), (100, "max", 150), (5, "xhigh", 7)])
def test_steps_stay_in_range(own: int, quality: str, steps: int) -> None:
    with Stack() as stack:
        stack.generator.set_steps = own
        answer(generate(stack, quality=quality))
        assert drawn(stack).num_inference_steps == steps


def test_small_images_have_no_second_pass(stack: Stack) -> None:
    answer(generate(stack, quality="high", size="336x1024"))
    assert not drawn(stack).HasField("hires_pass") and drawn(stack).width_px == 336
    answer(generate(stack, quality="high", size="344x1024"))
    assert drawn(stack).HasField("hires_pass") and drawn(stack).width_px == 256


@pytest.mark.parametrize(
    ("body", "steps", "hires_pass", "hires_fix"),
    [
        ({"quality": "max", "num_inference_steps": 3}, 3, True, False),
        ({"quality": "max", "steps": 3, "hires_fix": False}, 3, False, False),
        ({"quality": "high", "hires_fix": True}, 0, False, True),
        ({"quality": "high", "hires_fix_simple": True}, 0, False, False),
        ({"quality": "low", "hires_pass": {"width": 1024, "height": 768}}, SET_STEPS // 2, True, False),
    ],
)
def test_what_is_said_outright_comes_before_quality(
    stack: Stack, body: dict[str, Any], steps: int, hires_pass: bool, hires_fix: bool
) -> None:
    answer(generate(stack, size="512x512", **body))
    request = drawn(stack)
    assert (request.num_inference_steps, request.HasField("hires_pass"), request.hires_fix) == (
        *(steps, hires_pass),
        hires_fix,
    )


EXTENSIONS: dict[str, Any] = {
    "negative_prompt": "blurry",
    "seed": 42,
    "num_inference_steps": 3,
    "guidance_scale": 4.5,
    "sampler": "euler",
    "loras": [{"name": "sketch", "weight": 0.5}],
    "use_face_restoration": False,
    "use_refiner": False,
}


@pytest.mark.parametrize("nested", [False, True])
def test_extensions_beside_and_in_extra_body(stack: Stack, nested: bool) -> None:
    response = generate(stack, **({"extra_body": EXTENSIONS} if nested else EXTENSIONS))
    assert answer(response)["data"][0]["seed"] == 42 and "x-atelier-ignored" not in response.headers
    request = drawn(stack)
    assert (request.negative_prompt, request.seed, request.num_inference_steps) == ("blurry", 42, 3)
    assert (request.guidance_scale, request.sampler) == (4.5, "euler")
    assert [(lora.name, lora.weight) for lora in request.loras] == [("sketch", 0.5)]
    assert stack.restorer.requests == []


def test_the_same_value_twice_is_no_contradiction(stack: Stack) -> None:
    answer(generate(stack, seed=1, steps=4, width=256, extra_body={"seed": 1, "num_inference_steps": 4}))
    assert (drawn(stack).seed, drawn(stack).num_inference_steps) == (1, 4)


def test_width_and_height_without_a_size(stack: Stack) -> None:
    assert answer(stack.client.post(GENERATIONS, json={"prompt": "x", "width": 264, "height": 256}))
    assert (drawn(stack).width_px, drawn(stack).height_px) == (264, 256)


def test_what_has_no_effect_is_named(stack: Stack) -> None:
    nothing: dict[str, Any] = {
        "user": "u",
        "safety_identifier": "s",
        "moderation": "low",
        "style": "vivid",
        "input_fidelity": "high",
        "something": [1],
    }
    response = generate(
        stack, **nothing, background="opaque", output_compression=50, partial_images=1, extra_body={"new": 1}
    )
    answer(response)
    ignored = response.headers["x-atelier-ignored"].split(", ")
    assert sorted(ignored) == sorted([*nothing, "extra_body.new", "output_compression", "partial_images"])


def test_null_means_absent(stack: Stack) -> None:
    nothing = dict.fromkeys(("n", "size", "quality", "seed", "style", "extra_body", "stream", "width"))
    response = stack.client.post(GENERATIONS, json={"prompt": "x", **nothing})
    assert answer(response)["size"] == "1024x1024" and "x-atelier-ignored" not in response.headers


@pytest.mark.parametrize(("output_format", "name"), [("png", "PNG"), ("jpeg", "JPEG"), ("webp", "WEBP")])
def test_formats(stack: Stack, output_format: str, name: str) -> None:
    content = answer(generate(stack, output_format=output_format, output_compression=0))
    assert content["output_format"] == output_format
    assert picture(content["data"][0]["b64_json"]).format == name
    if output_format != "png":
        assert stack.restorer.requests[-1].output.quality == 1


LONG = "a" * 2001


@pytest.mark.parametrize(
    ("body", "param", "code"),
    [
        ({"prompt": None}, "prompt", "missing_required_parameter"),
        ({"prompt": ""}, "prompt", "invalid_value"),
        ({"prompt": 5}, "prompt", "invalid_value"),
        ({"prompt": LONG}, "prompt", "string_above_max_length"),
        ({"prompt": "a" * 70_000}, "prompt", "string_above_max_length"),
        ({"n": 0}, "n", "invalid_value"),
        ({"n": 11}, "n", "invalid_value"),
        ({"n": "2"}, "n", "invalid_value"),
        ({"num_images": 11}, "num_images", "invalid_value"),
        ({"n": 10, "size": "2048x2048", "upscale": 2}, "n", "invalid_value"),
        ({"n": 2, "num_images": 3}, "num_images", "invalid_value"),
        ({"size": "255x256"}, "size", "invalid_value"),
        ({"size": "256x2056"}, "size", "invalid_value"),
        ({"size": "big"}, "size", "invalid_value"),
        ({"size": 512}, "size", "invalid_value"),
        ({"size": "512x512", "width": 256}, "width", "invalid_value"),
        ({"size": None, "width": 250}, "width", "invalid_value"),
        ({"size": None, "width": 250, "quality": "high"}, "width", "invalid_value"),
        ({"quality": "best"}, "quality", "invalid_value"),
        ({"quality": 80}, "quality", "invalid_value"),
        ({"background": "transparent"}, "background", "unsupported_value"),
        ({"background": "blue"}, "background", "invalid_value"),
        ({"output_format": "gif"}, "output_format", "invalid_value"),
        ({"output_compression": 101, "output_format": "jpeg"}, "output_compression", "invalid_value"),
        ({"response_format": "png"}, "response_format", "invalid_value"),
        ({"response_format": "url", "stream": True}, "response_format", "unsupported_value"),
        ({"partial_images": 4, "stream": True}, "partial_images", "invalid_value"),
        ({"stream": "yes"}, "stream", "invalid_value"),
        ({"seed": "a"}, "seed", "invalid_value"),
        ({"extra_body": {"seed": "a"}}, "extra_body.seed", "invalid_value"),
        ({"extra_body": {"seed": 2}, "seed": 1}, "extra_body.seed", "invalid_value"),
        ({"extra_body": {"steps": 2}, "num_inference_steps": 1}, "extra_body.steps", "invalid_value"),
        ({"extra_body": {"prompt": LONG}, "prompt": None}, "extra_body.prompt", "string_above_max_length"),
        ({"extra_body": [1]}, "extra_body", "invalid_type"),
        ({"steps": 151}, "steps", "invalid_value"),
        ({"loras": [{"name": "a", "weight": 9}]}, "loras[0].weight", "invalid_value"),
        ({"extra_body": {"hires_pass": {"width": 8}}}, "extra_body.hires_pass.width", "invalid_value"),
        ({"hires_fix": True, "hires_fix_simple": True}, "hires_fix", "invalid_value"),
        ({"dry_run": True}, "dry_run", "unsupported_parameter"),
        ({"image": "AAAA"}, "image", "unsupported_parameter"),
        ({"strength": 0.5}, "strength", "unsupported_parameter"),
    ],
)
def test_what_is_refused(stack: Stack, body: dict[str, Any], param: str, code: str) -> None:
    assert refused(generate(stack, **body)) == (param, code)
    assert stack.generator.requests == []


def test_errors_name_the_limits(stack: Stack) -> None:
    message = generate(stack, prompt=LONG).json()["error"]["message"]
    assert "2001" in message and "2000" in message
    message = generate(stack, size="100x100").json()["error"]["message"]
    assert "256" in message and "2048" in message and "100x100" in message
    message = generate(stack, seed="a", guidance_scale=99).json()["error"]["message"]
    assert "seed" in message and "guidance_scale" in message


def test_a_limit_of_the_services_names_the_clients_field(stack: Stack) -> None:
    message = generate(stack, size="2048x2048", extra_body={"upscale": 4}).json()["error"]["message"]
    assert message.count("size:") == 1 and "extra_body.upscale:" in message and "width" not in message


def test_a_form_is_understood(stack: Stack) -> None:
    form = {"prompt": (None, "x"), "size": (None, "256x256"), "n": (None, "2"), "stream": (None, "false")}
    assert len(answer(stack.client.post(GENERATIONS, files=form))["data"]) == 2
    form |= {"stream": (None, "True"), "extra_body[seed]": (None, "7"), "extra_body": (None, '{"steps": 4}')}
    events = events_in(stack.client.post(GENERATIONS, files=form))
    assert [name for name, _ in events] == ["image_generation.completed"] * 2 + [""]
    assert (drawn(stack).seed, drawn(stack).num_inference_steps) == (7, 4)
