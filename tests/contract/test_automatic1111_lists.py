"""AUTOMATIC1111's extras, png-info and lists, and what clients ask for around /sdapi/v1."""

from __future__ import annotations

import base64
from typing import Any

import pytest

from atelier.common.v1 import image_pb2
from atelier.restorer.v1 import restorer_service_pb2 as pb
from atelier_runtime.service_status import NetworkRole
from tests.contract.automatic1111 import PICTURE, SIDE, WIDE, post, refusal, told
from tests.contract.script import opened
from tests.contract.stack import Stack


@pytest.fixture
def upscaling(stack: Stack) -> Stack:
    stack.restorer.networks[NetworkRole.UPSCALER] = "RealESRGAN_x2plus"
    return stack


def restored(stack: Stack, **body: Any) -> pb.RestoreFacesRequest:
    """POST a picture that is served; return what the restorer was asked for."""
    response = post(stack, "extra-single-image", **{"image": PICTURE, **body})
    assert response.status_code == 200, response.text
    assert set(response.json()) == {"html_info", "image"}
    assert opened(base64.b64decode(response.json()["image"], validate=True)).format == "PNG"
    request = stack.restorer.requests[-1]
    assert isinstance(request, pb.RestoreFacesRequest)
    return request


# --- extras ---


def test_the_defaults_change_nothing(stack: Stack) -> None:
    request = restored(stack)
    assert request.HasField("max_faces") and request.max_faces == 0
    assert request.upscale == 1 and request.output.format == image_pb2.IMAGE_FORMAT_PNG


@pytest.mark.parametrize(
    ("body", "fidelity", "visibility"),
    [
        ({"codeformer_visibility": 1, "codeformer_weight": 0.5}, 0.5, 1),
        ({"codeformer_visibility": "0.75", "codeformer_weight": "0.25"}, 0.25, 0.75),
        ({"codeformer_visibility": 1}, 0, 1),
    ],
)
def test_codeformer(stack: Stack, body: dict[str, Any], fidelity: float, visibility: float) -> None:
    request = restored(stack, **body)
    assert (request.fidelity, request.visibility) == (fidelity, visibility)
    assert not request.HasField("max_faces")


def test_the_restorer_that_is_loaded_does_it(stack: Stack) -> None:
    gfpgan = {"image": PICTURE, "gfpgan_visibility": "0.5"}
    assert told(post(stack, "extra-single-image", **gfpgan)) == ["gfpgan_visibility"]
    request = stack.restorer.requests[-1]
    assert request.visibility == 0.5 and not request.HasField("fidelity")
    codeformer = {"image": PICTURE, "codeformer_visibility": 1}
    assert told(post(stack, "extra-single-image", **codeformer)) == []
    stack.restorer.networks[NetworkRole.FACE_RESTORER] = "GFPGANv1.4"
    assert told(post(stack, "extra-single-image", **gfpgan)) == []
    assert told(post(stack, "extra-single-image", **codeformer)) == ["codeformer_visibility"]
    assert stack.client.get("/sdapi/v1/face-restorers").json() == [{"name": "GFPGAN", "cmd_dir": None}]


@pytest.mark.parametrize(
    ("body", "factor", "use_upscaler"),
    [
        ({"upscaler_1": "Lanczos"}, 2, False),
        ({"upscaler_1": "RealESRGAN_x2plus", "upscaling_resize": "4"}, 4, True),
        ({"upscaler_1": "R-ESRGAN 4x+", "upscaling_resize": 1.0}, 1, True),
        (
            {"upscaler_1": "Lanczos", "resize_mode": 1, "upscaling_resize_w": 512, "upscaling_resize_h": 512},
            2,
            False,
        ),
        ({"upscaler_1": "None", "upscaling_resize": 3}, 1, None),
    ],
)
def test_upscaling(upscaling: Stack, body: dict[str, Any], factor: int, use_upscaler: bool | None) -> None:
    request = restored(upscaling, **body)
    assert request.upscale == factor
    assert (request.use_upscaler if request.HasField("use_upscaler") else None) is use_upscaler


@pytest.mark.parametrize(
    ("body", "part"),
    [
        ({"gfpgan_visibility": 1, "codeformer_visibility": 1}, "gfpgan_visibility: cannot be used together"),
        ({"codeformer_visibility": 1.5}, "codeformer_visibility: must be a number from 0 to 1, not 1.5"),
        ({"upscaler_1": "Lanczos", "upscaling_resize": 3}, "upscaling_resize: must be 1, 2 or 4, not 3"),
        ({"upscaler_1": "SwinIR_4x"}, "upscaler_1: must be None, Lanczos or RealESRGAN_x2plus"),
        ({"upscaler_2": "Lanczos", "extras_upscaler_2_visibility": 0.5}, "upscaler_2: "),
        (
            {"upscaler_1": "Lanczos", "resize_mode": 1},
            "resize_mode: 1 is 512 x 512 px here, which is not 1, 2",
        ),
        ({"image": None}, "image: is required: a PNG, JPEG or WebP file"),
        ({"image": "https://example.com/x.png"}, "image: is not base64"),
        ({"image": ""}, "image: is empty"),
    ],
)
def test_extras_that_are_refused(upscaling: Stack, body: dict[str, Any], part: str) -> None:
    assert part in refusal(post(upscaling, "extra-single-image", **{"image": WIDE, **body}))


def test_extras_that_are_ignored(upscaling: Stack) -> None:
    body = {"upscale_first": True, "show_extras_results": False, "upscaler_1": "Nearest", "x": 1}
    response = post(upscaling, "extra-single-image", image=PICTURE, **body)
    assert sorted(told(response)) == ["show_extras_results", "upscale_first", "upscaler_1", "x"]
    html = post(upscaling, "extra-single-image", image=PICTURE, codeformer_visibility=1).json()["html_info"]
    assert html.startswith("<p>Faces restored: 1 of 1, CodeFormer visibility: 1.0")


def test_several_pictures(stack: Stack) -> None:
    pictures = [{"data": f"data:image/png;base64,{PICTURE}", "name": "a"}, {"data": WIDE, "name": "b"}]
    response = post(stack, "extra-batch-images", imageList=pictures, codeformer_visibility=1)
    assert set(response.json()) == {"html_info", "images"}
    sizes = [opened(base64.b64decode(each)).size for each in response.json()["images"]]
    assert sizes == [(SIDE, SIDE), (SIDE, SIDE // 2)]
    wrong = [*pictures, {"data": "?"}, {}]
    detail = refusal(post(stack, "extra-batch-images", imageList=wrong))
    assert "imageList[2].data: is not base64" in detail and "imageList[3].data: is not a string" in detail
    assert "must be a list of 1 to 10" in refusal(post(stack, "extra-batch-images", imageList=pictures * 6))
    assert "imageList: is required" in refusal(post(stack, "extra-batch-images"))


def test_png_info_of_a_picture_without_any(stack: Stack) -> None:
    response = post(stack, "png-info", image=f"data:image/png;base64,{PICTURE}")
    assert response.json() == {"info": "", "items": {}, "parameters": {}}
    assert "image: " in refusal(post(stack, "png-info", image=base64.b64encode(b"text").decode()))


# --- lists ---


def listed(stack: Stack, name: str) -> Any:
    response = stack.client.get(f"/sdapi/v1/{name}")
    assert response.status_code == 200, response.text
    return response.json()


def test_what_is_loaded(stack: Stack) -> None:
    [model] = listed(stack, "sd-models")
    assert set(model) == {"title", "model_name", "hash", "sha256", "filename", "config"}
    names = [sampler["name"] for sampler in listed(stack, "samplers")]
    assert names == ["Euler", "Euler a", "DPM++ 2M"]
    for sampler in listed(stack, "samplers"):
        for name in (sampler["name"], *sampler["aliases"]):
            assert post(stack, "txt2img", sampler_name=name).status_code == 200
    for scheduler in listed(stack, "schedulers"):
        assert set(scheduler) == {"name", "label", "aliases", "default_rho", "need_inner_model"}
        assert post(stack, "txt2img", scheduler=scheduler["label"]).status_code == 200
    upscalers = listed(stack, "upscalers")
    assert [upscaler["name"] for upscaler in upscalers] == ["None", "Lanczos", "demo_x2"]
    for upscaler in upscalers:
        assert set(upscaler) == {"name", "model_name", "model_path", "model_url", "scale"}
        assert isinstance(upscaler["scale"], float)
        assert told(post(stack, "txt2img", enable_hr=True, hr_upscaler=upscaler["name"])) == []
    [lora] = listed(stack, "loras")
    assert (lora["name"], lora["alias"], lora["metadata"]) == (
        "sketch",
        "sketch",
        {"trigger_words": ["pencil sketch"]},
    )
    assert listed(stack, "face-restorers") == [{"name": "CodeFormer", "cmd_dir": None}]
    assert listed(stack, "realesrgan-models") == [{"name": "demo_x2", "path": None, "scale": 2}]


def test_what_there_is_not(stack: Stack) -> None:
    empty = ("latent-upscale-modes", "sd-vae", "sd-modules", "hypernetworks", "prompt-styles", "script-info")
    for name in empty:
        assert listed(stack, name) == []
    assert listed(stack, "scripts") == {"txt2img": [], "img2img": []}
    assert listed(stack, "embeddings") == {"loaded": {}, "skipped": {}}
    assert isinstance(listed(stack, "cmd-flags"), dict)
    for name in ("checkpoints", "vae", "loras"):
        response = stack.client.post(f"/sdapi/v1/refresh-{name}")
        assert (response.status_code, response.json()) == (200, None)


def test_memory(stack: Stack) -> None:
    memory = listed(stack, "memory")
    assert set(memory["ram"]) == {"free", "used", "total"} and memory["cuda"] == {"error": "unavailable"}
    stack.generator.status = {"vram_free_bytes": 3, "vram_total_bytes": 10, "process_memory_bytes": 5}
    memory = listed(stack, "memory")
    assert memory["cuda"]["system"] == {"free": 3, "used": 7, "total": 10} and memory["ram"]["used"] == 5


def test_what_clients_ask_for_around_it(stack: Stack) -> None:
    assert stack.client.head("/").status_code == 200
    assert stack.client.get("/internal/ping").json() == {}
    assert stack.client.get("/queue/status").json()["queue_size"] == 0
    assert stack.client.post("/login", data={"username": "x", "password": "y"}).json() == {"success": True}
    assert stack.client.post("/login").status_code == 200
    components = stack.client.get("/config").json()["components"]
    choices = {each["props"]["elem_id"]: each["props"]["choices"] for each in components}
    assert choices["setting_sd_lora"] == ["None", "sketch"]
    assert choices["txt2img_hr_upscaler"] == ["None", "Lanczos", "demo_x2"]


def test_a_generator_that_is_loading(stack: Stack) -> None:
    stack.generator.status = {"ready": False, "model_set": ""}
    response = stack.client.get("/sdapi/v1/sd-models")
    assert refusal(response, 503) and response.headers["Retry-After"]


def test_without_a_generator_photos_are_restored() -> None:
    with Stack(generator="none") as stack:
        for name in ("sd-models", "samplers", "schedulers", "loras", "realesrgan-models"):
            assert listed(stack, name) == []
        assert listed(stack, "options")["sd_model_checkpoint"] is None
        assert refusal(post(stack, "txt2img"), 501)
        assert post(stack, "extra-single-image", image=PICTURE, codeformer_visibility=1).status_code == 200
