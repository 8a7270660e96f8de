"""POST /generate with num_images: one response with all images, each with its seed and its faces."""

from __future__ import annotations

import base64
import json
from typing import Any

import httpx
import pytest

from atelier.common.v1 import image_pb2
from atelier_runtime.errors import InternalError, QueueFull
from tests.contract.problem_body import problem
from tests.contract.script import opened
from tests.contract.services import eventually
from tests.contract.stack import Stack

OF_EACH_IMAGE = {
    *("image", "seed", "final_resolution", "upscaler", "upscale_applied", "face_restoration_applied"),
    *("face_restoration_reason", "tone_matched", "faces", "warnings", "warning_codes", "stages"),
}


def decoded(image: dict[str, Any]) -> Any:
    return opened(base64.b64decode(image["image"].partition(",")[2]))


def test_each_image_is_restored_and_reported(stack: Stack) -> None:
    answer = stack.generate(num_images=3, seed=42).json()
    [generate] = stack.generator.requests
    assert generate.num_images == 3 and generate.output.format == image_pb2.IMAGE_FORMAT_RAW_RGB8
    assert len(stack.restorer.requests) == 3
    images = answer["images"]
    assert [image["seed"] for image in images] == [42, 43, 44]
    for image in images:
        assert set(image) == OF_EACH_IMAGE
        assert decoded(image).size == (256, 256) and image["final_resolution"] == "256x256"
        assert image["face_restoration_applied"] is True and image["face_restoration_reason"] is None
        assert [face["restored"] for face in image["faces"]] == [True]
        assert [stage["stage"] for stage in image["stages"]] == ["base", "detect", "restore"]
    assert {name: answer[name] for name in OF_EACH_IMAGE} == images[0], "the other fields are the first one's"


def test_one_image_that_is_named_is_a_list_of_one(stack: Stack) -> None:
    answer = stack.generate(num_images=1, seed=7).json()
    assert [image["seed"] for image in answer["images"]] == [7]
    plain = stack.generate(seed=7).json()
    assert set(answer) - set(plain) == {"images"}


@pytest.mark.parametrize("body", [{}, {"num_images": None}])
def test_without_it_nothing_has_changed(stack: Stack, body: dict[str, Any]) -> None:
    assert "images" not in stack.generate(**body).json()
    assert not stack.generator.requests[0].HasField("num_images")


def test_without_faces_the_generators_files_are_returned(stack: Stack) -> None:
    body: dict[str, Any] = {"num_images": 8, "use_face_restoration": False, "output_format": "webp"}
    answer = stack.generate(**body, seed=0).json()
    assert [image["seed"] for image in answer["images"]] == list(range(8))
    assert all(decoded(image).format == "WEBP" for image in answer["images"])
    assert not stack.restorer.requests


def test_an_older_client_gets_the_first_without_its_prefix(stack: Stack) -> None:
    answer = stack.generate(num_images=2, steps=3).json()
    assert answer["image_base64"] == answer["images"][0]["image"].partition(",")[2]


def test_images_that_were_not_restored_are_returned_as_they_are(stack: Stack) -> None:
    stack.restorer.error = InternalError("a bug")
    answer = stack.generate(num_images=2, upscale=2).json()
    for image in answer["images"]:
        assert (image["face_restoration_reason"], image["upscale_applied"]) == ("failed", 1)
        assert decoded(image).size == (256, 256) and image["final_resolution"] == "256x256"
        assert image["warning_codes"] == ["restorer_failed"]


def test_or_the_request_fails(stack: Stack) -> None:
    stack.restorer.error = InternalError("a bug")
    response = stack.generate(num_images=2, on_restore_failure="fail")
    message = problem(response, 503, "stage_unavailable")["message"]
    assert message.startswith("The restorer failed at image 1 of 2 (seed ")


def test_an_image_that_cannot_be_generated_fails_the_request_and_is_named(stack: Stack) -> None:
    stack.generator.error_at = 2
    error = problem(stack.generate(num_images=4), 500, "bad_picture")
    assert "Image 3 of 4" in error["message"]
    eventually(lambda: stack.restorer.running == 0)


def test_a_generator_that_is_full_refuses_all(stack: Stack) -> None:
    stack.generator.error = QueueFull(retry_after_s=7)
    response = stack.generate(num_images=4)
    assert response.status_code == 429 and response.headers["retry-after"] == "7"
    assert not stack.restorer.requests


@pytest.mark.parametrize(
    ("body", "field", "limit"),
    [
        ({"num_images": 0}, "num_images", "1 to 10"),
        ({"num_images": 11}, "num_images", "1 to 10"),
        ({"num_images": 1.5}, "num_images", "1 to 10"),
        ({"num_images": "4"}, "num_images", "1 to 10"),
        ({"num_images": 4, "seed": 2**53 - 3}, "seed", "9007199254740988"),
        ({"num_images": 8, "width": 2048, "height": 2048, "upscale": 2}, "num_images", "50000000"),
    ],
    ids=lambda value: json.dumps(value) if isinstance(value, dict) else "",
)
def test_bad_numbers_are_named_before_any_work(
    stack: Stack, body: dict[str, Any], field: str, limit: str
) -> None:
    error = problem(stack.generate(**body), 422, "invalid_request")
    [violation] = error["fields"]
    assert violation["field"] == field and limit in violation["message"]
    assert not stack.generator.requests


@pytest.mark.parametrize("accept", ["image/png", "image/*"])
def test_a_file_holds_one_image(stack: Stack, accept: str) -> None:
    error = problem(stack.generate({"Accept": accept}, num_images=2), 422, "invalid_request")
    [violation] = error["fields"]
    assert violation["field"] == "num_images" and "a file holds one image" in violation["message"]
    assert not stack.generator.requests
    response = stack.generate({"Accept": accept}, num_images=1, seed=5)
    assert opened(response.content).format == "PNG"
    assert "images" not in json.loads(response.headers["x-atelier-report"])


def test_a_client_that_hangs_up_stops_all_images(stack: Stack) -> None:
    stack.restorer.hold = True
    with pytest.raises(httpx.ReadTimeout):
        stack.client.post("/generate", json={"prompt": "x", "num_images": 6}, timeout=1.0)
    eventually(lambda: stack.restorer.cancelled == 2 and stack.restorer.running == 0)
    assert len(stack.restorer.requests) == 2, "no more were under way"
