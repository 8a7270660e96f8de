"""EstimateImage over gRPC: what a request would take, from what requests have taken, before any work."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import pytest
import pytest_asyncio

from atelier.generator.v1 import generator_service_pb2 as pb
from atelier_generator import passes
from atelier_generator.denoising import predict
from atelier_runtime import metrics
from atelier_runtime.errors import ErrorReason, InvalidRequest
from atelier_runtime.rpc_errors import from_rpc_error
from tests.integration.generator_server import Running, failure_of, request, result_of, serving, until
from tests.tiny_sdxl import build_set


@pytest.fixture(scope="module")
def set_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_set(tmp_path_factory.mktemp("set"), refiner=True)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def running(set_folder: Path) -> AsyncIterator[Running]:
    async with serving(set_folder, queue_capacity=2) as running:
        yield running


class Held:
    """Holds the networks at their first step until it is released."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.reached, self._release = threading.Event(), threading.Event()
        monkeypatch.setattr(passes, "predict", self._predict)

    def _predict(self, *arguments: Any) -> Any:
        self.reached.set()
        assert self._release.wait(60)
        return predict(*arguments)

    async def __aenter__(self) -> Held:
        return self

    async def __aexit__(self, *exception: object) -> None:
        self._release.set()


async def estimated(running: Running, **options: Any) -> pb.EstimateImageResponse:
    response = await running.generator.EstimateImage(pb.EstimateImageRequest(request=request(**options)))
    assert isinstance(response, pb.EstimateImageResponse)
    return response


def steps_of_all() -> float:
    return sum(
        sample.value
        for metric in metrics.STAGE_DURATION.collect()
        for sample in metric.samples
        if sample.name.endswith("_count")
    )


def in_queue(running: Running, number: int) -> bool:
    return running.server.worker.depth == number


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"use_refiner": False},
        {"hires_fix": True},
        {"width_px": 320, "lanczos_scale": 1.5},
        {"sampler": "heun", "num_inference_steps": 4},
        {"num_images": 3},
        {"guidance_scale": 1.0, "num_inference_steps": 7},
        {"hires_fix": True, "sampler": "heun", "use_upscaler": False},
    ],
    ids=str,
)
async def test_the_stages_are_those_that_are_run(running: Running, options: dict[str, Any]) -> None:
    estimate = await estimated(running, **options)
    events = [event async for event in running.generator.GenerateImage(request(**options))]
    progress = [event.progress for event in events if event.HasField("progress")]
    totals = {event.stage: event.total_steps for event in progress}
    assert [(each.stage, each.steps) for each in estimate.passes] == list(totals.items())
    assert len(progress) == sum(totals.values())
    result = events[-1].result
    assert [stage.stage for stage in estimate.stages] == [stage.stage for stage in result.stages]
    assert (estimate.width_px, estimate.height_px) == (result.image.width_px, result.image.height_px)
    chosen = ("sampler", "schedule", "num_inference_steps", "guidance_scale", "model_set")
    assert [getattr(estimate, name) for name in chosen] == [getattr(result, name) for name in chosen]
    assert estimate.num_images == len([event for event in events if event.HasField("result")])
    again = await estimated(running, **options)
    assert again.observations >= 1 and not again.HasField("peak_vram_bytes"), "on a CPU it is unknown"
    duration = again.duration
    assert 0 < duration.low.ToNanoseconds() < duration.expected.ToNanoseconds()
    assert duration.expected.ToNanoseconds() < duration.high.ToNanoseconds()


async def test_it_runs_nothing_and_answers_while_an_image_is_being_drawn(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    await result_of(running.generator.GenerateImage(request()))
    idle = await estimated(running)
    assert idle.queue_wait.ToNanoseconds() == 0
    async with Held(monkeypatch) as held:
        drawing = asyncio.create_task(result_of(running.generator.GenerateImage(request(num_images=8))))
        assert await asyncio.to_thread(held.reached.wait, 30)
        ran = steps_of_all()
        busy = await estimated(running)
        assert list(busy.passes) == list(idle.passes)
        assert running.server.worker.depth == 0 and running.server.worker.running == 1
        assert busy.queue_wait.ToNanoseconds() > 0
        assert steps_of_all() == ran
    await drawing


async def test_what_is_refused_is_what_generating_would_refuse(running: Running) -> None:
    for options in ({"width_px": 100, "num_images": 9}, {"sampler": "x"}, {"prompt": "<lora:no:1> a cat"}):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await estimated(running, **options)
        expected = from_rpc_error(await failure_of(running.generator.GenerateImage(request(**options))))
        refused = from_rpc_error(caught.value)
        assert isinstance(refused, InvalidRequest) and isinstance(expected, InvalidRequest)
        assert refused.fields == expected.fields
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await running.generator.EstimateImage(pb.EstimateImageRequest())
    assert [field.field for field in from_rpc_error(caught.value).fields] == ["prompt"]


async def test_the_queue_says_when_to_come_again(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    """From what the requests in it are expected to take, not from the mean of past ones."""
    for _ in range(3):
        await result_of(running.generator.GenerateImage(request(num_inference_steps=2)))
    longest = request(num_inference_steps=150, width_px=1024, height_px=1024, num_images=8)
    expected = await running.generator.EstimateImage(pb.EstimateImageRequest(request=longest))
    async with Held(monkeypatch) as held:
        calls = [asyncio.create_task(result_of(running.generator.GenerateImage(request())))]
        assert await asyncio.to_thread(held.reached.wait, 30)
        for number in (1, 2):
            calls.append(asyncio.create_task(result_of(running.generator.GenerateImage(longest))))
            await until(partial(in_queue, running, number))
        refused = from_rpc_error(await failure_of(running.generator.GenerateImage(request())))
        assert refused.reason is ErrorReason.QUEUE_FULL and refused.retry_after_s is not None
        seconds = expected.duration.expected.ToNanoseconds() / 1e9
        assert refused.retry_after_s > seconds, "two of them wait"
        for call in calls:
            call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)
        await until(lambda: running.server.worker.depth == 0)


async def test_a_deadline_that_the_work_itself_exceeds_is_refused_before_it_starts(running: Running) -> None:
    options = {"num_inference_steps": 150, "use_refiner": False, "guidance_scale": 1.0}
    for _ in range(3):
        await result_of(running.generator.GenerateImage(request(**options)))
    estimate = await estimated(running, **options)
    assert estimate.observations >= 3
    low = estimate.duration.low.ToNanoseconds() / 1e9
    ran = steps_of_all()
    error = await failure_of(running.generator.GenerateImage(request(**options), timeout=0.7 * low))
    assert from_rpc_error(error).reason is ErrorReason.DEADLINE_UNMEETABLE
    assert steps_of_all() == ran
    await result_of(running.generator.GenerateImage(request(**options), timeout=60))


async def test_estimates_come_with_the_metric_of_how_right_they_are(running: Running) -> None:
    def count() -> float:
        [family] = metrics.EXPECTED_RATIO.collect()
        return next(sample.value for sample in family.samples if sample.name.endswith("_count"))

    before = count()
    await result_of(running.generator.GenerateImage(request()))
    await until(lambda: count() == before + 1)
