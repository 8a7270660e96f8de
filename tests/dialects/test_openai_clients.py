"""Requests as clients of OpenAI's interface send them, and what each of them reads of the answer."""

from __future__ import annotations

import base64
import io
import json
from typing import Any

import httpx
import pytest
from PIL import Image

from tests.processes import Atelier

BEARER = {"Authorization": "Bearer sk-anything"}
PROMPT = "portrait of a woman"
FAST = {"num_inference_steps": 2}
"""What an administrator may add, where a client has a place for it; here, to be done soon."""
FAST_FORM = {"num_inference_steps": "2"}


def post(atelier: Atelier, path: str, body: dict[str, Any], **headers: str) -> Any:
    response = httpx.post(f"{atelier.url}/v1{path}", json=body, headers={**BEARER, **headers}, timeout=300)
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == "application/json"
    return response.json()


def image_of(data: dict[str, Any]) -> Image.Image:
    """Open the file as clients do that decode it without looking at it first."""
    return Image.open(io.BytesIO(base64.b64decode(data["b64_json"])))


def picture() -> bytes:
    file = io.BytesIO()
    Image.linear_gradient("L").convert("RGB").save(file, "png")
    return file.getvalue()


@pytest.mark.parametrize("model", ["dall-e-2", "gpt-image-1"])
def test_open_webui(atelier: Atelier, model: str) -> None:
    """`IMAGES_OPENAI_API_PARAMS` is where its administrator says more."""
    body = {"model": model, "prompt": PROMPT, "n": 1, "size": "256x256", **FAST}
    if not model.startswith("gpt-image"):
        body["response_format"] = "b64_json"
    answer = post(atelier, "/images/generations?api-version=2025-04-01", body)
    for image in answer["data"]:
        assert not image.get("url"), "it would be fetched, and private addresses are refused"
        assert image_of(image).size == (256, 256)


def test_open_webui_edits(atelier: Atelier) -> None:
    fields = {
        "model": "dall-e-2",
        "prompt": PROMPT,
        "n": "1",
        "size": "256x256",
        "response_format": "b64_json",
    }
    form: list[tuple[str, Any]] = [(name, (None, value)) for name, value in (fields | FAST_FORM).items()]
    form.append(("image", ("image.png", picture(), "image/png")))
    response = httpx.post(f"{atelier.url}/v1/images/edits", files=form, headers=BEARER, timeout=300)
    assert response.status_code == 200, response.text
    assert image_of(response.json()["data"][0]).size == (256, 256)


def test_librechat_gpt_image(atelier: Atelier) -> None:
    """It has no place for sizes or steps: what it hard-codes must be enough, and is what takes longest."""
    body = {
        "model": "gpt-image-1",
        "prompt": PROMPT,
        "n": 1,
        "background": "auto",
        "output_format": "png",
        "quality": "auto",
        "size": "auto",
    }
    data = post(atelier, "/images/generations", {**body, **FAST})["data"]
    assert isinstance(data[0]["b64_json"], str) and image_of(data[0]).format == "PNG"
    assert image_of(data[0]).size == (1024, 1024)


def test_librechat_edits(atelier: Atelier) -> None:
    fields = {"model": "gpt-image-1", "prompt": PROMPT, "quality": "auto", "size": "auto", **FAST_FORM}
    files = {"image[]": ("portrait.png", picture(), "image/png")}
    response = httpx.post(
        f"{atelier.url}/v1/images/edits", data=fields, files=files, headers=BEARER, timeout=300
    )
    assert response.status_code == 200, response.text
    assert image_of(response.json()["data"][0]).size == (256, 256)


def test_librechat_dall_e(atelier: Atelier) -> None:
    """It says nothing of a response format and reads only the address, as OpenAI's default was."""
    body = {
        "model": "dall-e-3",
        "quality": "standard",
        "style": "vivid",
        "size": "1024x1024",
        "prompt": PROMPT,
        "n": 1,
    }
    url = post(atelier, "/images/generations", {**body, **FAST})["data"][0]["url"]
    assert url.startswith("http")
    assert Image.open(io.BytesIO(httpx.get(url).content)).size == (1024, 1024)


def test_litellm(atelier: Atelier) -> None:
    """Parameters that it does not know stand in an object of this name, not beside the others."""
    body = {
        "model": "atelier",
        "prompt": PROMPT,
        "n": 1,
        "size": "256x256",
        "extra_body": {**FAST, "seed": 11, "negative_prompt": "blurry", "use_face_restoration": False},
    }
    answer = post(atelier, "/images/generations", body)
    assert isinstance(answer["created"], int)
    for image in answer["data"]:
        assert {type(image.get(name)) for name in ("url", "revised_prompt")} == {type(None)}
        assert image_of(image).size == (256, 256) and image["seed"] == 11 and image["faces"] == []
    usage = answer["usage"]
    for name in ("input_tokens", "output_tokens", "total_tokens"):
        assert isinstance(usage[name], int)
    assert set(usage["input_tokens_details"]) == {"text_tokens", "image_tokens"}


@pytest.mark.parametrize(
    ("model", "fields"),
    [
        ("gpt-image-1", {"n": 1, "size": "256x256", "quality": "medium"}),
        (
            "dall-e-3",
            {"response_format": "b64_json", "quality": "standard", "style": "natural", "size": "256x256"},
        ),
        ("dall-e-2", {"response_format": "url", "n": 1, "size": "256x256"}),
    ],
)
def test_n8n(atelier: Atelier, model: str, fields: dict[str, Any]) -> None:
    data = post(atelier, "/images/generations", {"prompt": PROMPT, "model": model, **fields, **FAST})["data"]
    for entry in data:
        if fields.get("response_format") == "url":
            json.dumps(entry)  # is handed on as it is
            assert httpx.get(entry["url"]).status_code == 200
        else:
            assert image_of(entry).size == (256, 256)


def test_n8n_edits(atelier: Atelier) -> None:
    fields = {
        "prompt": PROMPT,
        "model": "gpt-image-1",
        "n": "1",
        "size": "256x256",
        "background": "auto",
        "input_fidelity": "low",
        "output_format": "webp",
        "output_compression": "80",
        "quality": "auto",
        **FAST_FORM,
    }
    files = {"image[]": ("data.png", picture(), "image/png")}
    response = httpx.post(
        f"{atelier.url}/v1/images/edits", data=fields, files=files, headers=BEARER, timeout=300
    )
    assert response.status_code == 200, response.text
    assert response.headers["x-atelier-ignored"] == "input_fidelity"
    assert image_of(response.json()["data"][0]).format == "WEBP"


def test_newelle(atelier: Atelier) -> None:
    """It hard-codes the model, and decodes the file."""
    body = {"model": "gpt-image-1", "prompt": PROMPT, "size": "256x256", "n": 1}
    data = post(atelier, "/images/generations", {**body, **FAST})["data"]
    assert image_of(data[0]).size == (256, 256)


def test_model_lists(atelier: Atelier) -> None:
    """For a choice of models, clients want the id of each; some take their names apart."""
    response = httpx.get(f"{atelier.url}/v1/models", headers=BEARER)
    assert [isinstance(model["id"], str) for model in response.json()["data"]] == [True]
