"""AUTOMATIC1111's txt2img and img2img: what each field means to the services, is ignored or refused."""

from __future__ import annotations

import base64
from typing import Any

import pytest

from atelier.common.v1 import image_pb2
from atelier.generator.v1 import generator_service_pb2 as pb
from atelier_gateway.api.automatic1111.fields import IMG2IMG, TXT2IMG
from atelier_gateway.api.automatic1111.kinds import Only
from atelier_runtime.service_status import NetworkRole
from tests.contract.automatic1111 import PICTURE, SIDE, WIDE, drawings, drawn, info_of, post, refusal, told
from tests.contract.script import gradient, opened
from tests.contract.stack import Stack

INFO_KEYS = {
    *("prompt", "all_prompts", "negative_prompt", "all_negative_prompts", "seed", "all_seeds", "subseed"),
    *("all_subseeds", "width", "height", "sampler_name", "cfg_scale", "steps", "batch_size", "restore_faces"),
    *("face_restoration_model", "sd_model_name", "sd_model_hash", "denoising_strength"),
    *("extra_generation_params", "index_of_first_image", "infotexts", "styles", "job_timestamp", "clip_skip"),
    "version",
}


def test_a_prompt_alone_leaves_the_rest_to_the_model_set(stack: Stack) -> None:
    response = stack.client.post("/sdapi/v1/txt2img", json={"prompt": "a (red:1.2) apple"})
    assert told(response) == []
    [request] = drawings(stack)
    assert request.prompt == "a (red:1.2) apple"
    assert request.prompt_syntax == pb.PROMPT_SYNTAX_WEIGHTED
    unset = ("width_px", "height_px", "num_inference_steps", "guidance_scale", "sampler", "schedule", "seed")
    assert not [name for name in unset if request.HasField(name)]
    assert not stack.restorer.requests, "faces are not restored unless a client says so"


def test_null_is_a_default(stack: Stack) -> None:
    nulls: dict[str, Any] = {name: None for name in TXT2IMG if name not in ("prompt", "width", "height")}
    assert told(post(stack, "txt2img", **nulls)) == []
    assert not drawings(stack)[-1].HasField("num_inference_steps")


def test_the_answer(stack: Stack) -> None:
    response = post(stack, "txt2img", seed=7, batch_size=2, negative_prompt="blurry", steps=5, cfg_scale=4)
    answer, info = response.json(), info_of(response)
    assert set(answer) == {"images", "parameters", "info"}
    for encoded in answer["images"]:
        image = opened(base64.b64decode(encoded, validate=True))
        assert (image.format, image.size) == ("PNG", (SIDE, SIDE))
    assert answer["parameters"]["steps"] == 5 and answer["parameters"]["enable_hr"] is False
    assert set(TXT2IMG) <= set(answer["parameters"])
    assert set(info) >= INFO_KEYS
    assert (info["seed"], info["all_seeds"], info["all_subseeds"]) == (7, [7, 8], [-1, -1])
    assert info["all_prompts"] == ["a red apple"] * 2 and info["all_negative_prompts"] == ["blurry"] * 2
    assert (info["width"], info["height"], info["steps"], info["cfg_scale"]) == (SIDE, SIDE, 5, 4)
    assert info["sampler_name"] == "Euler" and info["sd_model_name"] == "demo"
    for seed, text in zip((7, 8), info["infotexts"], strict=True):
        lines = text.split("\n")
        assert lines[:2] == ["a red apple", "Negative prompt: blurry"]
        assert (
            lines[2].startswith("Steps: 5, Sampler: Euler, ") and f"Seed: {seed}, Size: 256x256" in lines[2]
        )


@pytest.mark.parametrize(
    ("body", "field", "value"),
    [
        ({"steps": "12"}, "num_inference_steps", 12),
        ({"steps": 12.0}, "num_inference_steps", 12),
        ({"steps": "12.0"}, "num_inference_steps", 12),
        ({"cfg_scale": "4.5"}, "guidance_scale", 4.5),
        ({"width": "512"}, "width_px", 512),
        ({"seed": "9007199254740991"}, "seed", 2**53 - 1),
        ({"sampler_name": "Euler a"}, "sampler", "Euler a"),
        ({"sampler_index": "Euler a"}, "sampler", "Euler a"),
        ({"sampler_name": "DPM++ 2M", "sampler_index": "Euler a"}, "sampler", "DPM++ 2M"),
        ({"scheduler": "Karras"}, "schedule", "Karras"),
        ({"batch_size": 2, "n_iter": "3"}, "num_images", 6),
        ({"negative_prompt": ""}, "negative_prompt", ""),
        ({"prompt": ""}, "prompt", " "),
        ({"override_settings": {"show_progress_every_n_steps": 3}}, "preview_interval_steps", 3),
    ],
)
def test_values_that_clients_send(stack: Stack, body: dict[str, Any], field: str, value: Any) -> None:
    assert getattr(drawn(stack, **body), field) == value


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"seed": -1}, "seed"),
        ({"seed": "-1"}, "seed"),
        ({"scheduler": "automatic"}, "schedule"),
        ({"scheduler": "Automatic"}, "schedule"),
        ({"override_settings": {"show_progress_every_n_steps": -1}}, "preview_interval_steps"),
    ],
)
def test_values_that_leave_it_open(stack: Stack, body: dict[str, Any], field: str) -> None:
    assert not drawn(stack, **body).HasField(field)


@pytest.mark.parametrize(
    ("body", "size", "told_names"),
    [
        ({}, (512, 512), []),
        ({"hr_scale": 1.5}, (384, 384), []),
        ({"hr_scale": "1.3"}, (328, 328), []),  # 332.8 rounded down
        ({"hr_resize_x": 512}, (512, 512), []),
        ({"hr_resize_x": 400, "hr_resize_y": 320}, (400, 320), []),
        ({"hr_resize_x": 256, "hr_resize_y": 512}, (256, 512), []),
        ({"hr_scale": 1}, (256, 256), []),
        ({"hr_upscaler": "Latent (nearest-exact)"}, (512, 512), ["hr_upscaler"]),
        ({"hr_upscaler": "R-ESRGAN 4x+"}, (512, 512), ["hr_upscaler"]),
        ({"hr_upscaler": "demo_x2"}, (512, 512), []),
    ],
)
def test_a_second_pass(
    stack: Stack, body: dict[str, Any], size: tuple[int, int], told_names: list[str]
) -> None:
    response = post(stack, "txt2img", enable_hr=True, steps=8, **body)
    assert told(response) == told_names
    [request] = drawings(stack)
    hires = request.hires_pass
    assert (hires.width_px, hires.height_px) == size
    assert (round(hires.strength, 4), hires.num_inference_steps) == (0.75, 8)
    assert not request.HasField("use_upscaler") or request.use_upscaler


@pytest.mark.parametrize(
    ("name", "is_told"), [("None", False), ("Lanczos", False), ("lanczos", False), ("Nearest", True)]
)
def test_a_second_pass_with_lanczos(stack: Stack, name: str, is_told: bool) -> None:
    response = post(stack, "txt2img", enable_hr=True, hr_upscaler=name, denoising_strength=0.4)
    assert told(response) == ["hr_upscaler"] * is_told
    [request] = drawings(stack)
    assert request.use_upscaler is False and round(request.hires_pass.strength, 4) == 0.4
    assert request.hires_pass.num_inference_steps == 30, "the model set's own"


def test_without_enable_hr_its_fields_have_no_effect(stack: Stack) -> None:
    body = {"hr_scale": 3, "hr_upscaler": "SwinIR 4x", "hr_prompt": "x", "denoising_strength": 0.7}
    assert told(post(stack, "txt2img", **body)) == []
    assert not drawings(stack)[-1].HasField("hires_pass")


def test_faces_are_restored_where_a_client_says_so(stack: Stack) -> None:
    response = post(stack, "txt2img", restore_faces="true", override_settings={"code_former_weight": "0.25"})
    assert stack.restorer.requests[-1].fidelity == 0.25
    info = info_of(response)
    assert (info["restore_faces"], info["face_restoration_model"]) == (True, "CodeFormer")
    assert info["faces"] == [{"found": 1, "restored": 1}]
    assert told(
        post(stack, "txt2img", restore_faces=True, override_settings={"face_restoration_model": "GFPGAN"})
    ) == ["face_restoration_model"]
    assert stack.restorer.requests[-1].fidelity == 0.5, "as that web UI has it"


def test_a_refiner_by_its_name(stack: Stack) -> None:
    stack.generator.networks[NetworkRole.REFINER] = "demo-refiner"
    assert not drawn(stack).HasField("use_refiner"), "the loaded one, if there is one"
    for none in ("None", "none", "", " "):
        assert drawn(stack, refiner_checkpoint=none).use_refiner is False
        assert drawn(stack, refiner_checkpoint=none, refiner_switch_at=0.8).use_refiner is False
    assert drawn(stack, refiner_switch_at=1).use_refiner is False, "as Cyanic sends it"
    request = drawn(stack, refiner_checkpoint="demo-refiner", refiner_switch_at="0.75")
    assert request.use_refiner and round(request.refiner_strength, 5) == 0.25
    assert drawn(stack, refiner_checkpoint="demo", refiner_switch_at=1).use_refiner is False
    response = post(stack, "txt2img", refiner_switch_at=0.8)
    assert told(response) == ["refiner_switch_at"], "without a checkpoint there is nothing to switch to"
    assert "demo-refiner is" in refusal(post(stack, "txt2img", refiner_checkpoint="sd_xl_refiner_1.0"))
    error = refusal(post(stack, "txt2img", refiner_checkpoint="demo", refiner_switch_at=0.99))
    assert error.startswith("refiner_switch_at: must be at most 0.95")


def test_formats(stack: Stack) -> None:
    for given, image_format in (("jpg", "JPEG"), ("webp", "WEBP"), ("png", "PNG")):
        response = post(stack, "txt2img", override_settings={"samples_format": given, "jpeg_quality": 50})
        assert opened(base64.b64decode(response.json()["images"][0])).format == image_format
        assert drawings(stack)[-1].output.quality == 50
    error = refusal(post(stack, "txt2img", override_settings={"samples_format": "avif"}))
    assert error.startswith("override_settings.samples_format: ") and '"avif"' in error


def test_pictures_that_nobody_wants(stack: Stack) -> None:
    response = post(stack, "txt2img", send_images=False)
    assert response.json()["images"] == [] and len(info_of(response)["infotexts"]) == 1


# --- img2img ---


def test_a_picture_to_start_from(stack: Stack) -> None:
    request = drawn(stack, "img2img", init_images=[f"data:image/png;base64,{PICTURE}"])
    assert request.image == base64.b64decode(PICTURE)
    assert round(request.strength, 4) == 0.75 and not request.mask
    assert round(drawn(stack, "img2img", denoising_strength="0.3").strength, 4) == 0.3
    own = stack.client.post("/sdapi/v1/img2img", json={"init_images": [WIDE]})
    assert own.status_code == 200 and not drawings(stack)[-1].HasField("width_px")
    parameters = own.json()["parameters"]
    assert parameters["init_images"] is None and parameters["mask"] is None


def test_a_mask(stack: Stack) -> None:
    request = drawn(stack, "img2img", mask=PICTURE, inpainting_fill=1, inpaint_full_res=False)
    assert (request.mask_kind, request.mask_blur_px) == (pb.MASK_KIND_WHITE, 4)
    response = post(stack, "img2img", mask=PICTURE, inpainting_mask_invert=1, mask_blur="8")
    assert told(response) == ["inpainting_fill", "inpaint_full_res"], (
        "left out, they mean another thing there"
    )
    request = drawings(stack)[-1]
    assert (request.mask_kind, request.mask_blur_px) == (pb.MASK_KIND_BLACK, 8)
    response = post(stack, "img2img", mask=PICTURE, inpainting_fill=0, inpaint_full_res=True, mask_blur=0)
    assert told(response) == ["inpainting_fill", "inpaint_full_res"]
    assert "mask_blur_x" in refusal(post(stack, "img2img", mask=PICTURE, mask_blur_x=2))
    assert "restore_faces" in refusal(post(stack, "img2img", mask=PICTURE, restore_faces=True))


@pytest.mark.parametrize(
    ("mode", "picture", "is_told"),
    [
        (None, PICTURE, False),
        (None, WIDE, True),
        (0, PICTURE, False),
        (0, WIDE, True),
        (1, WIDE, False),
        ("2", WIDE, True),
        (3, WIDE, True),
    ],
)
def test_pictures_of_another_shape_are_cropped(stack: Stack, mode: Any, picture: str, is_told: bool) -> None:
    response = post(stack, "img2img", init_images=[picture], resize_mode=mode)
    assert told(response) == ["resize_mode"] * is_told


# --- ignored and refused ---


def test_what_is_ignored_is_told(stack: Stack) -> None:
    body = {"save_images": True, "eta": 0.5, "clip_skip": 2, "foo": "x", "bar": None}
    assert told(post(stack, "txt2img", **body)) == ["save_images", "eta", "clip_skip", "foo"]
    override = {"CLIP_stop_at_last_layers": 2, "sd_vae": "x.pt", "unknown": 1, "eta_noise_seed_delta": 0}
    names = ["CLIP_stop_at_last_layers", "sd_vae", "unknown"]
    response = post(stack, "txt2img", override_settings=override)
    assert told(response) == [f"override_settings.{name}" for name in names]
    strange = {"half \ud800": "\udfff", "large": 10**40, "nested": [{"deep": "x" * 70_000}]}
    response = post(stack, "txt2img", **strange)
    assert told(response)[1:] == ["large", "nested"]
    assert response.json()["parameters"]["large"] == 10**40
    assert response.json()["parameters"]["nested"] == [{"deep": None}], "as long as a picture"
    harmless: dict[str, Any] = {
        "save_images": False,
        "eta": 1.0,
        "do_not_save_grid": True,
        "s_tmax": 0,
        "subseed": 5,
    }
    assert told(post(stack, "txt2img", **harmless)) == []


@pytest.mark.parametrize(("eta", "is_told"), [(0, False), (1, True), (None, False)])
def test_eta_with_ddim(stack: Stack, eta: Any, is_told: bool) -> None:
    assert told(post(stack, "txt2img", sampler_name="DDIM", eta=eta)) == ["eta"] * is_told


@pytest.mark.parametrize("table", [TXT2IMG, IMG2IMG], ids=["txt2img", "img2img"])
def test_every_refused_field_is_refused_by_name(stack: Stack, table: dict[str, Any]) -> None:
    path = "txt2img" if table is TXT2IMG else "img2img"
    refused = [field for field in table.values() if field.treatment == "refused"]
    assert len(refused) > 10
    for field in refused:
        assert isinstance(field.kind, Only)
        value: Any = ["some"] if field.kind.of_list else 77
        assert refusal(post(stack, path, **{field.name: value})).startswith(f"{field.name}: {field.meaning}")
        harmless: list[Any] = [None, *([[]] if field.kind.of_list else field.kind.values)]
        for value in harmless:
            assert told(post(stack, path, **{field.name: value})) == []


@pytest.mark.parametrize(
    ("body", "part"),
    [
        ({"alwayson_scripts": {"ADetailer": {"args": [True, {"ad_model": "face_yolov8n.pt"}]}}}, "ADetailer"),
        ({"alwayson_scripts": {"ControlNet": {"args": [{"enabled": True}]}}}, "alwayson_scripts.ControlNet"),
        ({"alwayson_scripts": {"reactor": {"args": ["data:image/png;base64,", True]}}}, "reactor"),
        ({"batch_size": 4, "n_iter": 3}, "n_iter: batch_size 4 x n_iter 3 = 12 pictures, the limit is 10"),
        ({"steps": 151}, "steps: must be an integer from 1 to 150, not 151"),
        ({"steps": True}, "steps: "),
        ({"cfg_scale": "nan"}, "cfg_scale: "),
        ({"width": 511}, "width: must be an integer from 256 to 2048 and a multiple of 8"),
        ({"prompt": "x" * 2001}, "prompt: must be a string of 0 to 2000 characters, not 2001 characters"),
        ({"prompt": "\ud800"}, "prompt: contains half of a surrogate pair"),
        ({"enable_hr": True, "hr_upscaler": "SwinIR 4x"}, "hr_upscaler: must be None, Lanczos or demo_x2"),
        ({"enable_hr": True, "hr_prompt": "another"}, "hr_prompt: "),
        ({"enable_hr": True, "hr_sampler_name": "Heun"}, "hr_sampler_name: "),
        ({"enable_hr": True, "hr_checkpoint_name": "x"}, "hr_checkpoint_name: is not loaded; demo"),
        (
            {"enable_hr": True, "width": 512, "height": 512, "hr_resize_x": 256, "hr_resize_y": 320},
            "hr_resize_x: the second pass would have 256 x 320 px, less than the first: 512 x 512",
        ),
        (
            {"enable_hr": True, "width": 512, "height": 512, "hr_resize_y": 504},
            "hr_resize_y: the second pass",
        ),
        ({"enable_hr": True, "hr_scale": 8, "width": 1024}, "hr_scale: the second pass would have 8192 x"),
        (
            {"override_settings": {"sd_model_checkpoint": "x"}},
            "override_settings.sd_model_checkpoint: is not",
        ),
        ({"override_settings": {"code_former_weight": 2}}, "override_settings.code_former_weight: "),
        ({"seed": 2**53 - 1, "batch_size": 2}, "seed: "),
    ],
)
def test_what_cannot_be_done_is_refused(stack: Stack, body: dict[str, Any], part: str) -> None:
    data = post(stack, "txt2img", **body)
    assert part in refusal(data)
    assert not drawings(stack)


@pytest.mark.parametrize(
    "script",
    [{}, {"args": []}, {"args": [False]}, {"args": [False, {"x": 1}]}, {"args": [{"enabled": False}]}],
)
def test_scripts_that_are_off(stack: Stack, script: dict[str, Any]) -> None:
    assert told(post(stack, "txt2img", alwayson_scripts={"ADetailer": script})) == []


@pytest.mark.parametrize("name", ["demo", "demo.safetensors", "DEMO", "", None])
def test_the_loaded_model_may_be_named(stack: Stack, name: Any) -> None:
    assert told(post(stack, "txt2img", override_settings={"sd_model_checkpoint": name})) == []


def test_a_model_by_its_title_and_hash(stack: Stack) -> None:
    digest = "0123456789abcdef" * 4
    stack.generator.status = {"model_set_hash": digest}
    [listed] = stack.client.get("/sdapi/v1/sd-models").json()
    assert (listed["title"], listed["hash"], listed["sha256"]) == ("demo [0123456789]", "0123456789", digest)
    for name in ("demo [0123456789]", "0123456789", digest):
        assert post(stack, "txt2img", override_settings={"sd_model_checkpoint": name}).status_code == 200
    wrong = post(stack, "txt2img", override_settings={"sd_model_checkpoint": "demo [9876543210]"})
    assert "is not loaded; demo [0123456789] is" in refusal(wrong)


def test_restored_files_are_encoded_by_the_restorer(stack: Stack) -> None:
    post(stack, "txt2img", restore_faces=True, override_settings={"samples_format": "webp"})
    assert drawings(stack)[-1].output.format == image_pb2.IMAGE_FORMAT_RAW_RGB8
    assert stack.restorer.requests[-1].output.format == image_pb2.IMAGE_FORMAT_WEBP


def test_the_gradient_is_what_was_drawn(stack: Stack) -> None:
    image = opened(base64.b64decode(post(stack, "txt2img").json()["images"][0]))
    assert image.tobytes() == gradient(SIDE, SIDE).tobytes()
