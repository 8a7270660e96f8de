"""Requests that arrive while the device is busy: denoised together, with the processor's work beside."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import threading
import weakref
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import pytest_asyncio
import torch
from prometheus_client import Histogram

from atelier.generator.v1 import generator_service_pb2 as pb
from atelier_generator import passes
from atelier_generator.generation import Run
from atelier_generator.prompts import EncodedPrompt
from atelier_runtime import metrics
from tests.integration.generator_server import Running, failure_of, request, result_of, serving, until
from tests.tiny_sdxl import build_set

REQUESTS = [
    request(prompt="a cat", seed=1),
    request(prompt="a dog in the snow", seed=2, guidance_scale=3.0),
    request(prompt="a red apple", seed=3, negative_prompt="green"),
]


@pytest.fixture(scope="module")
def set_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_set(tmp_path_factory.mktemp("set"), refiner=True)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def running(set_folder: Path) -> AsyncIterator[Running]:
    async with serving(set_folder, max_batch=4) as running:
        yield running


@contextlib.contextmanager
def busy_device(running: Running) -> Iterator[threading.Event]:
    """Keep the device busy until the event is set, at the latest at the end."""
    release, started = threading.Event(), threading.Event()

    def block(job: object) -> None:
        started.set()
        release.wait(60)

    running.server.worker.submit(block)
    assert started.wait(60)
    try:
        yield release
    finally:
        release.set()


def count(metric: Histogram, *labels: str) -> float:
    """Observations of a histogram."""
    child = metric.labels(*labels) if labels else metric
    return float(sum(bucket.get() for bucket in child._buckets))


def pixels(result: pb.GenerateImageResult) -> np.ndarray:
    return np.frombuffer(result.image.data, np.uint8).astype(int)


@pytest.mark.asyncio(loop_scope="module")
async def test_requests_that_wait_are_denoised_together(running: Running) -> None:
    alone = [await result_of(running.generator.GenerateImage(each)) for each in REQUESTS]
    passes, images = count(metrics.BATCH_SIZE), metrics.BATCH_SIZE._sum.get()
    with busy_device(running):
        calls = [asyncio.create_task(result_of(running.generator.GenerateImage(each))) for each in REQUESTS]
        await until(lambda: running.server.worker.depth == len(calls))
    together = await asyncio.gather(*calls)
    assert count(metrics.BATCH_SIZE) - passes == 2, "a base and a refiner pass for all"
    assert metrics.BATCH_SIZE._sum.get() - images == 6
    for one, other in zip(alone, together, strict=True):
        assert (one.seed, one.refiner_applied, list(one.warnings)) == (
            other.seed,
            other.refiner_applied,
            list(other.warnings),
        )
        assert [stage.stage for stage in one.stages] == [stage.stage for stage in other.stages]
        assert np.abs(pixels(one) - pixels(other)).max() <= 1


@pytest.mark.asyncio(loop_scope="module")
async def test_a_client_that_hangs_up_does_not_disturb_its_batch(running: Running) -> None:
    [first, second] = [request(prompt="a cat", seed=seed, num_inference_steps=12) for seed in (1, 2)]
    alone = await result_of(running.generator.GenerateImage(second))
    passes, saved = count(metrics.BATCH_SIZE), metrics.CANCELLED_STEPS._value.get()
    with busy_device(running):
        leaving = running.generator.GenerateImage(first)
        staying = asyncio.create_task(result_of(running.generator.GenerateImage(second)))
        await until(lambda: running.server.worker.depth == 2)
    async for event in leaving:
        if event.progress.step == 2:
            leaving.cancel()
            break
    assert np.abs(pixels(alone) - pixels(await staying)).max() <= 1
    await until(lambda: running.server.worker.running == 0)
    assert count(metrics.BATCH_SIZE) - passes == 2, "one base pass for both, one refiner pass for one"
    assert metrics.CANCELLED_STEPS._value.get() > saved


@pytest.mark.asyncio(loop_scope="module")
async def test_prompts_are_encoded_while_the_device_is_busy(running: Running) -> None:
    before = count(metrics.STAGE_DURATION, "text")
    with busy_device(running):
        call = asyncio.create_task(result_of(running.generator.GenerateImage(REQUESTS[0])))
        await until(lambda: count(metrics.STAGE_DURATION, "text") == before + 1)
        assert running.server.worker.depth == 1, "its steps still wait"
    result = await call
    assert [stage.stage for stage in result.stages][:2] == ["text", "base"]
    assert count(metrics.STAGE_DURATION, "text") == before + 1, "and only once"


@pytest.mark.asyncio(loop_scope="module")
async def test_a_file_is_encoded_beside_the_steps_of_the_next_request(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    encode = running.server.image_workers.encode
    next_one_has_started = asyncio.Event()

    async def held(*arguments: Any) -> Any:
        if not next_one_has_started.is_set():
            await asyncio.wait_for(next_one_has_started.wait(), 60)
        return await encode(*arguments)

    monkeypatch.setattr(running.server.image_workers, "encode", held)
    first = asyncio.create_task(result_of(running.generator.GenerateImage(REQUESTS[0])))
    await until(lambda: running.server.worker.running == 1)
    second = running.generator.GenerateImage(request(num_inference_steps=4))
    async for event in second:
        if event.progress.step and not next_one_has_started.is_set():
            assert not first.done()
            next_one_has_started.set()
    assert len((await first).image.data) == 256 * 256 * 3


class Held:
    """Holds up the encoding of prompts until it is released."""

    def __init__(self, running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
        self.release = threading.Event()
        self.encoded: list[str] = []
        encoder = running.server.service.pipeline._prompts
        encode = encoder._encode

        def held(pipeline: Any, request: Any, *options: Any) -> Any:
            self.encoded.append(request.prompt)
            assert self.release.wait(60)
            return encode(pipeline, request, *options)

        monkeypatch.setattr(encoder, "_encode", held)


@pytest.mark.asyncio(loop_scope="module")
async def test_prompts_of_clients_that_hang_up_are_not_encoded(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = Held(running, monkeypatch)
    try:
        with busy_device(running):
            calls = [running.generator.GenerateImage(request(prompt=f"cat {n}")) for n in range(4)]
            reading = [asyncio.create_task(failure_of(call)) for call in calls]
            await until(lambda: running.server.worker.depth == 4 and len(held.encoded) == 1)
            [first] = held.encoded  # whichever came first
            for call in calls:
                call.cancel()
            await until(lambda: running.server.worker.depth == 0)
    finally:
        held.release.set()
    for task in reading:
        task.cancel()
    await result_of(running.generator.GenerateImage(request(prompt="a dog", use_refiner=False)))
    assert held.encoded == [first, first, "a dog"], "for the refiner too, once it had begun"


@pytest.mark.asyncio(loop_scope="module")
async def test_the_device_does_not_wait_for_the_prompt_of_nobody(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = Held(running, monkeypatch)
    call = running.generator.GenerateImage(REQUESTS[0], timeout=0.5)
    try:
        error = await failure_of(call)
        assert error.code() == grpc.StatusCode.DEADLINE_EXCEEDED
        await until(lambda: running.server.worker.running == 0)
        assert not held.release.is_set()
    finally:
        held.release.set()


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("fails", [False, True])
async def test_nothing_of_a_request_is_left_to_the_garbage_collector(
    running: Running, monkeypatch: pytest.MonkeyPatch, fails: bool
) -> None:
    pipeline = running.server.service.pipeline
    runs: list[weakref.ref[Run]] = []
    prompts: list[weakref.ref[EncodedPrompt]] = []
    start = pipeline.run

    def recorded(*arguments: Any) -> Run:
        run = start(*arguments)
        runs.append(weakref.ref(run))
        return run

    monkeypatch.setattr(pipeline, "run", recorded)
    encode = pipeline._prompts._encode_all

    def seen(*arguments: Any) -> EncodedPrompt:
        prompt = encode(*arguments)
        prompts.append(weakref.ref(prompt))
        return prompt

    monkeypatch.setattr(pipeline._prompts, "_encode_all", seen)
    if fails:
        monkeypatch.setattr(passes, "predict", out_of_memory)
    gc.disable()
    try:
        for _ in range(2):
            call = running.generator.GenerateImage(REQUESTS[0])
            if fails:
                assert (await failure_of(call)).code() == grpc.StatusCode.RESOURCE_EXHAUSTED
            else:
                await result_of(call)
        # The last may still be in the frame of a thread that waits for the next.
        await until(lambda: [ref() for ref in (runs[0], prompts[0])] == [None, None])
    finally:
        gc.enable()


def out_of_memory(*arguments: object) -> None:
    raise torch.OutOfMemoryError("CUDA out of memory")


async def test_no_prompt_is_encoded_for_a_request_that_is_refused(set_folder: Path) -> None:
    async with serving(set_folder, queue_capacity=0) as running:
        before = count(metrics.STAGE_DURATION, "text")
        with busy_device(running):
            await until(lambda: running.server.worker.running == 1)
            error = await failure_of(running.generator.GenerateImage(REQUESTS[0]))
        assert "queue is full" in error.details()
        assert count(metrics.STAGE_DURATION, "text") == before


async def test_by_default_a_cpu_takes_one_request_at_a_time(set_folder: Path) -> None:
    async with serving(set_folder) as running:
        assert running.server.service.pipeline.max_batch == 1
        passes = count(metrics.BATCH_SIZE)
        with busy_device(running):
            calls = [asyncio.create_task(result_of(running.generator.GenerateImage(r))) for r in REQUESTS]
            await until(lambda: running.server.worker.depth == len(calls))
        await asyncio.gather(*calls)
        assert count(metrics.BATCH_SIZE) - passes == 6, "two passes for each"
