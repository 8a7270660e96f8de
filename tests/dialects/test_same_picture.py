"""The same request in each dialect gives the same picture, byte for byte but for what the file says of it."""

from __future__ import annotations

import base64
from typing import Any

import httpx
import pytest

from tests.processes import Atelier

PROMPT = "portrait of a smiling woman with long brown hair, blue background"
NATIVE = {
    "prompt": PROMPT,
    "negative_prompt": "hat",
    "width": 320,
    "height": 256,
    "num_inference_steps": 6,
    "guidance_scale": 5.0,
    "seed": 6,
    "face_restoration_weight": 0.25,
    "metadata": "none",
}
OPENAI = {
    "model": "any",
    "prompt": PROMPT,
    "size": "320x256",
    "extra_body": {
        name: value for name, value in NATIVE.items() if name not in ("prompt", "width", "height", "seed")
    },
    "seed": 6,
}
AUTOMATIC1111 = {
    "prompt": PROMPT,
    "negative_prompt": "hat",
    "width": 320,
    "height": 256,
    "steps": 6,
    "cfg_scale": 5,
    "seed": 6,
    "restore_faces": True,
    "override_settings": {"face_restoration_model": "CodeFormer", "code_former_weight": 0.25},
}


@pytest.fixture(scope="module")
def native(atelier: Atelier) -> bytes:
    """The file that `/generate` returns."""
    return drawn(atelier, "/generate", NATIVE, lambda answer: answer["image"].partition(",")[2])


def drawn(atelier: Atelier, path: str, body: dict[str, Any], image: Any) -> bytes:
    response = httpx.post(f"{atelier.url}{path}", json=body, timeout=300)
    assert response.status_code == 200, response.text
    return base64.b64decode(image(response.json()))


def image_data(png: bytes) -> bytes:
    """The chunks of a PNG that hold pixels, and its header."""
    kept, at = b"", 8
    while at < len(png):
        length, name = int.from_bytes(png[at : at + 4]), png[at + 4 : at + 8]
        if name in (b"IHDR", b"IDAT"):
            kept += png[at : at + 12 + length]
        at += 12 + length
    return kept


def test_openais(atelier: Atelier, native: bytes) -> None:
    picture = drawn(atelier, "/v1/images/generations", OPENAI, lambda answer: answer["data"][0]["b64_json"])
    assert picture == native, "without metadata, every byte"


def test_automatic1111s(atelier: Atelier, native: bytes) -> None:
    picture = drawn(atelier, "/sdapi/v1/txt2img", AUTOMATIC1111, lambda answer: answer["images"][0])
    assert picture != native and image_data(picture) == image_data(native)


def test_a_recipe_changes_no_pixel_either(atelier: Atelier, native: bytes) -> None:
    body = {**NATIVE, "metadata": "recipe"}
    picture = drawn(atelier, "/generate", body, lambda answer: answer["image"].partition(",")[2])
    assert picture != native and image_data(picture) == image_data(native)
