"""Edits: an image with a mask or without, as forms and as JSON."""

from __future__ import annotations

import base64
import io
from typing import Any

import pytest
from PIL import Image

from atelier.generator.v1 import generator_service_pb2 as pb
from tests.contract.openai_client import EDITS, IMAGE, MASK, answer, drawn, events_in, picture, refused, sdk
from tests.contract.script import file_of, gradient
from tests.contract.stack import Stack

BASE64 = base64.b64encode(IMAGE).decode()
DATA_URL = f"data:image/png;base64,{BASE64}"
IMAGE_FILE = ("a.png", IMAGE, "image/png")
MASK_FILE = ("m.webp", MASK, "image/webp")


def edit(stack: Stack, **body: Any) -> Any:
    return stack.client.post(EDITS, json={"prompt": "x", **body})


def form(stack: Stack, files: list[tuple[str, Any]], **fields: str) -> Any:
    return stack.client.post(EDITS, data={"prompt": "x", **fields}, files=files)


def test_a_mask_is_transparent_where_the_image_is_drawn_anew(stack: Stack) -> None:
    content = answer(form(stack, [("image", IMAGE_FILE), ("mask", MASK_FILE)], size="256x256", seed="3"))
    request = drawn(stack)
    assert (request.image, request.mask) == (IMAGE, MASK)
    assert request.mask_kind == pb.MASK_KIND_TRANSPARENT
    assert content["data"][0]["seed"] == 3 and content["data"][0]["faces"] == []
    assert stack.restorer.requests == [], "outside of the mask nothing changes"


def test_without_a_mask_all_of_the_image_is_drawn_anew(stack: Stack) -> None:
    answer(form(stack, [("image", IMAGE_FILE)], size="256x256", strength="0.25"))
    request = drawn(stack)
    assert request.image == IMAGE and not request.HasField("mask") and request.strength == 0.25
    assert request.mask_kind == pb.MASK_KIND_UNSPECIFIED


def test_the_size_is_the_images_own(stack: Stack) -> None:
    usage = answer(form(stack, [("image", ("a.png", file_of(gradient(300, 257)), "image/png"))]))["usage"]
    assert not drawn(stack).HasField("width_px") and not drawn(stack).HasField("hires_pass")
    assert usage["input_tokens_details"]["image_tokens"] == 19 * 17
    details = usage["input_tokens_details"]
    assert usage["input_tokens"] == details["text_tokens"] + details["image_tokens"]
    assert usage["total_tokens"] == usage["input_tokens"] + usage["output_tokens"]


def photo(width: int, height: int, orientation: int = 1) -> bytes:
    file = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.new("RGB", (width, height), "gray").save(file, "jpeg", exif=exif)
    return file.getvalue()


@pytest.mark.parametrize(
    ("file", "size"),
    [
        (photo(3000, 2000), (2048, 1368)),
        (photo(3000, 2000, orientation=6), (1368, 2048)),
        (photo(1500, 2056), (1496, 2048)),
        (photo(128, 100), (328, 256)),
    ],
)
@pytest.mark.parametrize("response_format", ["b64_json", "url"])
def test_a_photo_that_is_too_large_is_resized(
    stack: Stack, file: bytes, size: tuple[int, int], response_format: str
) -> None:
    files = [("image", ("a.jpg", file, "image/jpeg"))]
    response = form(stack, files, size="auto", response_format=response_format, use_face_restoration="false")
    content = answer(response)
    assert (drawn(stack).width_px, drawn(stack).height_px) == size and drawn(stack).image == file
    assert content["size"] == f"{size[0]}x{size[1]}"
    assert response.headers["x-atelier-warnings"] == "size_limited"
    assert content["warning_codes"] == ["size_limited"] and content["size"] in content["warnings"][0]


def test_a_resized_photo_is_told_in_events(stack: Stack) -> None:
    response = form(stack, [("image", ("a.jpg", photo(2600, 2600), "image/jpeg"))], stream="true")
    assert events_in(response)[0][1]["warning_codes"] == ["size_limited"]
    assert response.headers["x-atelier-warnings"] == "size_limited"


def test_a_shape_that_cannot_be_drawn(stack: Stack) -> None:
    response = form(stack, [("image[]", ("a.jpg", photo(3000, 200), "image/jpeg"))])
    assert refused(response) == ("image[]", "invalid_value")
    message = response.json()["error"]["message"]
    assert "3000x200" in message and "give a size" in message and "width" not in message


def test_the_limit_of_pixels_names_what_was_sent(stack: Stack) -> None:
    response = form(stack, [("image", ("a.jpg", photo(3000, 2000), "image/jpeg"))], upscale="4", n="2")
    assert refused(response) == ("n", "invalid_value") and "width" not in response.text


@pytest.mark.parametrize(
    ("set_steps", "body", "strength"),
    [
        (30, {}, None),
        (30, {"steps": 1}, 1.0),
        (30, {"steps": 2}, None),
        (30, {"steps": 1, "strength": 0.5}, 0.5),
        (1, {}, 1.0),
        (3, {"quality": "low"}, 1.0),
        (1, {"mask": BASE64}, 1.0),
    ],
)
def test_few_steps_draw_all_of_the_image_anew(
    set_steps: int, body: dict[str, Any], strength: float | None
) -> None:
    with Stack() as stack:
        stack.generator.set_steps = set_steps
        answer(edit(stack, image=BASE64, size="256x256", **body))
        assert (drawn(stack).strength if drawn(stack).HasField("strength") else None) == strength


@pytest.mark.parametrize(("quality", "steps"), [("low", 15), ("high", 0), ("max", 60)])
def test_edits_have_no_second_pass(stack: Stack, quality: str, steps: int) -> None:
    answer(form(stack, [("image", IMAGE_FILE)], size="512x512", quality=quality))
    assert not drawn(stack).HasField("hires_pass") and drawn(stack).num_inference_steps == steps


def test_texts_of_a_form_become_what_they_stand_for(stack: Stack) -> None:
    response = form(
        stack,
        [("image", IMAGE_FILE), ("mask", MASK_FILE)],
        **{
            "n": "2",
            "size": "256x256",
            "stream": "False",
            "partial_images": "0",
            "output_format": "jpeg",
            "output_compression": "80",
            "guidance_scale": "4.5",
            "use_refiner": "false",
            "loras": '[{"name": "sketch"}]',
            "input_fidelity": "high",
            "user": "",
            "background": "auto",
            "extra_body[num_inference_steps]": "4",
        },
    )
    content = answer(response)
    assert [picture(each["b64_json"]).format for each in content["data"]] == ["JPEG", "JPEG"]
    request = drawn(stack)
    assert (request.num_images, request.guidance_scale, request.use_refiner) == (2, 4.5, False)
    assert (request.output.quality, request.num_inference_steps) == (80, 4)
    assert [lora.name for lora in request.loras] == ["sketch"]
    assert response.headers["x-atelier-ignored"] == "input_fidelity"


@pytest.mark.parametrize(
    "pictures",
    [
        {"image": BASE64},
        {"image": DATA_URL, "mask": DATA_URL},
        {"image": [DATA_URL], "mask": {"image_url": DATA_URL}},
        {"images": [{"image_url": DATA_URL}]},
        {"extra_body": {"image": BASE64}},
    ],
)
def test_images_in_json(stack: Stack, pictures: dict[str, Any]) -> None:
    answer(edit(stack, size="256x256", **pictures))
    assert drawn(stack).image == IMAGE
    assert drawn(stack).HasField("mask") is ("mask" in pictures)


def test_a_list_of_one_file(stack: Stack) -> None:
    answer(form(stack, [("image[]", IMAGE_FILE)], size="256x256"))
    assert drawn(stack).image == IMAGE
    sdk(stack.url).images.edit(image=[IMAGE], prompt="x", size="256x256")
    assert drawn(stack).image == IMAGE


@pytest.mark.parametrize("name", ["image", "image[]"])
def test_several_images_are_refused(stack: Stack, name: str) -> None:
    response = form(stack, [(name, IMAGE_FILE), (name, IMAGE_FILE), (name, IMAGE_FILE)])
    assert refused(response) == (name, "unsupported_value")
    message = response.json()["error"]["message"]
    assert "3 images" in message and "the limit is 1" in message


@pytest.mark.parametrize(
    ("body", "param", "code"),
    [
        ({}, "image", "missing_required_parameter"),
        ({"image": []}, "image", "missing_required_parameter"),
        ({"image": "not base64!"}, "image", "invalid_value"),
        ({"image": 5}, "image", "invalid_value"),
        ({"image": "https://example.com/a.png"}, "image", "unsupported_value"),
        ({"image": [BASE64, BASE64]}, "image", "unsupported_value"),
        ({"images": [{"file_id": "file-1"}]}, "images", "unsupported_value"),
        ({"images": [{"image_url": "http://example.com/a.png"}]}, "images", "unsupported_value"),
        ({"images": [BASE64]}, "images", "invalid_type"),
        ({"images": [{"image_url": DATA_URL}], "image": BASE64}, "images", "invalid_value"),
        ({"image": BASE64, "mask": {"file_id": "file-1"}}, "mask", "unsupported_value"),
        ({"image": BASE64, "mask": "?"}, "mask", "invalid_value"),
        ({"image": BASE64, "markup": BASE64}, "markup", "unsupported_parameter"),
        ({"image": BASE64, "hires_fix": True}, "hires_fix", "invalid_value"),
        ({"image": BASE64, "width": 256}, "height", "invalid_value"),
        ({"image": BASE64, "mask_kind": "transparent"}, "mask_kind", "invalid_value"),
        (
            {"image": BASE64, "mask": BASE64, "use_face_restoration": True},
            "use_face_restoration",
            "invalid_value",
        ),
        ({"image": BASE64, "background": "transparent"}, "background", "unsupported_value"),
    ],
)
def test_what_is_refused(stack: Stack, body: dict[str, Any], param: str, code: str) -> None:
    assert refused(edit(stack, **body)) == (param, code)
    assert stack.generator.requests == []


def test_the_kind_of_mask_can_be_said(stack: Stack) -> None:
    answer(edit(stack, size="256x256", image=BASE64, mask=BASE64, mask_kind="white"))
    assert drawn(stack).mask_kind == pb.MASK_KIND_WHITE


def test_events_of_edits_have_their_own_names(stack: Stack) -> None:
    response = form(stack, [("image", IMAGE_FILE)], size="256x256", stream="true", partial_images="1")
    names = [name for name, _ in events_in(response)]
    assert names == ["image_edit.partial_image", "image_edit.completed", ""]
