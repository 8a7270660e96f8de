"""POST /generate with an image: in JSON or a form, what it means to the generator, and its errors."""

from __future__ import annotations

import base64
import io
import random
from typing import Any

import httpx
import pytest
from PIL import Image

from atelier.common.v1 import image_pb2, warning_pb2
from atelier_runtime.errors import FieldViolation, InvalidRequest
from atelier_runtime.service_status import NetworkRole
from tests.contract.problem_body import named_fields, problem
from tests.contract.script import file_of, gradient
from tests.contract.stack import Stack

IMAGE = file_of(gradient(320, 256))
MASK = file_of(255 - gradient(320, 256))
NO_FACES = {"use_face_restoration": False}


def base64_of(data: bytes) -> str:
    return base64.b64encode(data).decode()


def in_json(stack: Stack, files: dict[str, bytes], **fields: Any) -> httpx.Response:
    body = {"prompt": "x", **fields, **{name: base64_of(data) for name, data in files.items()}}
    return stack.client.post("/generate", json=body)


def in_data_uris(stack: Stack, files: dict[str, bytes], **fields: Any) -> httpx.Response:
    uris = {name: f"data:image/png;base64,{base64_of(data)}" for name, data in files.items()}
    return stack.client.post("/generate", json={"prompt": "x", **fields, **uris})


def in_form(stack: Stack, files: dict[str, bytes], **fields: Any) -> httpx.Response:
    texts = {name: str(value).lower() for name, value in fields.items()}
    parts = {name: (f"{name}.png", data) for name, data in files.items()}
    return stack.client.post("/generate", files=parts, data={"prompt": "x", **texts})


IN_EVERY_FORM = pytest.mark.parametrize("post", [in_json, in_data_uris, in_form])


@IN_EVERY_FORM
def test_image_mask_and_strength_reach_the_generator(stack: Stack, post: Any) -> None:
    stack.generator.result = {"strength": 0.25}
    response = post(stack, {"image": IMAGE, "mask": MASK}, strength=0.25)
    assert response.status_code == 200
    [sent] = stack.generator.requests
    assert not stack.restorer.requests, "a face outside the mask would be changed too"
    assert (sent.image, sent.mask, sent.strength) == (IMAGE, MASK, 0.25)
    assert not sent.HasField("width_px") and not sent.HasField("height_px")
    assert response.json()["strength"] == 0.25


@IN_EVERY_FORM
def test_large_images_are_passed_on_unchanged(stack: Stack, post: Any) -> None:
    image, mask = IMAGE + random.Random(1).randbytes(3_000_000), MASK + random.Random(2).randbytes(1_000_000)
    assert post(stack, {"image": image, "mask": mask}, **NO_FACES).status_code == 200
    [sent] = stack.generator.requests
    assert (sent.image, sent.mask) == (image, mask)


def test_images_are_not_counted_as_text_however_small(stack: Stack) -> None:
    image = IMAGE + b"\0" * (45_000 - len(IMAGE))  # 60,000 characters each, which are read with the fields
    assert in_json(stack, {"image": image, "mask": image}, **NO_FACES).status_code == 200


def test_without_an_image_nothing_is_new(stack: Stack) -> None:
    response = stack.generate()
    [sent] = stack.generator.requests
    assert not any(sent.HasField(name) for name in ("image", "mask", "strength"))
    assert "strength" not in response.json()


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_the_size_of_the_image_is_checked_before_it_is_sent(stack: Stack, kind: str) -> None:
    large = io.BytesIO()
    Image.new("RGB", (2048, 2040), "red").save(large, kind)
    for options, named in (
        ({"upscale_factor": 4}, ["image", "upscale_factor"]),
        ({"num_images": 8, "upscale": 2}, ["num_images"]),
        ({"hires_fix_simple": True, "hires_scale": 4.0}, ["image", "hires_scale"]),
    ):
        response = in_json(stack, {"image": large.getvalue()}, **options)
        assert named_fields(problem(response, 422, "invalid_request")) == named
    assert not stack.generator.requests
    response = in_json(stack, {"image": large.getvalue()}, upscale_factor=4, width=512, height=512)
    assert response.status_code == 200


@pytest.mark.parametrize(
    ("options", "warning"),
    [
        (
            {"face_restoration_weight": 0.5, "match_tone": False, "det_model": "retinaface"},
            "face_restoration_weight, match_tone, det_model: have no effect with a mask, "
            "where no faces are restored",
        ),
        ({"match_tone": True}, "match_tone: has no effect with a mask, where no faces are restored"),
        ({"match_tone": None, "det_model": None}, None),
        ({}, None),
    ],
)
@pytest.mark.parametrize("more", [{}, {"upscale": 2}, {"dry_run": True}], ids=str)
def test_options_for_faces_have_no_effect_with_a_mask(
    stack: Stack, options: dict[str, Any], warning: str | None, more: dict[str, Any]
) -> None:
    stack.restorer.networks = {NetworkRole.FACE_DETECTOR: "retinaface"}
    answer = in_json(stack, {"image": IMAGE, "mask": MASK}, **options, **more).json()
    assert answer["warnings"] == ([] if warning is None else [warning])
    assert answer["warning_codes"] == ([] if warning is None else ["option_has_no_effect"])
    assert in_json(stack, {"image": IMAGE}, **options, **more).json()["warnings"] == []


def test_what_the_generator_refuses_is_named_as_the_client_named_it(stack: Stack) -> None:
    stack.generator.error = InvalidRequest(
        [FieldViolation(name, "is wrong") for name in ("image", "mask", "strength", "width_px")]
    )
    error = problem(in_json(stack, {"image": b"?"}), 422, "invalid_request")
    assert named_fields(error) == ["image", "mask", "strength", "width"]


def test_forms_need_a_prompt_and_know_their_fields(stack: Stack) -> None:
    response = stack.client.post("/generate", files={"image": IMAGE, "photo": IMAGE}, data={"strenth": "1"})
    assert set(named_fields(problem(response, 422, "invalid_request"))) == {"prompt", "photo", "strenth"}
    form = {"prompt": "x", "loras": '[{"name": "ink"}]', "num_inference_steps": "7", "use_refiner": "false"}
    assert stack.client.post("/generate", files={"image": IMAGE}, data=form).status_code == 200
    [sent] = stack.generator.requests
    assert (sent.num_inference_steps, sent.use_refiner, sent.loras[0].name) == (7, False, "ink")
    assert sent.output.format == image_pb2.IMAGE_FORMAT_RAW_RGB8


def test_a_file_that_was_not_chosen_is_no_file(stack: Stack) -> None:
    """Browsers send an empty file without a name for an input that was left empty."""
    boundary = "b"
    parts = [
        f'--{boundary}\r\nContent-Disposition: form-data; name="prompt"\r\n\r\nx\r\n',
        *(
            f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"; filename=""\r\n'
            "Content-Type: application/octet-stream\r\n\r\n\r\n"
            for name in ("image", "mask")
        ),
        f"--{boundary}--\r\n",
    ]
    response = stack.client.post(
        "/generate",
        content="".join(parts).encode(),
        headers={"Content-Type": f"multipart/form-data; boundary={boundary}"},
    )
    assert response.status_code == 200, response.text
    [sent] = stack.generator.requests
    assert not sent.HasField("image") and not sent.HasField("mask")


def test_an_estimate_says_what_the_generator_says_of_the_image(stack: Stack) -> None:
    stack.generator.result = {"strength": 0.25, "warnings": [warning_pb2.Warning(message="no alpha")]}
    answer = in_json(stack, {"image": IMAGE, "mask": MASK}, strength=0.25, dry_run=True, upscale=2).json()
    assert (answer["strength"], answer["warnings"]) == (0.25, ["no alpha"])
    size = stack.generator.requests[0].request
    assert answer["final_resolution"] == "2048x2048", size
