"""What clients of AUTOMATIC1111's API send at their start and for a picture, and read of the answers.

Written from what their sources do (November 2026), with small pictures. Each has its own key, as each would
have its own address.
"""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import httpx
from PIL import Image

from tests.dialects.photographs import RUINED
from tests.processes import Atelier

SIDE = 256
PHOTO = base64.b64encode(RUINED.read_bytes()).decode()
LANCZOS = "Lanczos"
REFINER = "refiner_checkpoint"
"""Told where the model set's own refiner was used, which no client asked for."""


@dataclass
class Client:
    """A client: the address of its server, and the headers that it sends."""

    url: str
    headers: Mapping[str, str]

    def get(self, path: str) -> Any:
        response = httpx.get(f"{self.url}{path}", headers=self.headers, timeout=60, trust_env=False)
        assert response.status_code == 200, response.text
        return response.json()

    def post(self, path: str, body: Any = None, **form: Any) -> httpx.Response:
        """POST JSON, or a form, or nothing at all."""
        arguments: dict[str, Any] = {"data": form} if form else {} if body is None else {"json": body}
        return httpx.post(
            f"{self.url}{path}", headers=self.headers, timeout=120, trust_env=False, **arguments
        )

    def answer(self, path: str, body: Any = None) -> Any:
        response = self.post(path, body)
        assert response.status_code == 200, response.text
        return response.json()


def size_of(encoded: str) -> tuple[int, int]:
    """Decode base64 without a prefix, as clients do; return the size of the picture in it."""
    with Image.open(io.BytesIO(base64.b64decode(encoded, validate=True))) as image:
        image.load()
        return image.size


def basic(text: str) -> dict[str, str]:
    return {"Authorization": f"Basic {base64.b64encode(text.encode()).decode()}"}


def test_open_webui(atelier: Atelier) -> None:
    client = Client(atelier.url, basic("open-webui:secret"))
    options = client.get("/sdapi/v1/options")
    models = client.get("/sdapi/v1/sd-models")
    shown = [{"id": model["title"], "name": model["model_name"]} for model in models]
    assert options["sd_model_checkpoint"] in [model["id"] for model in shown]
    options["sd_model_checkpoint"] = shown[0]["id"]
    assert client.answer("/sdapi/v1/options", options) is None, "its admin page posts all of them back"
    body = {
        "prompt": "a red apple",
        "batch_size": 1,
        "width": SIDE,
        "height": SIDE,
        "steps": 2,
        "negative_prompt": "blurry",
    }
    response = client.post("/sdapi/v1/txt2img", body)
    assert response.headers["X-Atelier-Ignored"] == REFINER
    answer = response.json()
    assert [size_of(image) for image in answer["images"]] == [(SIDE, SIDE)]
    assert isinstance(json.loads(answer["info"]), dict)


def test_silly_tavern(atelier: Atelier) -> None:
    client = Client(atelier.url, basic(":"))  # no credentials were given
    client.get("/sdapi/v1/options")
    [model] = [each["title"] for each in client.get("/sdapi/v1/sd-models")]
    samplers = [each["name"] for each in client.get("/sdapi/v1/samplers")]
    schedulers = [each["name"] for each in client.get("/sdapi/v1/schedulers")]
    upscalers = [each["name"] for each in client.get("/sdapi/v1/upscalers")]
    latent = [each["name"] for each in client.get("/sdapi/v1/latent-upscale-modes")]
    assert [each["model_name"] for each in client.get("/sdapi/v1/sd-vae")] == []
    assert [each["model_name"] for each in client.get("/sdapi/v1/sd-modules")] == []
    assert {"Euler a"} <= set(samplers) and "karras" in schedulers and LANCZOS in [*upscalers, *latent]
    assert client.answer("/sdapi/v1/options", {"sd_model_checkpoint": model}) is None
    for _ in range(2):  # until the model is loaded
        progress = client.get("/sdapi/v1/progress")
        assert progress["progress"] == 0.0 and progress["state"]["job_count"] == 0
    body = {
        "prompt": "portrait of a woman",
        "negative_prompt": "blurry",
        "sampler_name": samplers[0],
        "scheduler": schedulers[0],
        "steps": 2,
        "cfg_scale": 7,
        "width": SIDE,
        "height": SIDE,
        "restore_faces": True,
        "enable_hr": True,
        "hr_upscaler": upscalers[1],
        "hr_scale": 1.5,
        "hr_additional_modules": [],
        "denoising_strength": 0.7,
        "hr_second_pass_steps": 0,
        "seed": 5,
        "override_settings": {"CLIP_stop_at_last_layers": 1},
        "override_settings_restore_afterwards": True,
        "clip_skip": 1,
        "save_images": True,
        "send_images": True,
        "do_not_save_grid": False,
        "do_not_save_samples": False,
    }
    response = client.post("/sdapi/v1/txt2img", body)
    told = response.headers["X-Atelier-Ignored"].split(", ")
    assert [name for name in told if name != REFINER] == ["hr_additional_modules", "clip_skip", "save_images"]
    answer = response.json()
    assert size_of(answer["images"][0]) == (384, 384)
    assert client.answer("/sdapi/v1/interrupt") == {}, "as at every abort"


def test_libre_chat(atelier: Atelier) -> None:
    client = Client(atelier.url, {})
    body = {
        "prompt": "a red apple",
        "negative_prompt": "blurry",
        "cfg_scale": 4.5,
        "steps": 2,
        "width": SIDE,
        "height": SIDE,
    }
    answer = client.answer("/sdapi/v1/txt2img", body)
    assert size_of(answer["images"][0]) == (SIDE, SIDE)
    info = json.loads(answer["info"])
    assert "Steps: 2" in info["infotexts"][0]
    assert isinstance(info["seed"], int)
    assert (info["width"], info["height"], info["steps"], info["cfg_scale"]) == (SIDE, SIDE, 2, 4.5)
    assert (info["prompt"], info["negative_prompt"]) == ("a red apple", "blurry")


def test_aiya(atelier: Atelier) -> None:
    client = Client(atelier.url, {"X-API-Key": "aiya"})
    client.get("/sdapi/v1/cmd-flags")
    assert httpx.head(atelier.url, trust_env=False).status_code == 200
    assert client.post("/login").status_code == 200
    assert client.post("/login", username="aiya", password="secret").status_code == 200
    samplers = [each["name"] for each in client.get("/sdapi/v1/samplers")]
    styles = {
        each["name"]: (each["prompt"], each["negative_prompt"])
        for each in client.get("/sdapi/v1/prompt-styles")
    }
    restorers = [each["name"] for each in client.get("/sdapi/v1/face-restorers")]
    embeddings = client.get("/sdapi/v1/embeddings")
    assert [*embeddings["loaded"].items(), *embeddings["skipped"].items()] == [] and styles == {}
    assert [each["name"] for each in client.get("/sdapi/v1/hypernetworks")] == []
    assert LANCZOS in [each["name"] for each in client.get("/sdapi/v1/upscalers")]
    [model] = client.get("/sdapi/v1/sd-models")
    assert all(isinstance(model[name], str) for name in ("title", "model_name", "hash", "filename"))
    assert [each["alias"] for each in client.get("/sdapi/v1/loras")] == []
    choices = {
        each["props"]["elem_id"]: each["props"]["choices"] for each in client.get("/config")["components"]
    }
    assert "None" in choices["setting_sd_lora"] and LANCZOS in choices["txt2img_hr_upscaler"]
    body = {
        "prompt": "a red apple",
        "negative_prompt": "blurry",
        "steps": 2.0,
        "width": SIDE,
        "height": SIDE,
        "cfg_scale": "7.0",
        "sampler_index": samplers[0],
        "seed": 11,
        "seed_resize_from_h": -1,
        "seed_resize_from_w": -1,
        "denoising_strength": None,
        "n_iter": 1,
        "batch_size": "2",
        "styles": [],
        "restore_faces": True,
        "override_settings": {
            "sd_model_checkpoint": model["title"],
            "face_restoration_model": restorers[0],
            "CLIP_stop_at_last_layers": 1,
        },
    }
    response = client.post("/sdapi/v1/txt2img", body)
    assert response.status_code == 200, response.text
    assert response.headers["X-Atelier-Ignored"] == REFINER
    images = response.json()["images"]
    assert len(images) == 2
    for image in images:
        found = client.answer("/sdapi/v1/png-info", {"image": f"data:image/png;base64,{image}"})
        assert "Steps: 2" in found["info"] and isinstance(found["items"], dict)
    assert client.get("/sdapi/v1/progress")["current_image"] is None
    upscale = {
        "upscaling_resize": 2.0,
        "upscaler_1": LANCZOS,
        "image": f"data:image/png;base64,{images[0]}",
        "gfpgan_visibility": "0.0",
        "codeformer_visibility": "0.5",
        "upscale_first": False,
        "upscaler_2": "None",
        "extras_upscaler_2_visibility": "0.5",
    }
    response = client.post("/sdapi/v1/extra-single-image", upscale)
    assert size_of(response.json()["image"]) == (2 * SIDE, 2 * SIDE)
    assert "X-Atelier-Ignored" not in response.headers


def test_cyanic(atelier: Atelier) -> None:
    client = Client(atelier.url, {"X-API-Key": "cyanic"})
    assert client.get("/queue/status") is not None
    [model] = client.get("/sdapi/v1/sd-models")
    for name in ("sd-vae", "prompt-styles", "hypernetworks"):
        assert client.get(f"/sdapi/v1/{name}") == []
    samplers = [each["name"] for each in client.get("/sdapi/v1/samplers")]
    restorers = [each["name"] for each in client.get("/sdapi/v1/face-restorers")]
    upscalers = [each["name"] for each in client.get("/sdapi/v1/upscalers")]
    scripts = client.get("/sdapi/v1/scripts")
    assert not any("controlnet" in scripts[kind] for kind in ("txt2img", "img2img"))
    assert [each["name"] for each in client.get("/sdapi/v1/loras")] == []
    assert list(client.get("/sdapi/v1/embeddings")["loaded"]) == []
    options = client.get("/sdapi/v1/options")
    assert options["sd_model_checkpoint"] == model["title"]
    assert isinstance(options["sd_vae"], str) and options["face_restoration_model"] == restorers[0]
    assert isinstance(options["img2img_color_correction"], bool)
    common = {
        "prompt": "a red apple",
        "negative_prompt": "",
        "styles": [],
        "steps": 2,
        "cfg_scale": 7,
        "sampler_name": samplers[0],
        "seed": -1,
        "batch_size": 1,
        "n_iter": 1,
        "width": SIDE,
        "height": SIDE,
        "override_settings": {
            "sd_model_checkpoint": model["title"],
            "sd_vae": options["sd_vae"],
            "img2img_color_correction": options["img2img_color_correction"],
        },
        "override_settings_restore_afterwards": False,
        "refiner_switch_at": 1.0,
        "alwayson_scripts": {},
        "save_images": False,
    }
    for path, more in (
        ("txt2img", {"enable_hr": False}),
        ("img2img", {"init_images": [PHOTO], "denoising_strength": 0.6, "resize_mode": 1}),
        (
            "img2img",
            {
                "init_images": [PHOTO],
                "mask": PHOTO,
                "inpainting_fill": 1,
                "inpaint_full_res": False,
                "inpaint_full_res_padding": 32,
                "mask_blur": 4,
                "inpainting_mask_invert": 0,
                "resize_mode": 1,
            },
        ),
    ):
        response = client.post(f"/sdapi/v1/{path}", {**common, **more})
        assert response.status_code == 200 and "X-Atelier-Ignored" not in response.headers, response.text
        answer = response.json()
        assert size_of(answer["images"][0]) == (SIDE, SIDE)
        assert json.loads(answer["info"])["all_seeds"]
    restored = client.answer(
        "/sdapi/v1/extra-single-image",
        {
            "image": PHOTO,
            "upscaler_1": upscalers[0],
            "upscaling_resize": 1,
            "codeformer_visibility": 1,
            "codeformer_weight": 0.2,
            "gfpgan_visibility": 0,
        },
    )
    assert size_of(restored["image"]) == size_of(PHOTO)
    assert "eta_relative" in client.get("/sdapi/v1/progress")
    assert client.answer("/sdapi/v1/interrupt", {}) == {}


def test_the_photoshop_plugin(atelier: Atelier) -> None:
    client = Client(atelier.url, {"X-API-Key": "photoshop"})
    components = client.get("/config")["components"]
    [hires] = [each for each in components if each.get("props", {}).get("elem_id") == "txt2img_hr_upscaler"]
    assert LANCZOS in hires["props"]["choices"]
    options = client.get("/sdapi/v1/options")
    samplers = client.get("/sdapi/v1/samplers")
    [model] = client.get("/sdapi/v1/sd-models")
    assert options["sd_model_checkpoint"] == model["title"]
    assert LANCZOS in [each["name"] for each in client.get("/sdapi/v1/upscalers")]
    assert set(client.get("/sdapi/v1/scripts")) == {"txt2img", "img2img"}
    assert client.get("/sdapi/v1/loras") == []
    assert client.answer("/sdapi/v1/options", {"inpainting_mask_weight": 1}) is None
    body = {
        "prompt": "a red apple",
        "negative_prompt": "",
        "steps": "2",
        "batch_size": "1",
        "n_iter": 1,
        "cfg_scale": "7",
        "width": SIDE,
        "height": SIDE,
        "denoising_strength": 0.7,
        "seed": "-1",
        "sampler_index": samplers[0]["name"],
        "restore_faces": False,
        "tiling": False,
        "enable_hr": False,
        "hr_scale": "2",
        "hr_upscaler": "Latent",
        "mask_blur": 8,
        "inpainting_fill": 1,
        "inpaint_full_res": False,
        "inpaint_full_res_padding": 0,
        "inpainting_mask_invert": False,
        "override_settings": {},
        "override_settings_restore_afterwards": True,
        "alwayson_scripts": {},
        "script_args": [],
    }
    for path, more in (
        ("txt2img", {}),
        ("img2img", {"init_images": [f"data:image/png;base64,{PHOTO}"], "resize_mode": 1}),
    ):
        answer = client.answer(f"/sdapi/v1/{path}", {**body, **more})
        assert size_of(answer["images"][0]) == (SIDE, SIDE)
        info = json.loads(answer["info"])
        assert info["infotexts"] and info["seed"] >= 0
        found = client.answer("/sdapi/v1/png-info", {"image": answer["images"][0]})
        assert found["info"] == info["infotexts"][0] and found["parameters"]["Prompt"] == "a red apple"
    assert client.get("/sdapi/v1/progress?skip_current_image=false")["progress"] == 0
    headers = {**client.headers, "Content-Type": "application/json"}
    interrupted = httpx.post(f"{atelier.url}/sdapi/v1/interrupt", headers=headers, trust_env=False)
    assert (interrupted.status_code, interrupted.json()) == (200, {})
