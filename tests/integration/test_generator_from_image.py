"""`image`, `strength` and `mask` over gRPC: files are read as the restorer reads them."""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import pytest_asyncio
from PIL import Image

from atelier.common.v1 import warning_pb2
from atelier.generator.v1 import generator_service_pb2 as pb
from atelier_runtime.errors import InvalidRequest, QueueFull
from atelier_runtime.rpc_errors import from_rpc_error
from tests.integration.generator_server import RAW, Running, failure_of, request, result_of, serving, until
from tests.tiny_sdxl import build_set

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest.fixture(scope="module")
def set_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_set(tmp_path_factory.mktemp("set"), inpaint=True)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def running(set_folder: Path) -> AsyncIterator[Running]:
    async with serving(set_folder, max_pixels=700_000) as running:
        yield running


def photo(width: int = 320, height: int = 264) -> np.ndarray:
    y, x = np.mgrid[0:height, 0:width]
    return np.stack([x * 255 // width, y * 255 // height, (x + y) % 256], 2).astype(np.uint8)


def mask(width: int = 320, height: int = 264) -> np.ndarray:
    pixels = np.zeros((height, width), np.uint8)
    pixels[64:128, 96:200] = 255
    pixels[64:128, 88:96] = 100
    return pixels


def file_of(pixels: np.ndarray, kind: str = "PNG", **options: Any) -> bytes:
    data = io.BytesIO()
    Image.fromarray(pixels).save(data, kind, **options)
    return data.getvalue()


def from_image(**options: Any) -> pb.GenerateImageRequest:
    message = pb.GenerateImageRequest(prompt="a cat", num_inference_steps=4, seed=1, output=RAW)
    message.MergeFrom(pb.GenerateImageRequest(**options))
    return message


def pixels_of(result: pb.GenerateImageResult) -> np.ndarray:
    image = result.image
    return np.frombuffer(image.data, np.uint8).reshape(image.height_px, image.width_px, 3)


async def drawn(running: Running, **options: Any) -> pb.GenerateImageResult:
    return await result_of(running.generator.GenerateImage(from_image(**options)))


async def refused(running: Running, **options: Any) -> dict[str, str]:
    error = await failure_of(running.generator.GenerateImage(from_image(**options)))
    ours = from_rpc_error(error)
    assert isinstance(ours, InvalidRequest), ours
    return {violation.field: violation.message for violation in ours.fields}


async def test_the_result_has_the_images_size_and_says_how_it_was_made(running: Running) -> None:
    result = await drawn(running, image=file_of(photo()), strength=0.5)
    assert pixels_of(result).shape == (264, 320, 3)
    assert (result.strength, result.num_inference_steps) == (0.5, 4)
    stages = [stage.stage for stage in result.stages]
    assert stages[0] == "read_image" and "encode_latents" in stages and "compose" not in stages
    default = await drawn(running, image=file_of(photo()))
    assert default.strength == 0.75
    text = await result_of(running.generator.GenerateImage(request()))
    assert not text.HasField("strength")


async def test_the_image_is_resized_without_being_stretched(running: Running) -> None:
    square = photo(512, 256)[:, 128:384]
    wide = file_of(photo(512, 256))
    resized = await drawn(running, image=wide, width_px=256, height_px=256, strength=0.0)
    cut = await drawn(running, image=file_of(square), strength=0.0)
    assert np.array_equal(pixels_of(resized), pixels_of(cut))


async def test_outside_the_mask_are_the_images_pixels(running: Running) -> None:
    result = await drawn(running, image=file_of(photo()), mask=file_of(mask()), strength=1.0)
    kept = mask() == 0
    assert np.array_equal(pixels_of(result)[kept], photo()[kept])
    assert not np.array_equal(pixels_of(result)[~kept], photo()[~kept])
    enlarged = await drawn(running, image=file_of(photo()), mask=file_of(mask()), lanczos_scale=1.5)
    assert pixels_of(enlarged).shape == (396 // 8 * 8, 480, 3)


@pytest.mark.parametrize("kind", ["gray", "palette", "rgb", "alpha", "16 bits", "webp"])
async def test_masks_come_in_every_form(running: Running, kind: str) -> None:
    plane = mask()
    transparent = np.dstack([np.full((264, 320, 3), 255, np.uint8), plane])
    files = {
        "gray": file_of(plane),
        "rgb": file_of(np.dstack([plane] * 3)),
        "alpha": file_of(transparent),
        "16 bits": file_of(plane.astype(np.uint16) * 257),
        "webp": file_of(np.dstack([plane] * 3), "WEBP", lossless=True),
    }
    data = io.BytesIO()
    Image.fromarray(plane).convert("P").save(data, "PNG")
    files["palette"] = data.getvalue()
    image = file_of(photo())
    expected = await drawn(running, image=image, mask=files["gray"])
    assert pixels_of(await drawn(running, image=image, mask=files[kind])).tobytes() == expected.image.data


async def test_the_orientation_is_applied_to_both(running: Running) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turn clockwise
    turned = np.rot90(photo(264, 320))  # as the camera stores it
    image = file_of(np.ascontiguousarray(turned), exif=exif)
    upright = await drawn(running, image=file_of(photo(264, 320)), mask=file_of(mask(264, 320)))
    result = await drawn(running, image=image, mask=file_of(mask(264, 320)))
    assert result.image.data == upright.image.data


async def test_what_is_not_kept_is_said(running: Running) -> None:
    alpha = np.dstack([photo(), np.full((264, 320), 200, np.uint8)])
    result = await drawn(running, image=file_of(alpha), mask=file_of(np.zeros((264, 320), np.uint8)))
    assert [warning.code for warning in result.warnings] == [
        warning_pb2.WARNING_CODE_ALPHA_DROPPED,
        warning_pb2.WARNING_CODE_OPTION_HAS_NO_EFFECT,
    ]
    assert np.array_equal(pixels_of(result), photo())


async def test_files_that_cannot_be_read_are_named(running: Running) -> None:
    image = file_of(photo())
    animated = io.BytesIO()
    frames = [Image.fromarray(photo()), Image.fromarray(255 - photo())]
    frames[0].save(animated, "PNG", save_all=True, append_images=frames[1:])
    cmyk = io.BytesIO()
    frames[0].convert("CMYK").save(cmyk, "JPEG")
    for data, problem in (
        (b"", "is empty"),
        (b"GIF89a", "is a GIF, not a PNG, JPEG or WebP file"),
        (image[: len(image) // 2], "cut short"),
        (animated.getvalue(), "is animated"),
        (cmyk.getvalue(), "CMYK"),
        (file_of(photo(1000, 701)), "1000x701 = 701000 pixels; the limit is 700000"),
    ):
        assert problem in (await refused(running, image=data))["image"]
        assert problem in (await refused(running, image=image, mask=data))["mask"]


async def test_sizes_that_do_not_fit_are_named(running: Running) -> None:
    found = await refused(running, image=file_of(photo()), mask=file_of(mask(320, 256)))
    assert "320x256" in found["mask"] and "320x264" in found["mask"]
    for size in ((255, 300), (2049, 300)):
        problem = (await refused(running, image=file_of(photo(*size))))["image"]
        assert f"{size[0]}x{size[1]}" in problem and "256 to 2048" in problem and "width" in problem
    result = await drawn(running, image=file_of(photo(80, 64)), width_px=256, height_px=256)
    assert pixels_of(result).shape == (256, 256, 3)
    found = await refused(running, image=file_of(photo()), lanczos_scale=4.0)
    assert "the finished image would be 1280x1056" in found["image"]
    found = await refused(running, image=file_of(photo()), strength=0.2)
    assert "less than one step" in found["strength"]


async def test_a_full_queue_refuses_before_a_file_is_read(set_folder: Path) -> None:
    async with serving(set_folder, queue_capacity=0) as running:
        call = running.generator.GenerateImage(request(num_inference_steps=150))
        await until(lambda: running.server.worker.running == 1)
        error = await failure_of(running.generator.GenerateImage(from_image(image=b"not even a file")))
        assert isinstance(from_rpc_error(error), QueueFull)
        call.cancel()


async def test_images_of_one_request_are_those_of_their_seeds(running: Running) -> None:
    options = {"image": file_of(photo()), "mask": file_of(mask())}
    call = running.generator.GenerateImage(from_image(num_images=2, **options))
    results = [event.result async for event in call if event.HasField("result")]
    for number, result in enumerate(results):
        alone = await drawn(running, **options | {"seed": 1 + number})
        assert np.abs(pixels_of(alone).astype(int) - pixels_of(result)).max() <= 1
    assert results[0].image.data != results[1].image.data


async def test_a_canceled_call_leaves_nothing_behind(running: Running) -> None:
    call = running.generator.GenerateImage(from_image(image=file_of(photo()), num_inference_steps=150))
    async for _ in call:
        break
    call.cancel()
    worker = running.server.worker
    await until(lambda: (worker.running, worker.depth) == (0, 0))
    assert (await drawn(running, image=file_of(photo()))).image.data


async def test_an_estimate_has_the_size_and_the_errors_of_the_image(running: Running) -> None:
    turned = Image.Exif()
    turned[274] = 6
    image = file_of(photo(333, 270), "JPEG", exif=turned)
    estimate = await running.generator.EstimateImage(
        pb.EstimateImageRequest(request=from_image(image=image, strength=0.5))
    )
    assert (estimate.width_px, estimate.height_px) == (270, 333)
    assert [(each.stage, each.steps) for each in estimate.passes] == [("base", 2)]
    wrong = from_image(image=image, mask=file_of(mask(64, 64)))
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await running.generator.EstimateImage(pb.EstimateImageRequest(request=wrong))
    ours = from_rpc_error(caught.value)
    assert isinstance(ours, InvalidRequest) and [each.field for each in ours.fields] == ["mask"]


async def test_images_of_estimates_are_decoded_a_few_at_a_time(running: Running) -> None:
    asked = pb.EstimateImageRequest(request=from_image(image=file_of(photo(800, 800))))
    calls = [running.generator.EstimateImage(asked) for _ in range(20)]
    answers = await asyncio.gather(*calls, return_exceptions=True)
    refused = [from_rpc_error(each) for each in answers if isinstance(each, grpc.aio.AioRpcError)]
    assert 2 <= len(answers) - len(refused) < 20
    assert {type(each) for each in refused} == {QueueFull}
    await running.generator.EstimateImage(asked)
