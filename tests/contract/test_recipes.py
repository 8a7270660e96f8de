"""Jobs that draw a picture again, by the recipe in its file."""

from __future__ import annotations

import base64
import io
from typing import Any

import numpy as np
import pytest
from PIL import Image

from atelier.generator.v1 import generator_service_pb2 as pb
from atelier_runtime.errors import InvalidRequest
from atelier_runtime.images import Picture, encode
from atelier_runtime.recipes import DRAWN, Marks, mark, read_marks
from tests.contract.job_client import done, output_of
from tests.contract.script import MODEL_SET_HASH
from tests.contract.stack import Stack


def drawn(stack: Stack, **body: Any) -> bytes:
    response = stack.generate(
        **{"seed": 42, "use_face_restoration": "face_restoration_weight" in body, **body}
    )
    assert response.status_code == 200, response.text
    return base64.b64decode(response.json()["image"].partition(",")[2])


def encoded(data: bytes) -> str:
    return base64.b64encode(data).decode()


def marked(recipe: Any, infotext: str | None = None) -> str:
    plain = encode(Picture(rgb=np.zeros((4, 4, 3), np.uint8)), "png", 90)
    return encoded(mark(plain, "png", Marks(recipe, infotext, DRAWN)))


def pixels(data: bytes) -> bytes:
    with Image.open(io.BytesIO(data)) as image:
        return image.tobytes()


def refused(stack: Stack, recipe_of: Any, **fields: Any) -> dict[str, str]:
    body = {"type": "generate", "input": {"recipe_of": recipe_of, **fields}}
    response = stack.client.post("/v1/jobs", json=body)
    assert response.status_code == 422, response.text
    violations = response.json()["error"]["fields"]
    return {each["field"].removeprefix("input."): each["message"] for each in violations}


OPTIONS: dict[str, Any] = {
    "negative_prompt": "blurry",
    "num_inference_steps": 7,
    "guidance_scale": 3.5,
    "sampler": "euler",
    "schedule": "karras",
    "use_refiner": False,
    "loras": [{"name": "sketch", "weight": 0.5}],
    "output_format": "webp",
    "quality": 100,
}


@pytest.mark.parametrize("options", [{}, OPTIONS, {"face_restoration_weight": 0.25, "upscale": 2}])
def test_the_services_are_asked_for_the_same(stack: Stack, options: dict[str, Any]) -> None:
    image = drawn(stack, **options)
    job = done(stack, input={"recipe_of": encoded(image)})
    assert job["status"] == "completed", job["error"]
    first, second = (each for each in stack.generator.requests if isinstance(each, pb.GenerateImageRequest))
    for name in ("seed", "prompt", "width_px", "height_px", "loras", "negative_prompt", "output"):
        assert getattr(first, name) == getattr(second, name)
    assert len(stack.restorer.requests) in (0, 2)
    again = output_of(stack, job, "image")
    assert pixels(again) == pixels(image)
    before, after = read_marks(image).recipe, read_marks(again).recipe
    assert before == after


def test_a_picture_is_taken_from_a_form_and_from_another_job(stack: Stack) -> None:
    image = drawn(stack)
    response = stack.client.post(
        "/v1/jobs",
        data={"type": "generate", "input": "{}"},
        files={"recipe_of": ("picture.png", image)},
        headers={"Prefer": "wait=20"},
    )
    assert response.status_code == 200, response.text
    job = response.json()
    assert job["result"]["seed"] == 42
    other = done(stack, input={"recipe_of": {"job": job["id"], "output": "image"}})
    assert other["result"]["seed"] == 42


def test_other_fields_take_the_place_of_the_recipe_s(stack: Stack) -> None:
    image = drawn(stack, num_inference_steps=9)
    done(stack, input={"recipe_of": encoded(image), "seed": 7, "steps": 4, "num_images": 2})
    request = stack.generator.requests[-1]
    assert (request.seed, request.num_inference_steps, request.num_images) == (7, 4, 2)
    assert request.prompt == "a red apple"


@pytest.mark.parametrize("restored", [False, True])
def test_one_of_several_images_is_drawn_with_the_others(stack: Stack, restored: bool) -> None:
    faces: dict[str, Any] = {"use_face_restoration": restored, "face_restoration_weight": 0.25}
    response = stack.generate(seed=42, num_images=3, **faces).json()
    third = base64.b64decode(response["images"][2]["image"].partition(",")[2])
    asked = len(stack.restorer.requests)
    job = done(stack, input={"recipe_of": encoded(third)})
    assert job["status"] == "completed", job["error"]
    request = stack.generator.requests[-1]
    assert (request.seed, request.num_images) == (42, 3), "in the same batch: it is the same to the bit"
    assert job["result"]["seed"] == 44
    assert [each["name"] for each in job["outputs"]] == (["drawn", "image"] if restored else ["image"])
    assert len(stack.restorer.requests) - asked == int(restored)
    again = output_of(stack, job, "image")
    assert read_marks(again).recipe == read_marks(third).recipe
    assert pixels(again) == pixels(third)


def test_one_of_several_images_with_another_seed_or_number_is_drawn_by_itself(stack: Stack) -> None:
    response = stack.generate(seed=42, num_images=3, use_face_restoration=False).json()
    third = encoded(base64.b64decode(response["images"][2]["image"].partition(",")[2]))
    for fields, seed, number in (({"seed": 7}, 7, 1), ({"num_images": 1}, 44, 1), ({"num_images": 2}, 44, 2)):
        job = done(stack, input={"recipe_of": third, **fields})
        request = stack.generator.requests[-1]
        assert (request.seed, max(1, request.num_images)) == (seed, number)
        assert [each["name"] for each in job["outputs"]] == ["image", "image_2"][:number]


def test_a_sampler_in_place_of_the_recipe_s_brings_its_own_schedule(stack: Stack) -> None:
    image = encoded(drawn(stack, sampler="euler", schedule="karras"))
    done(stack, input={"recipe_of": image, "sampler": "ddim"})
    request = stack.generator.requests[-1]
    assert (request.sampler, request.HasField("schedule")) == ("ddim", False)
    done(stack, input={"recipe_of": image, "schedule": "beta"})
    request = stack.generator.requests[-1]
    assert (request.sampler, request.schedule) == ("euler", "beta")


def test_what_the_generator_refuses_is_named_as_the_recipe_s(stack: Stack) -> None:
    image = encoded(drawn(stack, loras=[{"name": "ink"}]))
    message = "is not there"
    stack.generator.error = InvalidRequest.of("loras[0].name", message)
    job = done(stack, input={"recipe_of": image})
    assert job["error"]["fields"] == [
        {"field": "recipe_of", "message": f"its recipe's loras[0].name {message}"}
    ]
    job = done(stack, input={"recipe_of": image, "loras": [{"name": "oil"}]})
    assert [each["field"] for each in job["error"]["fields"]] == ["loras[0].name"]


def test_files_that_it_started_from_must_be_given_again(stack: Stack) -> None:
    source = encode(Picture(rgb=np.full((256, 256, 3), 9, np.uint8)), "png", 90)
    other = encode(Picture(rgb=np.full((256, 256, 3), 8, np.uint8)), "png", 90)
    image = drawn(stack, image=encoded(source), strength=0.5)
    assert "is required: the drawing started from" in refused(stack, encoded(image))["image"]
    assert "another file" in refused(stack, encoded(image), image=encoded(other))["image"]
    job = done(stack, input={"recipe_of": encoded(image), "image": encoded(source)})
    assert job["status"] == "completed"
    assert stack.generator.requests[-1].image == source


def test_another_model_set_is_refused_by_both_names(stack: Stack) -> None:
    image = drawn(stack)
    stack.generator.status = {"model_set": "sdxl", "model_set_hash": "ab" * 32}
    message = refused(stack, encoded(image))["recipe_of"]
    assert f"demo ({MODEL_SET_HASH[:16]})" in message
    assert "sdxl (abababababababab) is loaded" in message
    stack.generator.status = {"model_set": "demo", "model_set_hash": "ab" * 32}
    assert "demo (abababababababab)" in refused(stack, encoded(image))["recipe_of"]
    job = done(stack, input={"recipe_of": encoded(image), "any_model_set": True})
    assert job["status"] == "completed"


REQUEST = {"prompt": "x", "sampler": "euler", "width": 256, "height": 256}
RECIPE = {
    "version": 1,
    "kind": "drawing",
    "request": REQUEST,
    "seed": 3,
    "model_set": {"name": "demo", "hash": MODEL_SET_HASH},
}


@pytest.mark.parametrize(
    ("recipe_of", "words"),
    [
        (marked(None), "has no recipe of Atelier's"),
        (marked(None, "a fox\nSteps: 1, Sampler: Euler, Seed: 3"), "AUTOMATIC1111's parameters"),
        (marked({"kind": "restoration", "of": RECIPE}), "recipe of a restoration"),
        (marked({**RECIPE, "version": 2}), "version 2"),
        (marked({**RECIPE, "request": 3}), "without a request"),
        (marked({**RECIPE, "model_set": None}), "names no model set"),
        (marked({**RECIPE, "request": {**REQUEST, "width": 255}}), "its recipe's width must be"),
        (marked({**RECIPE, "request": {**REQUEST, "rm": "-rf"}}), "its recipe's rm is not a field"),
        (marked({**RECIPE, "seed": "7"}), "its recipe's seed must be"),
        (marked({**RECIPE, "seed": None}), "its recipe's seed must be"),
        (marked({**RECIPE, "seed": -1}), "its recipe's seed must be"),
        (marked({**RECIPE, "seed": True}), "its recipe's seed must be"),
        (marked({**RECIPE, "version": True}), "recipe of version true"),
        (marked({**RECIPE, "version": 0}), "recipe of version 0"),
        (marked({**RECIPE, "version": -5}), "recipe of version -5"),
        (marked({**RECIPE, "version": None}), "recipe of version null"),
        (marked({**RECIPE, "image": [2, 1]}), "its recipe's image cannot be 2 of 1"),
        (marked({**RECIPE, "image": [1, 2]}), "its recipe's image must be"),
        (marked({**RECIPE, "image": {}}), "its recipe's image must be"),
        (marked({**RECIPE, "request": {**REQUEST, "num_images": []}}), "its recipe's num_images must be"),
        (marked({**RECIPE, "request": {**REQUEST, "seed": 4}}), "has the seed 4"),
        (marked({**RECIPE, "request": {**REQUEST, "sampler": ["euler"]}}), "its recipe's sampler must be"),
        (marked({**RECIPE, "request": {**REQUEST, "sampler": {}}}), "its recipe's sampler must be"),
        (marked({**RECIPE, "request": {**REQUEST, "schedule": []}}), "its recipe's schedule must be"),
        (marked({**RECIPE, "request": {**REQUEST, "image": "aaaa"}}), "its recipe's image is in no recipe"),
        (marked({**RECIPE, "request": {**REQUEST, "mask": "aaaa"}}), "its recipe's mask is in no recipe"),
        (marked({**RECIPE, "request": {**REQUEST, "dry_run": True}}), "its recipe's dry_run is in no recipe"),
        (marked({**RECIPE, "model_set": {"name": "\ud800", "hash": "\ud800"}}), "\ufffd"),
        (marked({**RECIPE, "model_set": {"name": [], "hash": {}}}), "names no model set"),
        (marked({**RECIPE, "started_from": {"image_sha256": [1]}}), "image_sha256 is no hash"),
        (encoded(b"GIF89a"), "is a GIF, not a PNG, JPEG or WebP"),
        ("?", "base64"),
    ],
)
def test_what_cannot_be_drawn_again_is_refused_with_the_reason(
    stack: Stack, recipe_of: str, words: str
) -> None:
    assert words in refused(stack, recipe_of)["recipe_of"]


def test_a_text_that_utf_8_cannot_express_is_refused(stack: Stack) -> None:
    body = '{"type": "generate", "input": {"recipe_of": "%s", "sampler": "\\ud800", "\\ud800": 1}}'
    response = stack.client.post("/v1/jobs", content=body % marked(RECIPE))
    assert response.status_code == 422
    assert "input.sampler" in {each["field"] for each in response.json()["error"]["fields"]}


def test_the_client_s_own_fields_are_named_as_such(stack: Stack) -> None:
    assert set(refused(stack, marked(RECIPE), width=255)) == {"width"}
    assert "recipe_of" in refused(stack, None, any_model_set=True)


@pytest.mark.parametrize("headers", [{}, {"Prefer": "respond-async"}])
def test_only_jobs_take_a_recipe(stack: Stack, headers: dict[str, str]) -> None:
    body = {"prompt": "x", "recipe_of": marked(RECIPE), "any_model_set": True}
    response = stack.client.post("/generate", json=body, headers=headers)
    assert response.status_code == 422
    problems = {each["field"]: each["message"] for each in response.json()["error"]["fields"]}
    assert set(problems) == {"recipe_of", "any_model_set"}
    assert "POST /v1/jobs only" in problems["recipe_of"]


def test_only_drawings_are_drawn_again(stack: Stack) -> None:
    body = {"type": "restore", "input": {"recipe_of": marked(RECIPE)}}
    response = stack.client.post("/v1/jobs", json=body)
    assert response.status_code == 422
    assert "input.recipe_of" in {each["field"] for each in response.json()["error"]["fields"]}


def test_an_image_as_it_was_drawn_says_so(stack: Stack) -> None:
    job = done(
        stack, input={"prompt": "x", "width": 256, "height": 256, "seed": 3, "num_images": 2, "upscale": 2}
    )
    first, second = output_of(stack, job, "drawn"), output_of(stack, job, "drawn_2")
    found = read_marks(second)
    assert found.source_type == DRAWN and found.infotext is not None and found.recipe is not None
    assert (found.recipe["image"], found.recipe["seed"]) == ([2, 2], 4)
    request = found.recipe["request"]
    assert (request["use_face_restoration"], request["upscale"], "restoration" in found.recipe) == (
        False,
        1,
        False,
    )
    asked = len(stack.restorer.requests)
    again = done(stack, input={"recipe_of": {"job": job["id"], "output": "drawn"}})
    assert again["status"] == "completed", again["error"]
    assert len(stack.restorer.requests) == asked, "it was not restored"
    assert output_of(stack, again, "image") == first
    job = done(stack, input={"prompt": "x", "width": 256, "height": 256, "metadata": "none"})
    found = read_marks(output_of(stack, job, "drawn"))
    assert (found.recipe, found.infotext, found.source_type) == (None, None, None)


@pytest.mark.parametrize(("metadata", "number"), [("recipe", 1), ("none", 2), (None, 0)])
def test_what_photos_are_to_say_reaches_the_restorer(stack: Stack, metadata: str | None, number: int) -> None:
    photo = encoded(encode(Picture(rgb=np.zeros((8, 8, 3), np.uint8)), "png", 90))
    body = {"image": photo, **({} if metadata is None else {"metadata": metadata})}
    assert stack.client.post("/restore", json=body).status_code == 200
    assert stack.client.post("/compare", json={**body, "fidelities": [0.5]}).status_code == 200
    assert done(stack, type="restore", input=body)["status"] == "completed"
    restore, compare, job = stack.restorer.requests
    assert [each.output.metadata for each in (restore, compare.restore, job)] == [number] * 3


def test_what_files_say_is_one_of_two(stack: Stack) -> None:
    response = stack.generate(metadata="all")
    assert response.status_code == 422
    assert "recipe" in response.json()["error"]["fields"][0]["message"]
