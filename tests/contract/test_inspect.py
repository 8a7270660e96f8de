"""POST /v1/inspect: what pictures say of themselves, ours and others'."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from atelier_runtime.images import Picture, encode
from atelier_runtime.recipes import Marks, mark
from tests.certificates import make_chain
from tests.contract.script import MODEL_SET_HASH
from tests.contract.stack import Stack

DRAWN = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"


def inspected(stack: Stack, image: bytes) -> Any:
    response = stack.client.post("/v1/inspect", files={"image": ("picture", image)})
    assert response.status_code == 200, response.text
    return response.json()


def drawn(stack: Stack, **body: Any) -> bytes:
    data_uri = stack.generate(seed=42, **body).json()["image"]
    return base64.b64decode(data_uri.partition(",")[2])


@pytest.mark.parametrize("file_format", ["png", "jpeg", "webp"])
@pytest.mark.parametrize("use_face_restoration", [True, False])
def test_a_drawing_says_how_it_was_drawn(stack: Stack, file_format: str, use_face_restoration: bool) -> None:
    image = drawn(stack, output_format=file_format, use_face_restoration=use_face_restoration)
    found = inspected(stack, image)
    assert found["format"] == file_format
    assert found["source_type"] == DRAWN
    recipe = found["recipe"]
    assert (recipe["kind"], recipe["version"], recipe["seed"]) == ("drawing", 1, 42)
    assert recipe["model_set"] == {"name": "demo", "hash": MODEL_SET_HASH}
    assert recipe["request"]["prompt"] == "a red apple"
    assert recipe["request"]["seed"] == 42
    parameters = found["parameters"]
    assert (parameters["Prompt"], parameters["Seed"]) == ("a red apple", "42")
    assert (parameters["Size-1"], parameters["Model hash"]) == ("256", MODEL_SET_HASH[:10])
    assert found["infotext"].startswith("a red apple\nSteps: 30, Sampler: Euler, ")
    assert (found["has_credentials"], found["credentials"]) == (False, None)
    sent = stack.generator.requests[0], *stack.restorer.requests
    assert {each.output.metadata for each in sent} == {2}, "the services write nothing"


def test_without_metadata_the_file_is_what_the_service_sent(stack: Stack) -> None:
    image = drawn(stack, use_face_restoration=False, metadata="none")
    found = inspected(stack, image)
    assert (found["recipe"], found["infotext"], found["source_type"]) == (None, None, None)
    assert found["items"] == {}
    again = drawn(stack, use_face_restoration=False)
    assert len(again) > len(image)
    assert opened(again) == opened(image), "the same pixels"


def test_the_strength_that_ran_is_told(stack: Stack) -> None:
    stack.generator.result = {"hires_strength": 0.4}
    hires_pass = {"width": 512, "height": 512, "strength": 0.6}
    found = inspected(stack, drawn(stack, hires_pass=hires_pass))
    assert found["parameters"]["Denoising strength"] == "0.4"
    assert found["recipe"]["hires_strength"] == 0.4
    assert found["recipe"]["request"]["hires_pass"]["strength"] == 0.6, "with which it is drawn again"


def opened(data: bytes) -> bytes:
    with Image.open(io.BytesIO(data)) as image:
        return image.tobytes()


def test_pictures_of_others_are_read_as_json_and_as_a_form(stack: Stack) -> None:
    texts = PngInfo()
    texts.add_text("parameters", "a fox\nNegative prompt: blurry\nSteps: 20, Sampler: Euler a, Seed: 3")
    texts.add_text("workflow", "{}", zip=True)
    buffer = io.BytesIO()
    Image.new("RGB", (2, 2)).save(buffer, "PNG", pnginfo=texts)
    found = inspected(stack, buffer.getvalue())
    encoded = base64.b64encode(buffer.getvalue()).decode()
    assert stack.client.post("/v1/inspect", json={"image": encoded}).json() == found
    assert found["parameters"] == {
        "Prompt": "a fox", "Negative prompt": "blurry", "Steps": "20", "Sampler": "Euler a", "Seed": "3"
    }  # fmt: skip
    assert found["items"]["workflow"] == "{}"
    assert found["recipe"] is None


def test_a_photographer_s_comment_is_no_infotext(stack: Stack) -> None:
    exif = Image.Exif()
    exif.get_ifd(0x8769)[0x9286] = b"ASCII\0\0\0Aunt Mary: 1960, Hull"
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8)).save(buffer, "JPEG", exif=exif)
    found = inspected(stack, buffer.getvalue())
    assert found["items"] == {"EXIF:UserComment": "Aunt Mary: 1960, Hull"}
    assert (found["infotext"], found["parameters"]) == (None, None)
    body = {"image": base64.b64encode(buffer.getvalue()).decode()}
    assert stack.client.post("/sdapi/v1/png-info", json=body).json()["info"] == "Aunt Mary: 1960, Hull"


def test_half_a_surrogate_pair_is_replaced(stack: Stack) -> None:
    plain = encode(Picture(rgb=np.zeros((4, 4, 3), np.uint8)), "png", 90)
    image = mark(plain, "png", Marks({"odd": "\ud800"}, 'x\nSteps: 1, Model: "\\ud800", Seed: 3', DRAWN))
    found = inspected(stack, image)
    assert found["recipe"] == {"odd": "\ufffd"}
    body = {"image": base64.b64encode(image).decode()}
    response = stack.client.post("/sdapi/v1/png-info", json=body)
    assert response.status_code == 200, response.text
    assert response.json()["parameters"] == found["parameters"]
    assert found["parameters"]["Model"] == "\ufffd"


def test_a_recipe_with_a_number_that_no_json_can_express_is_none(stack: Stack) -> None:
    plain = encode(Picture(rgb=np.zeros((4, 4, 3), np.uint8)), "jpeg", 90)
    image = mark(plain, "jpeg", Marks({"n": 7777777}, None, DRAWN)).replace(b"7777777", b"1.0e999")
    response = stack.client.post("/v1/inspect", files={"image": ("picture", image)})
    assert "Infinity" not in response.text
    assert response.json()["recipe"] is None


@pytest.mark.parametrize(
    ("body", "field", "words"),
    [
        ({}, "image", "is required"),
        ({"image": "?"}, "image", "base64"),
        ({"image": base64.b64encode(b"GIF89a").decode()}, "image", "not a PNG, JPEG or WebP"),
        ({"image": "aaaa", "fidelity": 1}, "fidelity", "not a field"),
    ],
)
def test_what_cannot_be_read_is_named(stack: Stack, body: Any, field: str, words: str) -> None:
    response = stack.client.post("/v1/inspect", json=body)
    assert response.status_code == 422
    [problem] = response.json()["error"]["fields"]
    assert problem["field"] == field
    assert words in problem["message"]


def test_needs_no_service(stack: Stack) -> None:
    inspected(stack, drawn(stack))
    asked = len(stack.generator.requests), len(stack.restorer.requests)
    inspected(stack, drawn(stack, metadata="none"))
    assert asked[0] + 1 == len(stack.generator.requests)


def test_signed_pictures(tmp_path: Path) -> None:
    chain = make_chain(tmp_path)
    with Stack(c2pa_certificate=chain.certificate, c2pa_key=chain.key) as stack:
        stack.restorer.faces = [(0.9, True, None), (0.8, True, None)]
        image = drawn(stack)
        found = inspected(stack, image)
        credentials = found["credentials"]
        assert (found["has_credentials"], credentials["state"]) == (True, "Valid")
        assert credentials["common_name"] == "Test Newsroom"
        created, edited = credentials["actions"]
        assert (created["action"], created["digitalSourceType"]) == ("c2pa.created", DRAWN)
        assert edited["action"] == "c2pa.edited"
        assert len(edited["parameters"]["com.atelier.restored_faces_px"]) == 2
        response = stack.client.post(
            "/restore", files={"image": ("photo", image)}, headers={"Accept": "image/*"}
        )
        assert response.status_code == 200, response.text
        found = inspected(stack, response.content)
        opened, edited = found["credentials"]["actions"]
        assert (opened["action"], edited["action"]) == ("c2pa.opened", "c2pa.edited")
        assert found["credentials"]["manifests"] == 2, "that of the drawing is kept"
        plain = stack.client.post(
            "/restore",
            files={"image": ("photo", image)},
            data={"metadata": "none"},
            headers={"Accept": "image/*"},
        )
        assert not inspected(stack, plain.content)["has_credentials"]
