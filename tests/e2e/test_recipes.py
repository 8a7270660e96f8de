"""A drawing is inspected, drawn again to the bit and restored, through three real processes."""

from __future__ import annotations

import base64
import io
from typing import Any

import httpx
import numpy as np
from PIL import Image

from tests.processes import Atelier

BODY: dict[str, Any] = {
    "prompt": "portrait of a smiling woman with long brown hair, blue background",
    "negative_prompt": "blurry",
    "width": 256,
    "height": 256,
    "num_inference_steps": 2,
    "seed": 11,
}


def drawn(atelier: Atelier, **body: Any) -> bytes:
    response = atelier.post(**BODY, **body)
    assert response.status_code == 200, response.text
    return base64.b64decode(response.json()["image"].partition(",")[2])


def inspected(atelier: Atelier, image: bytes) -> Any:
    response = httpx.post(f"{atelier.url}/v1/inspect", files={"image": image}, timeout=60)
    assert response.status_code == 200, response.text
    return response.json()


def pixels(image: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(image)) as opened:
        return np.array(opened)


def redrawn(atelier: Atelier, picture: bytes, **fields: Any) -> bytes:
    body = {"type": "generate", "input": {"recipe_of": base64.b64encode(picture).decode(), **fields}}
    headers = {"Prefer": "wait=60"}
    response = httpx.post(f"{atelier.url}/v1/jobs", json=body, headers=headers, timeout=90)
    assert response.status_code == 200, response.text
    job = response.json()
    assert job["status"] == "completed", job["error"]
    [url] = [output["url"] for output in job["outputs"] if output["name"] == "image"]
    return httpx.get(f"{atelier.url}{url}" if url.startswith("/") else url, timeout=60).content


def test_a_picture_is_drawn_again_to_the_bit(atelier: Atelier) -> None:
    image = drawn(atelier)
    found = inspected(atelier, image)
    assert found["recipe"]["seed"] == 11
    assert len(found["recipe"]["model_set"]["hash"]) == 64
    assert found["recipe"]["restoration"]["model_set"]["hash"]
    assert found["parameters"]["Negative prompt"] == "blurry"
    assert redrawn(atelier, image) == image, "pixels, recipe and all"
    options = {"sampler": "DPM++ 2M Karras", "output_format": "webp", "quality": 100, "guidance_scale": 3}
    image = drawn(atelier, use_face_restoration=False, **options)
    assert redrawn(atelier, image) == image
    other = redrawn(atelier, image, seed=12)
    assert (pixels(other) != pixels(image)).any()


def test_one_of_several_is_drawn_again_to_the_bit(atelier: Atelier) -> None:
    response = atelier.post(**BODY, num_images=3, use_face_restoration=False)
    third = base64.b64decode(response.json()["images"][2]["image"].partition(",")[2])
    assert redrawn(atelier, third) == third


def test_a_drawing_that_started_from_an_image_is_drawn_again_with_it(atelier: Atelier) -> None:
    source = drawn(atelier, use_face_restoration=False, metadata="none")
    encoded = base64.b64encode(source).decode()
    image = drawn(atelier, image=encoded, strength=0.5, use_face_restoration=False)
    assert redrawn(atelier, image, image=encoded) == image


def test_a_restored_drawing_says_both(atelier: Atelier) -> None:
    image = drawn(atelier, output_format="jpeg")
    response = httpx.post(
        f"{atelier.url}/restore",
        files={"image": image},
        headers={"Accept": "image/*"},
        timeout=120,
    )
    assert response.status_code == 200, response.text
    found = inspected(atelier, response.content)
    assert found["recipe"]["kind"] == "restoration"
    assert found["recipe"]["of"] == inspected(atelier, image)["recipe"]
    assert found["parameters"]["Seed"] == "11", "the drawing's own EXIF is kept"
    assert found["source_type"].endswith("/trainedAlgorithmicMedia")
