"""Faults of single faces and single calls of the restorer, which do not affect the others."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import torch

from atelier.common.v1 import skip_reason_pb2, warning_pb2
from atelier.restorer.v1 import restorer_service_pb2 as pb
from atelier_restorer.nets.codeformer import CodeFormerOutput
from atelier_runtime import metrics
from atelier_runtime.images.structure import MAX_SCANS
from tests.integration.restorer_server import (
    Client,
    failure,
    forward_hook,
    idle,
    photo,
    pixels,
    png,
    serve,
    until,
    warning_codes,
)


def bright(crops: torch.Tensor) -> torch.Tensor:
    return crops.amax(dim=(1, 2, 3)) > 0.9


def return_nan(network: torch.nn.Module, inputs: tuple[torch.Tensor, ...], output: CodeFormerOutput) -> None:
    output.image[bright(inputs[0])] = float("nan")


def raise_error(network: torch.nn.Module, inputs: tuple[torch.Tensor, ...], output: CodeFormerOutput) -> None:
    if bright(inputs[0]).any():
        raise RuntimeError("a bright face")


def run_out(network: torch.nn.Module, inputs: tuple[torch.Tensor, ...], output: CodeFormerOutput) -> None:
    if bright(inputs[0]).any():
        raise torch.OutOfMemoryError("a bright face")


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"),
    ],
)
async def test_an_upscaler_without_memory_is_replaced_by_lanczos(restorer: Client, error: Exception) -> None:
    upscaler = restorer.server.service.models.upscaler
    assert upscaler is not None

    def fail(*_: Any) -> None:
        raise error

    with forward_hook(upscaler._network.model, fail):
        response = await restorer.restore(png(photo(320, 320)), max_faces=0, upscale=2)
    assert response.upscaler == "lanczos" and pixels(response.image).shape == (640, 640, 3)
    assert warning_codes(response) == [warning_pb2.WARNING_CODE_UPSCALER_FALLBACK]


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (return_nan, skip_reason_pb2.SKIP_REASON_NOT_FINITE),
        (raise_error, skip_reason_pb2.SKIP_REASON_FAILED),
        (run_out, skip_reason_pb2.SKIP_REASON_OUT_OF_MEMORY),
    ],
)
async def test_one_face_of_several_fails_and_the_others_are_restored(
    restorer: Client, fault: Callable[..., None], reason: int
) -> None:
    source = np.full((640, 1000, 3), 90, np.uint8)
    source[:, :300] = 250
    with forward_hook(restorer.codeformer, fault):
        response = await restorer.restore(png(source), return_mask=True)
    failed = [face for face in response.faces if face.reason == reason]
    restored = [face for face in response.faces if face.restored]
    assert failed and restored
    assert response.face_restoration_applied
    assert max(face.face.box.x1_px for face in failed) < 300
    mask, result = pixels(response.mask), pixels(response.image)
    np.testing.assert_array_equal(result[mask == 0], source[mask == 0])
    assert (mask[:, :300] == 0).mean() > 0.5, "nothing changed where a face failed"


async def test_all_faces_failing_is_reported_and_the_next_call_is_unaffected(restorer: Client) -> None:
    source = np.full((300, 300, 3), 250, np.uint8)
    with forward_hook(restorer.codeformer, raise_error):
        response = await restorer.restore(png(source))
    assert not response.face_restoration_applied
    assert response.reason == skip_reason_pb2.SKIP_REASON_FAILED
    np.testing.assert_array_equal(pixels(response.image), source)
    assert (await restorer.restore(png(source))).face_restoration_applied


def batches() -> float:
    return sum(s.value for m in metrics.BATCH_SIZE.collect() for s in m.samples if s.name.endswith("_count"))


async def long_request(client: Client, **options: Any) -> grpc.aio.UnaryUnaryCall:
    """Start a request that restores many faces one by one, and wait until it is running."""
    request = pb.RestoreFacesRequest(image={"data": png(photo(1600, 640))})
    call = client.stub.RestoreFaces(request, **options)

    async def runs() -> bool:
        return call.done() or await client.running() == 1

    await until(runs)
    return call


async def test_a_cancelled_call_stops_between_batches_and_the_next_is_unaffected(seeing: Path) -> None:
    async with serve(seeing, max_batch=1) as client:
        before = batches()
        call = await long_request(client)

        async def one_batch_done() -> bool:
            return batches() > before

        await until(one_batch_done)
        call.cancel()
        await idle(client)
        done = batches() - before
        response = await client.restore(png(photo(1600, 640)))
        assert response.face_restoration_applied
        assert done < sum(face.restored for face in response.faces)


async def test_a_full_queue_refuses_at_once_and_says_when_to_retry(seeing: Path) -> None:
    async with serve(seeing, max_batch=1, queue_capacity=0) as client:
        call = await long_request(client)
        code, reason, _, retry = await failure(client.restore(png(photo(64, 64))))
        assert (code, reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "QUEUE_FULL")
        assert retry.retry_delay.ToSeconds() >= 1
        assert (await call).face_restoration_applied


async def test_an_expired_deadline_stops_the_work(seeing: Path) -> None:
    async with serve(seeing, max_batch=1) as client:
        before = batches()
        call = await long_request(client, timeout=0.5)
        assert (await failure(call))[0] == grpc.StatusCode.DEADLINE_EXCEEDED
        await idle(client)
        done = batches() - before
        response = await client.restore(png(photo(1600, 640)))
        assert done < sum(face.restored for face in response.faces)


async def test_an_image_whose_client_disconnects_occupies_no_worker(seeing: Path) -> None:
    """Six files that take seconds to decode; each client goes away. Honest requests then have all workers."""
    slow = progressive_jpeg(side=6000, scans=MAX_SCANS)
    async with serve(seeing, max_pixels=36_000_000) as client:
        lost = metrics.IMAGE_WORKERS_LOST.labels("cancelled")._value.get()
        calls = [asyncio.ensure_future(client.restore(slow, timeout=300)) for _ in range(6)]
        await until(lambda: _is_busy(client))
        for call in calls:
            call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)
        await until(lambda: _is_idle(client))
        assert metrics.IMAGE_WORKERS_LOST.labels("cancelled")._value.get() > lost
        assert (await client.restore(png(photo(300, 300)), max_faces=1)).face_restoration_applied


async def _is_busy(client: Client) -> bool:
    status = (await client.stub.GetStatus(pb.GetStatusRequest())).status
    assert status.image_workers >= 1
    return bool(status.image_workers_busy)


async def _is_idle(client: Client) -> bool:
    status = (await client.stub.GetStatus(pb.GetStatusRequest())).status
    return not (status.image_workers_busy or status.image_queue_depth or status.queue_depth)


def progressive_jpeg(*, side: int, scans: int) -> bytes:
    """Return a gray JPEG of side x side px with this many scans; decoding each takes as long as the first."""
    data = png(np.zeros((side, side), np.uint8), "JPEG", progressive=True)
    last = data[data.rfind(b"\xff\xda") : -2]
    return data[:-2] + last * (scans - data.count(b"\xff\xda")) + data[-2:]
