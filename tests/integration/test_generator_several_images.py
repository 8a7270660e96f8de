"""`num_images` over gRPC: progress once for all, then one result for each image; they stop together."""

from __future__ import annotations

import asyncio
import gc
import threading
import weakref
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import pytest_asyncio
import torch

from atelier.common.v1 import image_pb2, warning_pb2
from atelier.generator.v1 import generator_service_pb2 as pb
from atelier_generator import passes
from atelier_generator.denoising import predict
from atelier_generator.generation import Run
from atelier_runtime import metrics
from atelier_runtime.errors import BadImage, ErrorReason, InvalidRequest, OutOfMemory
from atelier_runtime.images import decode
from atelier_runtime.rpc_errors import from_rpc_error
from tests.integration.generator_server import Running, failure_of, request, result_of, serving, until
from tests.tiny_sdxl import build_set


@pytest.fixture(scope="module")
def set_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_set(tmp_path_factory.mktemp("set"), refiner=True)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def running(set_folder: Path) -> AsyncIterator[Running]:
    async with serving(set_folder) as running:
        yield running


async def events_of(call: Any) -> list[pb.GenerateImageResponse]:
    return [event async for event in call]


def pixels(result: pb.GenerateImageResult) -> np.ndarray:
    return np.frombuffer(result.image.data, np.uint8).astype(int)


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("options", [{}, {"hires_fix": True}, {"lanczos_scale": 1.5}])
async def test_the_stream_ends_with_one_result_for_each_image(
    running: Running, options: dict[str, Any]
) -> None:
    events = await events_of(running.generator.GenerateImage(request(num_images=3, seed=5, **options)))
    kinds = [event.WhichOneof("event") for event in events]
    results = [event.result for event in events if event.HasField("result")]
    steps = [event.progress for event in events if event.HasField("progress")]
    assert kinds == ["progress"] * len(steps) + ["result"] * 3
    assert [step.step for step in steps if step.stage == "base"] == [1, 2, 3], "once for all images"
    assert [result.seed for result in results] == [5, 6, 7]
    for result in results:
        alone = await result_of(running.generator.GenerateImage(request(seed=result.seed, **options)))
        assert np.abs(pixels(result) - pixels(alone)).max() <= 1
        assert list(result.warnings) == list(alone.warnings) and result.upscaler == alone.upscaler
        assert [stage.stage for stage in result.stages] == [stage.stage for stage in alone.stages]
        assert result.stages[-1].stage == "encode"


@pytest.mark.asyncio(loop_scope="module")
async def test_previews_are_small_jpegs_of_each_image(running: Running) -> None:
    events = await events_of(running.generator.GenerateImage(request(num_images=2, preview_interval_steps=3)))
    previews = [list(event.progress.previews) for event in events if event.progress.previews]
    assert len(previews) == sum(event.progress.step == 3 for event in events) > 0
    for data in (data for each in previews for data in each):
        picture = decode(data, max_pixels=256 * 256)
        assert data.startswith(b"\xff\xd8") and max(picture.width, picture.height) <= 256
    assert {len(each) for each in previews} == {2}


@pytest.mark.asyncio(loop_scope="module")
async def test_seeds_that_are_drawn_follow_each_other(running: Running) -> None:
    message = request(num_images=2, num_inference_steps=1)
    message.ClearField("seed")
    message.output.format = image_pb2.IMAGE_FORMAT_PNG
    events = await events_of(running.generator.GenerateImage(message))
    first, second = (event.result for event in events[-2:])
    assert second.seed == first.seed + 1
    assert first.image.data.startswith(b"\x89PNG") and second.image.data.startswith(b"\x89PNG")


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize(
    ("options", "field"),
    [({"num_images": 11}, "num_images"), ({"num_images": 2, "seed": 2**53 - 1}, "seed")],
)
async def test_bad_numbers_are_named(running: Running, options: dict[str, Any], field: str) -> None:
    error = await failure_of(running.generator.GenerateImage(request(**options)))
    assert error.code() == grpc.StatusCode.INVALID_ARGUMENT
    refused = from_rpc_error(error)
    assert isinstance(refused, InvalidRequest) and [each.field for each in refused.fields] == [field]


@pytest.mark.asyncio(loop_scope="module")
async def test_a_canceled_call_stops_all_within_a_step(running: Running) -> None:
    before = metrics.CANCELLED_STEPS._value.get()
    call = running.generator.GenerateImage(request(num_images=2, num_inference_steps=150, use_refiner=False))
    async for event in call:
        if event.progress.step == 3:
            call.cancel()
            break
    await until(lambda: running.server.worker.running == 0)
    saved = metrics.CANCELLED_STEPS._value.get() - before
    # A few steps of a network this small may run before the message arrives.
    assert 2 * (150 - 30) <= saved <= 2 * (150 - 3)
    await until(lambda: metrics.REQUESTS_IN_PROGRESS._value.get() == 0)
    await result_of(running.generator.GenerateImage(request()))


@pytest.mark.asyncio(loop_scope="module")
async def test_a_call_that_is_canceled_between_images_stops_the_rest(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    autoencoder = type(running.server.service.pipeline._models.autoencoder)
    decode, release = autoencoder.decode, threading.Event()
    decoded = 0

    def held(self: Any, latents: Any, tiled: bool) -> Any:
        nonlocal decoded
        decoded += 1
        assert decoded == 1 or release.wait(60)
        return decode(self, latents, tiled=tiled)

    monkeypatch.setattr(autoencoder, "decode", held)
    call = running.generator.GenerateImage(request(num_images=4))
    async for event in call:
        if event.HasField("result"):
            break
    await until(lambda: decoded == 2)
    call.cancel()
    await until(lambda: metrics.REQUESTS_IN_PROGRESS._value.get() == 0)
    release.set()
    await until(lambda: running.server.worker.running == 0)
    assert decoded == 2, "the one that had begun"


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize(
    ("failure", "reason"),
    [(BadImage(), ErrorReason.BAD_IMAGE), (OutOfMemory(), ErrorReason.OUT_OF_MEMORY)],
)
async def test_one_image_that_fails_fails_the_call_and_is_named(
    running: Running, monkeypatch: pytest.MonkeyPatch, failure: Exception, reason: ErrorReason
) -> None:
    autoencoder = type(running.server.service.pipeline._models.autoencoder)
    decode = autoencoder.decode
    decoded = 0

    def second_fails(self: Any, latents: Any, tiled: bool) -> Any:
        nonlocal decoded
        decoded += 1
        if decoded == 2:
            raise failure
        return decode(self, latents, tiled=tiled)

    monkeypatch.setattr(autoencoder, "decode", second_fails)
    error = await failure_of(running.generator.GenerateImage(request(num_images=3, seed=10)))
    assert from_rpc_error(error).reason is reason
    assert "Image 2 of 3 (seed 11)" in str(error.details())
    assert decoded == 2 and running.server.worker.running == 0
    monkeypatch.undo()
    await result_of(running.generator.GenerateImage(request()))


@pytest.mark.asyncio(loop_scope="module")
async def test_what_did_not_fit_into_memory_is_disclosed(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    def at_most_two(unet: Any, parts: Any, index: int) -> Any:
        if len(parts) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return predict(unet, parts, index)

    monkeypatch.setattr(passes, "predict", at_most_two)
    events = await events_of(running.generator.GenerateImage(request(num_images=4, width_px=264)))
    results = [event.result for event in events if event.HasField("result")]
    assert len(results) == 4
    for result in results:
        assert {w.code for w in result.warnings} == {warning_pb2.WARNING_CODE_MEMORY_FALLBACK}
        assert "at most 2 at a time" in result.warnings[0].message


@pytest.mark.asyncio(loop_scope="module")
async def test_nothing_of_the_images_is_left_to_the_garbage_collector(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline = running.server.service.pipeline
    runs: list[weakref.ref[Run]] = []
    start = pipeline.image_runs

    def recorded(*arguments: Any) -> list[Run]:
        made = start(*arguments)
        runs.extend(weakref.ref(run) for run in made)
        return made

    monkeypatch.setattr(pipeline, "image_runs", recorded)
    gc.disable()
    try:
        await events_of(running.generator.GenerateImage(request(num_images=2)))
        await events_of(running.generator.GenerateImage(request()))
        # The last may still be in the frame of a thread that waits for the next.
        await until(lambda: [ref() for ref in runs[:2]] == [None, None])
    finally:
        gc.enable()


@pytest.mark.asyncio(loop_scope="module")
async def test_a_request_of_one_is_not_mixed_with_the_images_of_another(running: Running) -> None:
    calls = [
        asyncio.create_task(events_of(running.generator.GenerateImage(request(num_images=count, seed=seed))))
        for count, seed in ((2, 1), (1, 5), (3, 10))
    ]
    seeds = [[event.result.seed for event in await call if event.HasField("result")] for call in calls]
    assert seeds == [[1, 2], [5], [10, 11, 12]]
