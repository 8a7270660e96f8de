"""The real webuiapi (mix1009/sdwebuiapi) against three processes with the demo models."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import webuiapi
from PIL import Image, ImageChops

from atelier_gateway.http.ignored import IGNORED_HEADER
from tests.dialects.photographs import photograph
from tests.processes import Atelier, wait_for

SIDE = 256
SMALL: dict[str, Any] = {"width": SIDE, "height": SIDE, "steps": 2, "seed": 3}


@pytest.fixture
def api(atelier: Atelier) -> webuiapi.WebUIApi:
    """A client that changed nothing but the address; the key tells its options from those of other tests."""
    found = webuiapi.WebUIApi(baseurl=f"{atelier.url}/sdapi/v1", sampler="Euler a")
    found.set_auth("webuiapi", "secret")
    return found


@pytest.fixture
def quick_previews(api: webuiapi.WebUIApi) -> Iterator[None]:
    api.set_options({"show_progress_every_n_steps": 1})
    yield
    api.set_options({"show_progress_every_n_steps": None})


def test_txt2img(api: webuiapi.WebUIApi) -> None:
    result = api.txt2img(prompt="a (red:1.2) apple BREAK on a table", batch_size=2, **SMALL)
    assert [image.size for image in result.images] == [(SIDE, SIDE)] * 2
    assert result.info["all_seeds"] == [3, 4]
    assert (result.info["seed"], result.info["steps"], result.info["cfg_scale"]) == (3, 2, 7.0)
    assert result.info["sampler_name"] == "Euler a" and result.info["sd_model_name"]
    assert len(result.info["sd_model_hash"]) == 10
    assert result.parameters["prompt"] == "a (red:1.2) apple BREAK on a table"
    again = api.txt2img(prompt="a (red:1.2) apple BREAK on a table", batch_size=2, **SMALL)
    assert [image.tobytes() for image in again.images] == [image.tobytes() for image in result.images]
    assert len(api.txt2img(**SMALL).images) == 1, "an empty prompt"


def test_txt2img_with_enable_hr_and_restore_faces(api: webuiapi.WebUIApi) -> None:
    result = api.txt2img(
        prompt="portrait of a woman",
        enable_hr=True,
        hr_scale=1.5,
        hr_upscaler=webuiapi.HiResUpscaler.Lanczos,
        restore_faces=True,
        override_settings={"face_restoration_model": "CodeFormer", "code_former_weight": 0.3},
        **SMALL,
    )
    assert result.image.size == (384, 384)
    info = result.info
    assert (info["width"], info["height"], info["denoising_strength"]) == (384, 384, 0.4)
    assert (info["restore_faces"], info["face_restoration_model"]) == (True, "CodeFormer")
    assert "Hires resize: 384x384" in info["infotexts"][0]


def test_img2img(api: webuiapi.WebUIApi) -> None:
    source = photograph().resize((SIDE, SIDE))
    result = api.img2img([source], prompt="a painting", denoising_strength=0.5, **SMALL)
    assert result.image.size == (SIDE, SIDE) and result.info["denoising_strength"] == 0.5
    assert ImageChops.difference(result.image.convert("RGB"), source).getbbox() is not None


def test_a_mask(api: webuiapi.WebUIApi) -> None:
    source = photograph().resize((SIDE, SIDE))
    mask = Image.new("L", source.size, 0)
    mask.paste(255, (0, 0, SIDE // 2, SIDE))
    options = {
        "prompt": "a painting",
        "mask_blur": 0,
        "inpainting_fill": 1,
        "inpaint_full_res": False,
        **SMALL,
    }
    left = api.img2img([source], mask_image=mask, **options).image.convert("RGB")
    right = api.img2img([source], mask_image=mask, inpainting_mask_invert=1, **options).image.convert("RGB")
    halves = (0, 0, SIDE // 2, SIDE), (SIDE // 2, 0, SIDE, SIDE)
    for drawn, (anew, kept) in ((left, halves), (right, reversed(halves))):
        difference = ImageChops.difference(drawn, source)
        assert difference.crop(kept).getbbox() is None, "what is kept is the source to the bit"
        assert difference.crop(anew).getbbox() is not None


def test_what_it_always_sends_is_known(api: webuiapi.WebUIApi) -> None:
    told: list[list[str]] = []
    api.session.hooks["response"].append(
        lambda answer, **_: told.append(answer.headers.get(IGNORED_HEADER, "").split(", "))
    )
    source = photograph().resize((SIDE, SIDE))
    api.txt2img(prompt="x", **SMALL)
    api.img2img([source], prompt="x", **SMALL)
    api.img2img([source], mask_image=source.convert("L"), prompt="x", **SMALL)
    api.extra_single_image(source)
    refiner = "refiner_checkpoint"  # the set's own, which the client does not ask for
    assert told[0] == [refiner] and told[3] == [""]
    assert [name for name in told[1] if name != refiner] in ([], [""])
    assert [name for name in told[2] if name != refiner] == ["inpainting_fill", "inpaint_full_res"]


def test_extra_single_image_with_codeformer(api: webuiapi.WebUIApi) -> None:
    source = photograph()
    result = api.extra_single_image(source, codeformer_visibility=1, codeformer_weight=0.5)
    assert result.image.size == source.size
    assert "CodeFormer weight: 0.5" in result.info
    assert ImageChops.difference(result.image.convert("RGB"), source).getbbox() is not None
    nothing = api.extra_single_image(source)
    assert ImageChops.difference(nothing.image.convert("RGB"), source).getbbox() is None
    upscaled = api.extra_single_image(source, upscaler_1=webuiapi.Upscaler.Lanczos, upscaling_resize=2)
    assert upscaled.image.size == (2 * source.width, 2 * source.height)
    batch = api.extra_batch_images([source, source], codeformer_visibility=1, codeformer_weight=0.5)
    assert [image.tobytes() for image in batch.images] == [result.image.tobytes()] * 2


def test_png_info(api: webuiapi.WebUIApi) -> None:
    drawn = api.txt2img(prompt="a red apple", negative_prompt="blurry", **SMALL)
    assert drawn.image.info["parameters"] == drawn.info["infotexts"][0]
    answer = api.png_info(drawn.image)
    assert answer.info == drawn.info["infotexts"][0]
    assert set(answer.json) == {"info", "items", "parameters"}
    parameters = answer.parameters
    assert (parameters["Prompt"], parameters["Negative prompt"]) == ("a red apple", "blurry")
    assert (parameters["Steps"], parameters["Seed"], parameters["Sampler"]) == ("2", "3", "Euler a")
    for samples_format in ("jpg", "webp"):
        other = api.txt2img(
            prompt="a red apple", override_settings={"samples_format": samples_format}, **SMALL
        )
        found = api.custom_post("sdapi/v1/png-info", payload={"image": other.json["images"][0]})
        assert found.info == other.info["infotexts"][0]


def test_options(api: webuiapi.WebUIApi, atelier: Atelier) -> None:
    other = webuiapi.WebUIApi(baseurl=f"{atelier.url}/sdapi/v1")
    api.set_options({"samples_format": "jpg", "code_former_weight": 0.2})
    try:
        assert api.get_options()["samples_format"] == "jpg"
        assert api.txt2img(prompt="x", **SMALL).image.format == "JPEG"
        assert other.get_options()["samples_format"] == "png"
        assert other.txt2img(prompt="x", **SMALL).image.format == "PNG"
    finally:
        api.set_options({"samples_format": None, "code_former_weight": None})
    assert api.get_options() == other.get_options()


def test_the_lists(api: webuiapi.WebUIApi) -> None:
    assert "Euler a" in api.util_get_sampler_names() and "karras" in api.util_get_scheduler_names()
    assert {"None", "Lanczos"} <= {upscaler["name"] for upscaler in api.get_upscalers()}
    assert [each["name"] for each in api.get_face_restorers()] == ["CodeFormer"]
    assert api.get_memory()["ram"]["used"] > 0 and api.get_cmd_flags()["api"] is True
    assert api.get_scripts() == {"txt2img": [], "img2img": []}
    for empty in (api.get_hypernetworks(), api.get_prompt_styles(), api.get_sd_vae()):
        assert empty == []
    assert api.refresh_checkpoints() is None


def test_util_set_model(api: webuiapi.WebUIApi) -> None:
    [title] = api.util_get_model_names()
    api.util_set_model("something near it")
    assert api.util_get_current_model() == title
    assert api.set_options({"sd_model_checkpoint": "another"})["error"] == "InvalidRequest"


def test_util_wait_for_ready(api: webuiapi.WebUIApi) -> None:
    api.util_wait_for_ready(check_interval=0.1)


class Drawing:
    """A long drawing in a thread of its own."""

    def __init__(self, api: webuiapi.WebUIApi) -> None:
        self.result: Any = None
        self._api = api
        self._thread = threading.Thread(target=self._draw)
        self._thread.start()

    def _draw(self) -> None:
        self.result = self._api.txt2img(prompt="a red apple", **SMALL | {"steps": 150})

    def join(self) -> None:
        self._thread.join(timeout=120)
        assert not self._thread.is_alive()


@pytest.mark.usefixtures("quick_previews")
def test_progress_from_a_second_thread_and_interrupt(api: webuiapi.WebUIApi, atelier: Atelier) -> None:
    second = webuiapi.WebUIApi(baseurl=f"{atelier.url}/sdapi/v1")
    second.set_auth("webuiapi", "secret")
    drawing = Drawing(api)
    found: dict[str, Any] = {}

    def has_begun() -> bool:
        found.update(second.get_progress())
        return bool(found["current_image"])

    wait_for(has_begun, timeout_s=60)
    assert 0 < found["progress"] < 1 and found["eta_relative"] > 0
    state = found["state"]
    assert (state["job"], state["job_count"]) == ("txt2img", 1)
    assert 0 < state["sampling_step"] <= state["sampling_steps"] == 150
    assert second.interrupt() == {}
    drawing.join()
    assert drawing.result.images == [] and drawing.result.info["interrupted"] is True
    second.util_wait_for_ready(check_interval=0.1)
    assert len(api.txt2img(prompt="a red apple", **SMALL).images) == 1, "the device is free again"


def test_another_callers_interrupt_changes_nothing(api: webuiapi.WebUIApi, atelier: Atelier) -> None:
    other = webuiapi.WebUIApi(baseurl=f"{atelier.url}/sdapi/v1")
    results: list[Any] = []
    drawing = threading.Thread(
        target=lambda: results.append(api.txt2img(prompt="a red apple", **SMALL | {"steps": 20}))
    )
    drawing.start()
    wait_for(lambda: bool(api.get_progress()["state"]["job_count"]) or not drawing.is_alive(), timeout_s=60)
    assert other.interrupt() == {} and other.skip() == {}
    drawing.join(timeout=120)
    assert len(results[0].images) == 1


def test_errors_say_what_is_wrong(api: webuiapi.WebUIApi) -> None:
    for options, status, part in (
        ({"tiling": True}, 422, "tiling: pictures that tile are not supported"),
        ({"styles": ["Cinematic"]}, 422, "styles: there are no prompt styles"),
        ({"subseed_strength": 0.5}, 422, "subseed_strength: "),
        ({"sampler_name": "PLMS"}, 400, 'sampler_name: "PLMS" is not found; it must be one of Euler'),
        ({"adetailer": [webuiapi.ADetailer("face_yolov8n.pt")]}, 422, "alwayson_scripts.ADetailer"),
        ({"controlnet_units": [webuiapi.ControlNetUnit()]}, 422, "alwayson_scripts.ControlNet"),
        ({"script_name": "X/Y/Z plot"}, 422, "script_name: there are no scripts"),
    ):
        with pytest.raises(RuntimeError) as error:
            api.txt2img(prompt="x", **{"alwayson_scripts": {}, **SMALL, **options})
        assert error.value.args[0] == status
        assert part in json.loads(error.value.args[1])["detail"], options
