"""Requests that arrive while the device is busy: denoised together, with the processor's work beside."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytest_asyncio
from prometheus_client import Histogram

from atelier.generator.v1 import generator_service_pb2 as pb
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
    release = threading.Event()
    running.server.worker.submit(lambda job: release.wait(60))
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
