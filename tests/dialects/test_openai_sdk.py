"""OpenAI's own SDK against three processes, with nothing changed but the address."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator

import httpx
import numpy as np
import openai
import pytest
from PIL import Image

from tests.processes import Atelier

FAST = {"num_inference_steps": 2, "seed": 7}
SIZE = "256x256"


@pytest.fixture(scope="module")
def client(atelier: Atelier) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(api_key="any", base_url=f"{atelier.url}/v1", max_retries=0) as client:
        yield client


def opened(text: str | None) -> Image.Image:
    assert text is not None
    return Image.open(io.BytesIO(base64.b64decode(text, validate=True)))


def pixels(text: str | None) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    return np.asarray(opened(text).convert("RGB"))


def png(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "png")
    return file.getvalue()


def test_generate(client: openai.OpenAI, atelier: Atelier) -> None:
    raw = client.images.with_raw_response.generate(
        model="gpt-image-1",
        prompt="portrait of a woman",
        size=SIZE,
        quality="auto",
        background="auto",
        moderation="low",
        user="somebody",
        extra_body=FAST,
    )
    answer = raw.parse()
    assert raw.headers["x-atelier-ignored"] == "moderation, user" and raw.request_id
    assert answer.data is not None and answer.usage is not None
    [data] = answer.data
    assert opened(data.b64_json).size == (256, 256) and data.revised_prompt is None and data.url is None
    assert (answer.size, answer.quality, answer.output_format) == (SIZE, "medium", "png")
    assert (answer.background, answer.created > 0) == ("opaque", True)
    usage = answer.usage
    assert usage.input_tokens_details.text_tokens > 0 == usage.input_tokens_details.image_tokens
    assert (usage.output_tokens, usage.total_tokens) == (256, 256 + usage.input_tokens)
    native = atelier.post(prompt="portrait of a woman", width=256, height=256, **FAST).json()
    same = pixels(native["image"].partition(",")[2]) == pixels(data.b64_json)
    assert same.all(), "the same picture through both"
    assert data.to_dict()["seed"] == 7 and data.to_dict()["faces"] == native["faces"]


def test_two_images_as_jpeg(client: openai.OpenAI) -> None:
    answer = client.images.generate(
        prompt="x", n=2, size=SIZE, output_format="jpeg", output_compression=60, extra_body=FAST
    )
    assert answer.data is not None
    assert [opened(each.b64_json).format for each in answer.data] == ["JPEG", "JPEG"]
    first, second = (pixels(each.b64_json) for each in answer.data)
    assert (first != second).any()


def test_quality_draws_in_two_passes(client: openai.OpenAI) -> None:
    answer = client.images.generate(
        prompt="x", size="344x344", quality="high", extra_body={"num_inference_steps": 2, "seed": 7}
    )
    assert answer.data is not None and answer.quality == "high"
    assert opened(answer.data[0].b64_json).size == (344, 344)


def test_an_address(client: openai.OpenAI) -> None:
    answer = client.images.generate(
        model="dall-e-3", prompt="x", size=SIZE, response_format="url", extra_body=FAST
    )
    assert answer.data is not None and answer.usage is not None
    url = answer.data[0].url
    assert url is not None and answer.data[0].b64_json is None and answer.usage.input_tokens > 0
    file = httpx.get(url)
    assert file.headers["content-type"] == "image/png"
    assert Image.open(io.BytesIO(file.content)).size == (256, 256)


def test_an_edit_changes_what_the_mask_leaves_transparent(client: openai.OpenAI) -> None:
    picture = Image.linear_gradient("L").convert("RGB")
    mask = Image.new("RGBA", (256, 256), (0, 0, 0, 255))
    mask.paste((0, 0, 0, 0), (0, 0, 128, 256))
    answer = client.images.edit(
        image=("a.png", png(picture), "image/png"),
        mask=("m.png", png(mask), "image/png"),
        prompt="portrait of a woman",
        n=1,
        extra_body={**FAST, "strength": 1.0},
    )
    assert answer.data is not None and answer.usage is not None
    before, after = np.asarray(picture), pixels(answer.data[0].b64_json)
    assert (before[:, 128:] == after[:, 128:]).all(), "opaque: kept to the bit"
    assert (before[:, :120] != after[:, :120]).mean() > 0.5
    assert answer.usage.input_tokens_details.image_tokens == 256


def test_an_edit_without_a_mask(client: openai.OpenAI) -> None:
    picture = Image.linear_gradient("L").convert("RGB")
    answer = client.images.edit(image=[png(picture)], prompt="x", size=SIZE, extra_body=FAST)
    assert answer.data is not None
    assert (pixels(answer.data[0].b64_json) != np.asarray(picture)).mean() > 0.5


def test_a_stream_with_previews(client: openai.OpenAI) -> None:
    stream = client.images.generate(
        prompt="x", size=SIZE, stream=True, partial_images=2, extra_body={"num_inference_steps": 4, "seed": 7}
    )
    events = list(stream)
    kinds = [event.type for event in events]
    assert kinds == ["image_generation.partial_image"] * 2 + ["image_generation.completed"]
    for index, event in enumerate(events[:2]):
        assert event.type == "image_generation.partial_image" and event.partial_image_index == index
        assert opened(event.b64_json).format == "JPEG" and event.output_format == "jpeg"
    last = events[-1]
    assert last.type == "image_generation.completed"
    assert opened(last.b64_json).size == (256, 256)
    assert last.usage.total_tokens == last.usage.input_tokens + 256


def test_a_stream_of_an_edit(client: openai.OpenAI) -> None:
    picture = png(Image.linear_gradient("L").convert("RGB"))
    stream = client.images.edit(image=picture, prompt="x", size=SIZE, stream=True, extra_body=FAST)
    assert [event.type for event in stream] == ["image_edit.completed"]


def test_models(client: openai.OpenAI) -> None:
    [model] = client.models.list()
    assert model.owned_by == "atelier" and client.models.retrieve(model.id).id == model.id
    with pytest.raises(openai.NotFoundError) as raised:
        client.models.retrieve("gpt-image-1")
    assert raised.value.code == "model_not_found"


def test_what_cannot_be_done_is_a_bad_request(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as raised:
        client.images.generate(prompt="x", size=SIZE, background="transparent")
    error = raised.value
    assert (error.param, error.code, error.type) == (
        *("background", "unsupported_value"),
        "invalid_request_error",
    )
    assert error.request_id
    with pytest.raises(openai.BadRequestError) as raised:
        client.images.generate(prompt="x", size=SIZE, extra_body={"sampler": "no such sampler"})
    assert raised.value.param == "sampler", "what only the generator knows"
    with pytest.raises(openai.BadRequestError) as raised:
        client.images.edit(image=b"no image", prompt="x", stream=True)
    assert raised.value.param == "image", "before the first event"
    with pytest.raises(openai.NotFoundError) as not_found:
        client.post("/images/nothing", cast_to=object)
    assert not_found.value.code == "unknown_url"


async def test_the_asynchronous_client(atelier: Atelier) -> None:
    async with openai.AsyncOpenAI(api_key="any", base_url=f"{atelier.url}/v1", max_retries=0) as client:
        answer = await client.images.generate(prompt="x", size=SIZE, extra_body=FAST)
        assert answer.data is not None and opened(answer.data[0].b64_json).size == (256, 256)
        stream = await client.images.generate(
            prompt="x", size=SIZE, stream=True, partial_images=1, extra_body=FAST
        )
        assert [event.type async for event in stream][-1] == "image_generation.completed"
