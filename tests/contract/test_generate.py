"""POST /generate, row by row of the contract: what a request means to the services, and its response."""

from __future__ import annotations

import base64
import json
import re
from typing import Any

import pytest

from atelier.common.v1 import image_pb2, warning_pb2
from atelier.generator.v1 import generator_service_pb2 as generator_pb
from atelier.restorer.v1 import restorer_service_pb2 as restorer_pb
from atelier_runtime import wire
from atelier_runtime.outcomes import ResponseWarning, SkipReason, WarningCode
from tests.contract.problem_body import problem
from tests.contract.script import gradient, opened
from tests.contract.stack import Stack

DATA_URI = re.compile(r"data:image/(png|jpeg|webp);base64,(.*)", re.DOTALL)


def decoded(answer: dict[str, Any]) -> Any:
    match = DATA_URI.fullmatch(answer["image"])
    assert match is not None
    image = opened(base64.b64decode(match[2]))
    assert str(image.format).lower() == match[1]
    return image


def warnings(*pairs: tuple[WarningCode, str]) -> list[warning_pb2.Warning]:
    return wire.warnings_to_proto(ResponseWarning(code, message) for code, message in pairs)


def test_the_smallest_request_leaves_every_default_to_the_services(stack: Stack) -> None:
    response = stack.client.post("/generate", json={"prompt": "a red apple"})
    assert response.status_code == 200
    [generate] = stack.generator.requests
    assert {field.name for field, _ in generate.ListFields()} == {"prompt", "output"}
    assert generate.prompt == "a red apple"
    assert generate.output.format == image_pb2.IMAGE_FORMAT_RAW_RGB8
    [restore] = stack.restorer.requests
    chosen = {"look", "identity"}
    assert {field.name for field, _ in restore.ListFields()} == {"image", "upscale", "output"} | chosen
    assert restore.upscale == 1
    assert (restore.look, restore.identity) == (restorer_pb.LOOK_ONCE, restorer_pb.IDENTITY_MODE_OFF)
    assert restore.image.format == image_pb2.IMAGE_FORMAT_RAW_RGB8
    assert restore.output == image_pb2.OutputOptions(
        format=image_pb2.IMAGE_FORMAT_PNG, metadata=image_pb2.METADATA_NONE
    )


@pytest.mark.parametrize(
    ("syntax", "sent"),
    [
        (None, None),
        ("plain", generator_pb.PROMPT_SYNTAX_PLAIN),
        ("weighted", generator_pb.PROMPT_SYNTAX_WEIGHTED),
    ],
)
def test_prompts_and_their_syntax_are_passed_on(stack: Stack, syntax: str | None, sent: int | None) -> None:
    prompt, negative = "a (cat:1.3) BREAK \\(x\\) <lora:b:1>", "[blurry]"
    response = stack.generate(prompt=prompt, negative_prompt=negative, prompt_syntax=syntax)
    assert response.json()["prompt"] == prompt
    [generate] = stack.generator.requests
    assert (generate.prompt, generate.negative_prompt) == (prompt, negative)
    assert wire.optional(generate, "prompt_syntax") == sent


@pytest.mark.parametrize("loras", [[], None])
def test_no_loras_are_none(stack: Stack, loras: Any) -> None:
    assert stack.generate(loras=loras).status_code == 200
    assert not stack.generator.requests[-1].loras


def test_loras_are_passed_on_as_they_are_named(stack: Stack) -> None:
    named = [{"name": "ink"}, {"name": "charcoal v2", "weight": -0.5}, {"name": "x", "weight": None}]
    assert stack.generate(prompt="a <lora:b:0.3>", loras=named).status_code == 200
    request = stack.generator.requests[-1]
    assert request.prompt == "a <lora:b:0.3>"
    given = [(lora.name, lora.weight if lora.HasField("weight") else None) for lora in request.loras]
    assert given == [("ink", None), ("charcoal v2", -0.5), ("x", None)]


def test_the_response_has_the_contracts_fields_and_no_other(stack: Stack) -> None:
    answer = stack.generate(prompt="a red apple", seed=42).json()
    assert 0 < answer.pop("generation_time_seconds") < 30
    assert answer.pop("image") and answer.pop("request_id")
    assert answer == {
        "success": True,
        "prompt": "a red apple",
        "seed": 42,
        "model": "demo",
        "final_resolution": "256x256",
        "refiner_applied": False,
        "refiner_reason": "not_loaded",
        "sampler": "euler",
        "schedule": "trailing",
        "num_inference_steps": 30,
        "guidance_scale": 7.5,
        "hires_fix_applied": False,
        "hires_fix_reason": None,
        "upscaler": None,
        "upscale_applied": 1,
        "face_restoration_applied": True,
        "face_restoration_reason": None,
        "tone_matched": False,
        "faces": [{"box": [10.0, 20.0, 110.0, 140.0], "confidence": 0.99, "restored": True, "reason": None}],
        "warnings": [],
        "warning_codes": [],
        "stages": [
            {"stage": "base", "seconds": 1.25, "peak_vram_bytes": None},
            {"stage": "detect", "seconds": 0.5, "peak_vram_bytes": None},
            {"stage": "restore", "seconds": 0.25, "peak_vram_bytes": None},
        ],
    }


def test_the_image_is_the_restorers(stack: Stack) -> None:
    image = decoded(stack.generate().json())
    assert (image.size, image.mode) == ((256, 256), "RGB")
    left, right = image.getpixel((0, 128)), image.getpixel((255, 128))
    assert left[0] == 255 and right[0] == 0, "the scripted restorer inverts the scripted generator's image"


def test_the_response_says_how_the_image_was_denoised(stack: Stack) -> None:
    answer = stack.generate(sampler="ddim", num_inference_steps=7).json()
    assert (answer["sampler"], answer["schedule"]) == ("ddim", "trailing")
    assert (answer["num_inference_steps"], answer["guidance_scale"]) == (7, 7.5)


@pytest.mark.parametrize(
    ("given", "holds"),
    [
        ({"negative_prompt": "blurry"}, lambda r: r.negative_prompt == "blurry"),
        (
            {"negative_prompt": ""},
            lambda r: r.HasField("negative_prompt") and r.negative_prompt == "",
        ),
        ({"width": 512, "height": 264}, lambda r: (r.width_px, r.height_px) == (512, 264)),
        ({"num_inference_steps": 150}, lambda r: r.num_inference_steps == 150),
        ({"steps": 1}, lambda r: r.num_inference_steps == 1),
        ({"steps": 30.0}, lambda r: r.num_inference_steps == 30),
        ({"guidance_scale": 0}, lambda r: r.HasField("guidance_scale") and r.guidance_scale == 0),
        ({"cfg_scale": 30}, lambda r: r.guidance_scale == 30),
        ({"guidance_scale": None}, lambda r: not r.HasField("guidance_scale")),
        ({"sampler": "DPM++ 2M Karras"}, lambda r: r.sampler == "DPM++ 2M Karras"),
        ({"sampler": None}, lambda r: not r.HasField("sampler")),
        ({"schedule": "sgm_uniform"}, lambda r: r.schedule == "sgm_uniform"),
        ({"seed": 0}, lambda r: r.HasField("seed") and r.seed == 0),
        ({"seed": 2**53 - 1}, lambda r: r.seed == 2**53 - 1),
        ({"seed": None}, lambda r: not r.HasField("seed")),
        ({"seed": -1}, lambda r: not r.HasField("seed")),
        ({"use_refiner": False}, lambda r: r.HasField("use_refiner") and not r.use_refiner),
        ({"hires_fix": True}, lambda r: r.hires_fix),
        ({"use_hires_fix": True}, lambda r: r.hires_fix),
        ({"use_realesrgan": False}, lambda r: r.HasField("use_upscaler") and not r.use_upscaler),
        ({"hires_fix_simple": True}, lambda r: r.lanczos_scale == 1.5),
        ({"hires_fix_simple": True, "hires_scale": 2}, lambda r: r.lanczos_scale == 2),
        ({"hires_scale": 2}, lambda r: not r.HasField("lanczos_scale")),
        ({"steps": None}, lambda r: not r.HasField("num_inference_steps")),
    ],
    ids=lambda value: json.dumps(value) if isinstance(value, dict) else "",
)
def test_fields_for_the_generator(stack: Stack, given: dict[str, Any], holds: Any) -> None:
    assert stack.generate(**given).status_code == 200
    assert holds(stack.generator.requests[0])


@pytest.mark.parametrize(
    ("given", "holds"),
    [
        ({"face_restoration_weight": 0}, lambda r: r.HasField("fidelity") and r.fidelity == 0),
        ({"face_restoration_weight": 1.0}, lambda r: r.fidelity == 1),
        ({"match_tone": True}, lambda r: r.match_tone),
        ({"match_tone": False}, lambda r: r.HasField("match_tone") and not r.match_tone),
        ({"match_tone": None}, lambda r: not r.HasField("match_tone")),
        ({"upscale": 2}, lambda r: r.upscale == 2),
        ({"upscale_factor": 4}, lambda r: r.upscale == 4),
        ({"use_realesrgan": False}, lambda r: r.HasField("use_upscaler") and not r.use_upscaler),
        ({"output_format": "jpeg", "quality": 50}, lambda r: r.output.quality == 50),
        (
            {"use_face_restoration": False, "upscale": 2},
            lambda r: r.HasField("max_faces") and r.max_faces == 0,
        ),
    ],
    ids=lambda value: json.dumps(value) if isinstance(value, dict) else "",
)
def test_fields_for_the_restorer(stack: Stack, given: dict[str, Any], holds: Any) -> None:
    assert stack.generate(**given).status_code == 200
    assert holds(stack.restorer.requests[0])


@pytest.mark.parametrize(
    "given", [{"face_size": 512}, {"model": "demo"}, {"model": "SDXL"}, {"model": "sdxl"}, {"model": None}]
)
def test_names_that_are_loaded(stack: Stack, given: dict[str, Any]) -> None:
    answer = stack.generate(**given).json()
    assert answer["success"] and answer["model"] == "demo" and answer["warnings"] == []


def test_det_model_is_the_detector_that_is_loaded(stack: Stack) -> None:
    assert stack.generate(det_model="retinaface_mobile0.25").status_code == 200
    refused = stack.generate(det_model="retinaface_resnet50")
    assert refused.status_code == 422
    [field] = refused.json()["error"]["fields"]
    assert field["field"] == "det_model" and "retinaface_mobile0.25" in field["message"]


def test_another_model_is_refused_and_the_loaded_one_named(stack: Stack) -> None:
    refused = stack.generate(model="flux", det_model="yolo")
    assert refused.status_code == 422
    fields = {field["field"]: field["message"] for field in refused.json()["error"]["fields"]}
    assert set(fields) == {"model", "det_model"} and "demo" in fields["model"]
    assert not stack.generator.requests


def test_the_production_set_goes_by_sdxl(stack: Stack) -> None:
    stack.generator.result = {"model_set": "sdxl"}
    assert stack.generate().json()["model"] == "SDXL"


def test_hires_fix(stack: Stack) -> None:
    stack.generator.result = {"refiner_applied": True, "refiner_reason": 0}
    answer = stack.generate(hires_fix=True).json()
    assert (answer["hires_fix_applied"], answer["refiner_applied"]) == (True, True)
    assert answer["final_resolution"] == "384x384" and decoded(answer).size == (384, 384)
    assert answer["upscaler"] == "demo_x2"


def test_upscale(stack: Stack) -> None:
    answer = stack.generate(upscale=4).json()
    assert (answer["final_resolution"], answer["upscale_applied"]) == ("1024x1024", 4)
    assert decoded(answer).size == (1024, 1024) and answer["upscaler"] == "demo_x2"


def test_everything_that_upscaled_is_named(stack: Stack) -> None:
    stack.generator.result = {"upscaler": "lanczos"}
    answer = stack.generate(hires_fix_simple=True, upscale=2).json()
    assert answer["upscaler"] == "lanczos + demo_x2"


def test_upscale_without_faces(stack: Stack) -> None:
    answer = stack.generate(upscale=2, use_face_restoration=False).json()
    assert (answer["final_resolution"], answer["faces"]) == ("512x512", [])
    assert (answer["face_restoration_applied"], answer["face_restoration_reason"]) == (False, None)


def test_without_faces_and_upscale_the_generator_encodes_and_the_restorer_is_not_called(stack: Stack) -> None:
    answer = stack.generate(use_face_restoration=False, output_format="webp", quality=80).json()
    assert decoded(answer).format == "WEBP"
    sent = stack.generator.requests[0].output
    assert (sent.format, sent.quality) == (image_pb2.IMAGE_FORMAT_WEBP, 80)
    assert not stack.restorer.requests
    assert (answer["face_restoration_applied"], answer["face_restoration_reason"]) == (False, None)
    assert answer["faces"] == [] and [stage["stage"] for stage in answer["stages"]] == ["base"]


def test_no_face_is_a_success(stack: Stack) -> None:
    stack.restorer.faces = []
    answer = stack.generate().json()
    assert answer["success"] is True and answer["faces"] == []
    assert (answer["face_restoration_applied"], answer["face_restoration_reason"]) == (False, "no_face")


@pytest.mark.parametrize("reason", list(SkipReason))
def test_every_reason_of_a_face_reaches_the_client(stack: Stack, reason: SkipReason) -> None:
    stack.restorer.faces = [(0.9, True, None), (0.5, False, reason)]
    answer = stack.generate(on_restore_failure="fail").json()
    assert answer["face_restoration_applied"] is True, "one failed face is not a failure of the request"
    assert [face["reason"] for face in answer["faces"]] == [None, reason.value]
    assert [face["restored"] for face in answer["faces"]] == [True, False]


def test_warnings_of_both_services_are_kept_in_order_with_their_codes(stack: Stack) -> None:
    stack.generator.result = {"warnings": warnings((WarningCode.SIZE_LIMITED, "generated at 256 px"))}
    stack.restorer.result = {"warnings": warnings((WarningCode.LOSSY_OUTPUT, "jpeg loses detail"))}
    answer = stack.generate().json()
    assert answer["warnings"] == ["generated at 256 px", "jpeg loses detail"]
    assert answer["warning_codes"] == ["size_limited", "lossy_output"]


def test_a_warning_code_of_a_newer_service_is_unspecified(stack: Stack) -> None:
    warning = warning_pb2.Warning.FromString(b"\x08\xe7\x07")  # code 999, on the wire
    warning.message = "something new"
    stack.generator.result = {"warnings": [warning]}
    answer = stack.generate().json()
    assert (answer["warnings"], answer["warning_codes"]) == (["something new"], ["unspecified"])


@pytest.mark.parametrize(
    "alias", [{"steps": 5}, {"cfg_scale": 7}, {"use_hires_fix": False}, {"upscale_factor": 1}]
)
def test_a_client_that_uses_aliases_gets_the_plain_base64_too(stack: Stack, alias: dict[str, Any]) -> None:
    answer = stack.generate(**alias).json()
    assert answer["image"] == "data:image/png;base64," + answer["image_base64"]


@pytest.mark.parametrize("path", ["/txt2img", "/api/generate"])
def test_older_paths_get_the_plain_base64_too(stack: Stack, path: str) -> None:
    answer = stack.client.post(path, json={"prompt": "a red apple", "width": 256, "height": 256}).json()
    assert answer["image"] == "data:image/png;base64," + answer["image_base64"]


@pytest.mark.parametrize("output_format", ["png", "jpeg", "webp"])
def test_output_format(stack: Stack, output_format: str) -> None:
    assert decoded(stack.generate(output_format=output_format).json()).format.lower() == output_format


@pytest.mark.parametrize(
    "content_type", ["application/json", "application/json; charset=utf-8", "text/plain", None]
)
def test_the_body_is_read_as_json(stack: Stack, content_type: str | None) -> None:
    headers = {} if content_type is None else {"Content-Type": content_type}
    body = json.dumps(
        {"prompt": "ein Apfel, rot: ä", "width": 256, "height": 256}, ensure_ascii=False
    ).encode()
    assert stack.client.post("/generate", content=body, headers=headers).status_code == 200
    assert stack.generator.requests[0].prompt == "ein Apfel, rot: ä"


def test_the_request_id_goes_everywhere(stack: Stack) -> None:
    response = stack.generate(headers={"X-Request-ID": "request-66"})
    assert response.headers["X-Request-ID"] == response.json()["request_id"] == "request-66"
    assert stack.generator.request_ids == stack.restorer.request_ids == ["request-66"]
    made = stack.generate(headers={"X-Request-ID": "no good: spaces"}).json()["request_id"]
    assert re.fullmatch(r"[0-9a-f]{32}", made) and stack.generator.request_ids[1] == made


def test_both_services_get_the_time_that_is_left(stack: Stack) -> None:
    stack.generate()
    assert 290 < stack.generator.seconds_left[0] <= 301, "gRPC rounds up to seconds"
    assert 250 < stack.restorer.seconds_left[0] < 300


def test_large_images_pass(stack: Stack) -> None:
    answer = stack.generate(width=2048, height=2048, use_realesrgan=False).json()
    assert answer["final_resolution"] == "2048x2048"
    generated = gradient(2048, 2048)
    assert decoded(answer).getpixel((2047, 0))[0] == 255 - generated[0, 2047, 0]


def test_the_longest_prompts_fit_and_larger_bodies_are_refused(stack: Stack) -> None:
    longest = json.dumps({"prompt": "\U0001f600" * 2000, "negative_prompt": "\U0001f600" * 2000})
    assert len(longest) > 48_000  # each character escaped as two of UTF-16
    assert stack.client.post("/generate", content=longest).status_code == 200
    large = json.dumps({"prompt": "x", "unknown": ["x" * 2**15] * 6})
    problem(stack.client.post("/generate", content=large), 413, "body_too_large")
