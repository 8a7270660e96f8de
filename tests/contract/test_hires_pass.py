"""POST /generate with passes of the client's own sizes: what reaches the generator, and what is refused."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from atelier.common.v1 import image_pb2
from atelier.generator.v1 import generator_service_pb2 as pb
from atelier_runtime.errors import FieldViolation, InvalidRequest
from tests.contract.problem_body import named_fields, problem
from tests.contract.script import file_of, gradient
from tests.contract.stack import Stack

IMAGE = base64.b64encode(file_of(gradient(320, 256))).decode()


def test_a_hires_pass_reaches_the_generator(stack: Stack) -> None:
    hires_pass = {"width": 512, "height": 384, "strength": 0.5, "num_inference_steps": 12}
    response = stack.generate(hires_pass=hires_pass, refiner_strength=0.2)
    assert response.status_code == 200, response.text
    [sent] = stack.generator.requests
    assert sent.hires_pass == pb.HiresPass(width_px=512, height_px=384, strength=0.5, num_inference_steps=12)
    assert sent.refiner_strength == 0.2


def test_what_is_not_said_is_left_to_the_generator(stack: Stack) -> None:
    assert stack.generate(hires_pass={"width": 512, "height": 384}).status_code == 200
    assert stack.generate().status_code == 200
    with_pass, without = stack.generator.requests
    assert with_pass.hires_pass == pb.HiresPass(width_px=512, height_px=384)
    assert not without.HasField("hires_pass") and not without.HasField("refiner_strength")
    assert not without.HasField("mask_blur_px") and without.mask_kind == pb.MASK_KIND_UNSPECIFIED


def test_kinds_of_masks_reach_the_generator(stack: Stack) -> None:
    response = stack.generate(image=IMAGE, mask=IMAGE, mask_kind="transparent", mask_blur_px=4)
    assert response.status_code == 200, response.text
    [sent] = stack.generator.requests
    assert (sent.mask_kind, sent.mask_blur_px) == (pb.MASK_KIND_TRANSPARENT, 4.0)


def test_a_form_has_them_too(stack: Stack) -> None:
    fields = {
        "prompt": "x",
        "hires_pass": json.dumps({"width": 512, "height": 512}),
        "refiner_strength": "0.1",
    }
    response = stack.client.post("/generate", files={name: (None, text) for name, text in fields.items()})
    assert response.status_code == 200, response.text
    [sent] = stack.generator.requests
    assert sent.hires_pass == pb.HiresPass(width_px=512, height_px=512)


@pytest.mark.parametrize(
    ("body", "field", "part"),
    [
        ({"hires_pass": {"width": 512}}, "hires_pass.height", "is required"),
        ({"hires_pass": {"width": 500, "height": 512}}, "hires_pass.width", "multiple of 8"),
        ({"hires_pass": {"width": 512, "height": 512, "scale": 2}}, "hires_pass.scale", "not a field"),
        ({"hires_pass": {"width": 4096, "height": 4096}, "upscale": 4}, "hires_pass", "50000000"),
        ({"hires_pass": {"width": 512, "height": 512}, "hires_fix": True}, "hires_pass", "hires_fix"),
        (
            {"hires_pass": {"width": 512, "height": 512}, "hires_fix_simple": True},
            "hires_fix_simple",
            "hires_pass",
        ),
        ({"hires_pass": {"width": 512, "height": 512}, "image": IMAGE}, "hires_pass", "with an image"),
        ({"refiner_strength": 0.01}, "refiner_strength", "0.05"),
        ({"mask_kind": "white"}, "mask_kind", "requires"),
        ({"image": IMAGE, "mask_blur_px": 3}, "mask_blur_px", "requires a mask"),
        ({"metadata": "all"}, "metadata", "recipe"),
    ],
)
def test_what_is_wrong_is_named(stack: Stack, body: dict[str, Any], field: str, part: str) -> None:
    error = problem(stack.generate(**body), 422, "invalid_request")
    found = {each["field"]: each["message"] for each in error["fields"]}
    assert part in found[field]
    assert not stack.generator.requests


def test_fields_that_the_generator_refuses_are_named_as_the_client_named_them(stack: Stack) -> None:
    stack.generator.error = InvalidRequest(
        [FieldViolation("hires_pass.width_px", "is bad"), FieldViolation("output.metadata", "is bad")]
    )
    response = stack.generate(hires_pass={"width": 512, "height": 512})
    assert named_fields(problem(response, 422, "invalid_request")) == ["hires_pass.width", "metadata"]


def test_metadata_reach_the_services(stack: Stack) -> None:
    assert stack.generate(metadata="none").status_code == 200
    [sent] = stack.generator.requests
    assert sent.output.metadata == image_pb2.METADATA_NONE
