"""POST /generate, row by row of the contract: what a request means to the stages, and what it answers."""

from __future__ import annotations

import base64
import json
import re
from typing import Any

import pytest

from atelier.common.v1 import image_pb2
from atelier_runtime.outcomes import SkipReason
from tests.contract.scripted_stages import House, opened, picture, reason

DATA_URI = re.compile(r"data:image/(png|jpeg|webp);base64,(.*)", re.DOTALL)


def decoded(answer: dict[str, Any]) -> Any:
    kind, data = DATA_URI.fullmatch(answer["image"]).groups()
    image = opened(base64.b64decode(data))
    assert image.format.lower() == kind
    return image


def test_the_smallest_order_has_every_default(house: House) -> None:
    response = house.client.post("/generate", json={"prompt": "a red apple"})
    assert response.status_code == 200
    sent = house.generator.requests[0]
    assert (sent.prompt, sent.width_px, sent.height_px) == ("a red apple", 1024, 1024)
    assert (sent.num_inference_steps, sent.guidance_scale) == (30, 7.5)
    assert (sent.use_refiner, sent.hires_fix, sent.use_realesrgan) == (True, False, True)
    assert (sent.hires_fix_simple, sent.hires_scale) == (False, 1.5)
    assert not sent.HasField("negative_prompt"), "unset: the model set's"
    assert not sent.HasField("seed"), "unset: drawn"
    assert sent.output.format == image_pb2.IMAGE_FORMAT_RAW_RGB8
    restored = house.restorer.requests[0]
    assert (restored.fidelity, restored.upscale, restored.use_realesrgan) == (0.6, 1, True)
    assert not restored.HasField("max_faces")
    assert restored.image.format == image_pb2.IMAGE_FORMAT_RAW_RGB8
    assert (restored.output.format, restored.output.quality) == (image_pb2.IMAGE_FORMAT_PNG, 92)


def test_the_answer_has_the_contracts_fields_and_no_other(house: House) -> None:
    answer = house.generate(prompt="a red apple", seed=42).json()
    assert list(answer) == [
        "success",
        "image",
        "prompt",
        "seed",
        "model",
        "request_id",
        "final_resolution",
        "generation_time_seconds",
        "refiner_applied",
        "refiner_reason",
        "hires_fix_applied",
        "hires_fix_reason",
        "upscaler",
        "upscale_applied",
        "face_restoration_applied",
        "face_restoration_reason",
        "tone_matched",
        "faces",
        "warnings",
        "stages",
    ]
    assert answer["success"] is True
    assert (answer["prompt"], answer["seed"], answer["model"]) == ("a red apple", 42, "demo")
    assert answer["final_resolution"] == "256x256"
    assert 0 < answer["generation_time_seconds"] < 30
    assert (answer["refiner_applied"], answer["refiner_reason"]) == (False, "not_loaded")
    assert (answer["hires_fix_applied"], answer["hires_fix_reason"]) == (False, None)
    assert (answer["upscaler"], answer["upscale_applied"]) == (None, 1)
    assert (answer["face_restoration_applied"], answer["face_restoration_reason"]) == (True, None)
    assert answer["faces"] == [
        {"box": [10.0, 20.0, 110.0, 140.0], "confidence": 0.99, "restored": True, "reason": None}
    ]
    assert answer["warnings"] == []
    assert answer["stages"] == [
        {"stage": "base", "seconds": 1.25, "peak_vram_bytes": None},
        {"stage": "detect", "seconds": 0.5, "peak_vram_bytes": None},
        {"stage": "restore", "seconds": 0.25, "peak_vram_bytes": None},
    ]


def test_the_picture_is_the_restorers(house: House) -> None:
    image = decoded(house.generate().json())
    assert (image.size, image.mode) == ((256, 256), "RGB")
    left, right = image.getpixel((0, 128)), image.getpixel((255, 128))
    assert left[0] == 255 and right[0] == 0, "the scripted restorer inverts the scripted drawing"


@pytest.mark.parametrize(
    ("given", "read"),
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
        ({"guidance_scale": 0}, lambda r: r.guidance_scale == 0),
        ({"cfg_scale": 30}, lambda r: r.guidance_scale == 30),
        ({"seed": 0}, lambda r: r.HasField("seed") and r.seed == 0),
        ({"seed": 2**53 - 1}, lambda r: r.seed == 2**53 - 1),
        ({"seed": None}, lambda r: not r.HasField("seed")),
        ({"seed": -1}, lambda r: not r.HasField("seed")),
        ({"use_refiner": False}, lambda r: r.use_refiner is False),
        ({"hires_fix": True}, lambda r: r.hires_fix),
        ({"use_hires_fix": True}, lambda r: r.hires_fix),
        ({"use_realesrgan": False}, lambda r: r.use_realesrgan is False),
        ({"hires_fix_simple": True, "hires_scale": 2}, lambda r: r.hires_fix_simple and r.hires_scale == 2),
        ({"width": None, "steps": None}, lambda r: (r.width_px, r.num_inference_steps) == (1024, 30)),
        ({"use_refiner": None, "hires_scale": None}, lambda r: r.use_refiner and r.hires_scale == 1.5),
    ],
    ids=lambda value: json.dumps(value) if isinstance(value, dict) else "",
)
def test_fields_for_the_generator(house: House, given: dict[str, Any], read: Any) -> None:
    assert house.generate(**given).status_code == 200
    assert read(house.generator.requests[0])


@pytest.mark.parametrize(
    ("given", "read"),
    [
        ({"face_restoration_weight": 0}, lambda r: r.HasField("fidelity") and r.fidelity == 0),
        ({"face_restoration_weight": 1.0}, lambda r: r.fidelity == 1),
        ({"match_tone": True}, lambda r: r.match_tone),
        ({"match_tone": False}, lambda r: r.HasField("match_tone") and not r.match_tone),
        ({"match_tone": None}, lambda r: not r.HasField("match_tone")),
        ({"upscale": 2}, lambda r: r.upscale == 2),
        ({"upscale_factor": 4}, lambda r: r.upscale == 4),
        ({"use_realesrgan": False}, lambda r: r.use_realesrgan is False),
        ({"output_format": "jpeg", "quality": 50}, lambda r: r.output.quality == 50),
        (
            {"use_face_restoration": False, "upscale": 2},
            lambda r: r.HasField("max_faces") and r.max_faces == 0,
        ),
    ],
    ids=lambda value: json.dumps(value) if isinstance(value, dict) else "",
)
def test_fields_for_the_restorer(house: House, given: dict[str, Any], read: Any) -> None:
    assert house.generate(**given).status_code == 200
    assert read(house.restorer.requests[0])


@pytest.mark.parametrize("given", [{"face_size": 512}, {"model": "demo"}, {"model": "SDXL"}, {"model": None}])
def test_names_that_are_loaded(house: House, given: dict[str, Any]) -> None:
    answer = house.generate(**given).json()
    assert answer["success"] and answer["model"] == "demo" and answer["warnings"] == []


def test_det_model_is_the_detector_that_is_loaded(house: House) -> None:
    assert house.generate(det_model="retinaface_mobile0.25").status_code == 200
    refused = house.generate(det_model="retinaface_resnet50")
    assert refused.status_code == 422
    [field] = refused.json()["error"]["fields"]
    assert field["field"] == "det_model" and "retinaface_mobile0.25" in field["message"]


def test_another_model_is_refused_and_the_loaded_one_named(house: House) -> None:
    refused = house.generate(model="flux", det_model="yolo")
    assert refused.status_code == 422
    fields = {field["field"]: field["message"] for field in refused.json()["error"]["fields"]}
    assert set(fields) == {"model", "det_model"} and "demo" in fields["model"]
    assert not house.generator.requests


def test_the_production_set_answers_as_sdxl(house: House) -> None:
    house.generator.answer = {"model_set": "sdxl"}
    assert house.generate().json()["model"] == "SDXL"


def test_hires_fix(house: House) -> None:
    house.generator.answer = {"refiner_applied": True, "refiner_reason": 0}
    answer = house.generate(hires_fix=True).json()
    assert (answer["hires_fix_applied"], answer["refiner_applied"]) == (True, True)
    assert answer["final_resolution"] == "384x384" and decoded(answer).size == (384, 384)
    assert answer["upscaler"] == "demo_x2"


def test_hires_fix_that_was_not_done_says_why(house: House) -> None:
    house.generator.answer = {
        "hires_fix_applied": False,
        "hires_fix_reason": reason(SkipReason.OUT_OF_MEMORY),
    }
    answer = house.generate(hires_fix=True).json()
    assert (answer["hires_fix_applied"], answer["hires_fix_reason"]) == (False, "out_of_memory")


def test_upscale(house: House) -> None:
    answer = house.generate(upscale=4).json()
    assert (answer["final_resolution"], answer["upscale_applied"]) == ("1024x1024", 4)
    assert decoded(answer).size == (1024, 1024) and answer["upscaler"] == "demo_x2"


def test_upscale_without_faces(house: House) -> None:
    answer = house.generate(upscale=2, use_face_restoration=False).json()
    assert (answer["final_resolution"], answer["faces"]) == ("512x512", [])
    assert (answer["face_restoration_applied"], answer["face_restoration_reason"]) == (False, None)


def test_without_faces_and_upscale_the_generator_encodes_and_nobody_else_is_called(house: House) -> None:
    answer = house.generate(use_face_restoration=False, output_format="webp", quality=80).json()
    assert decoded(answer).format == "WEBP"
    sent = house.generator.requests[0].output
    assert (sent.format, sent.quality) == (image_pb2.IMAGE_FORMAT_WEBP, 80)
    assert not house.restorer.requests
    assert (answer["face_restoration_applied"], answer["face_restoration_reason"]) == (False, None)
    assert answer["faces"] == [] and [stage["stage"] for stage in answer["stages"]] == ["base"]


def test_no_face_is_a_success(house: House) -> None:
    house.restorer.faces = []
    answer = house.generate().json()
    assert answer["success"] is True and answer["faces"] == []
    assert (answer["face_restoration_applied"], answer["face_restoration_reason"]) == (False, "no_face")


@pytest.mark.parametrize("why", list(SkipReason))
def test_every_reason_for_a_face_reaches_the_client(house: House, why: SkipReason) -> None:
    house.restorer.faces = [(0.9, True, None), (0.5, False, why)]
    answer = house.generate(on_restore_failure="fail").json()
    assert answer["face_restoration_applied"] is True, "one failed face is no failure of the request"
    assert [face["reason"] for face in answer["faces"]] == [None, why.value]
    assert [face["restored"] for face in answer["faces"]] == [True, False]


def test_warnings_of_both_stages_are_kept_in_order(house: House) -> None:
    house.generator.answer = {"warnings": ["drawn at 256 px"]}
    house.restorer.answer = {"warnings": ["jpeg loses detail"]}
    assert house.generate().json()["warnings"] == ["drawn at 256 px", "jpeg loses detail"]


@pytest.mark.parametrize(
    "older", [{"steps": 5}, {"cfg_scale": 7}, {"use_hires_fix": False}, {"upscale_factor": 1}]
)
def test_older_names_get_the_plain_base64_too(house: House, older: dict[str, Any]) -> None:
    answer = house.generate(**older).json()
    assert answer["image"] == "data:image/png;base64," + answer["image_base64"]


@pytest.mark.parametrize("path", ["/txt2img", "/api/generate"])
def test_older_addresses(house: House, path: str) -> None:
    answer = house.client.post(path, json={"prompt": "x", "width": 256, "height": 256}).json()
    assert answer["success"] is True
    assert answer["image"] == "data:image/png;base64," + answer["image_base64"]


@pytest.mark.parametrize("output_format", ["png", "jpeg", "webp"])
def test_output_format(house: House, output_format: str) -> None:
    assert decoded(house.generate(output_format=output_format).json()).format.lower() == output_format


@pytest.mark.parametrize(
    "content_type", ["application/json", "application/json; charset=utf-8", "text/plain", None]
)
def test_the_body_is_read_as_json(house: House, content_type: str | None) -> None:
    headers = {} if content_type is None else {"Content-Type": content_type}
    body = json.dumps(
        {"prompt": "ein Apfel, rot: ä", "width": 256, "height": 256}, ensure_ascii=False
    ).encode()
    assert house.client.post("/generate", content=body, headers=headers).status_code == 200
    assert house.generator.requests[0].prompt == "ein Apfel, rot: ä"


@pytest.mark.parametrize(
    ("accept", "body", "kind"),
    [
        ("image/*", {}, "png"),
        ("image/webp", {}, "webp"),
        ("image/jpeg", {}, "jpeg"),
        ("image/png", {"output_format": "jpeg"}, "jpeg"),
        ("application/json;q=0.4, image/webp;q=0.8, image/png;q=0.5", {}, "webp"),
        ("image/avif,image/webp,image/*,*/*;q=0.8", {}, "webp"),
    ],
)
def test_accept_of_an_image_gets_the_file_and_the_report(
    house: House, accept: str, body: dict[str, Any], kind: str
) -> None:
    response = house.generate(headers={"Accept": accept}, **body)
    assert response.headers["content-type"] == f"image/{kind}"
    image = opened(response.content)
    assert (image.format.lower(), image.size) == (kind, (256, 256))
    report = json.loads(response.headers["X-Atelier-Report"])
    told = house.generate(**body).json()
    assert set(report) == set(told) - {"image", "prompt"}
    assert report["faces"] == told["faces"] and report["final_resolution"] == "256x256"


@pytest.mark.parametrize(
    "accept", ["*/*", "application/json", "image/png;q=0.2, */*", "image/*;q=0", "text/html, */*"]
)
def test_accept_of_anything_gets_json(house: House, accept: str) -> None:
    response = house.generate(headers={"Accept": accept})
    assert response.headers["content-type"] == "application/json"
    assert response.json()["success"] is True


def test_a_report_that_is_too_long_is_cut_and_says_so(house: House) -> None:
    house.restorer.faces = [(0.9, True, None)] * 100
    house.generator.answer = {"warnings": ["über " * 400, "left out words: \x7f\n\u2028"]}
    response = house.generate(headers={"Accept": "image/png"})
    header = response.headers["X-Atelier-Report"]
    assert header.isascii() and len(header) <= 6 * 1024
    report = json.loads(header)
    assert len(report["faces"]) + report["left_out"]["faces"] == 100 and report["left_out"]["faces"] > 0
    assert [len(warning) for warning in report["warnings"]] == [200, 19]
    assert report["face_restoration_applied"] is True


def test_failures_are_json_whatever_is_accepted(house: House) -> None:
    response = house.generate(headers={"Accept": "image/png"}, width=255)
    assert (response.status_code, response.headers["content-type"]) == (422, "application/json")


def test_the_request_id_goes_everywhere(house: House, caplog: pytest.LogCaptureFixture) -> None:
    response = house.generate(headers={"X-Request-ID": "order-66"})
    assert response.headers["X-Request-ID"] == response.json()["request_id"] == "order-66"
    assert house.generator.request_ids == house.restorer.request_ids == ["order-66"]
    made = house.generate(headers={"X-Request-ID": "no good: spaces"}).json()["request_id"]
    assert re.fullmatch(r"[0-9a-f]{32}", made) and house.generator.request_ids[1] == made


def test_both_stages_get_the_time_that_is_left(house: House) -> None:
    house.generate()
    assert 290 < house.generator.seconds_left[0] <= 301, "gRPC rounds up to seconds"
    assert 250 < house.restorer.seconds_left[0] < 300


def test_large_pictures_pass(house: House) -> None:
    answer = house.generate(width=2048, height=2048, use_realesrgan=False).json()
    assert answer["final_resolution"] == "2048x2048"
    drawn = picture(2048, 2048)
    assert decoded(answer).getpixel((2047, 0))[0] == 255 - drawn[0, 2047, 0]
