"""What befalls single faces and single calls of the face stage, and spares the others."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import torch

from atelier.common.v1 import skip_reason_pb2
from atelier.restorer.v1 import restorer_service_pb2 as pb
from atelier_restorer.nets.codeformer import CodeFormerOutput
from atelier_runtime import metrics
from tests.integration.restorer_server import Client, failure, photo, pixels, png, serve, until


def bright(crops: torch.Tensor) -> torch.Tensor:
    return crops.amax(dim=(1, 2, 3)) > 0.9


def spoil(network: torch.nn.Module, inputs: tuple[torch.Tensor, ...], output: CodeFormerOutput) -> None:
    output.image[bright(inputs[0])] = float("nan")


def break_down(network: torch.nn.Module, inputs: tuple[torch.Tensor, ...], output: CodeFormerOutput) -> None:
    if bright(inputs[0]).any():
        raise RuntimeError("a bright face")


def run_out(network: torch.nn.Module, inputs: tuple[torch.Tensor, ...], output: CodeFormerOutput) -> None:
    if bright(inputs[0]).any():
        raise torch.OutOfMemoryError("a bright face")


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (spoil, skip_reason_pb2.SKIP_REASON_NOT_FINITE),
        (break_down, skip_reason_pb2.SKIP_REASON_FAILED),
        (run_out, skip_reason_pb2.SKIP_REASON_OUT_OF_MEMORY),
    ],
)
async def test_one_face_of_several_fails_and_the_others_are_restored(
    seeing: Path, fault: Callable[..., None], reason: int
) -> None:
    source = np.full((640, 1000, 3), 90, np.uint8)
    source[:, :300] = 250
    async with serve(seeing) as client:
        client.codeformer.register_forward_hook(fault)
        answer = await client.restore(png(source), return_mask=True)
        failed = [face for face in answer.faces if face.reason == reason]
        restored = [face for face in answer.faces if face.restored]
        assert failed and restored
        assert answer.face_restoration_applied
        assert max(face.face.box.x1_px for face in failed) < 300
        mask, result = pixels(answer.mask), pixels(answer.image)
        np.testing.assert_array_equal(result[mask == 0], source[mask == 0])
        assert (mask[:, :300] == 0).mean() > 0.5, "where a face failed, nothing was changed"


async def test_all_faces_failing_is_reported_and_the_next_call_is_unharmed(seeing: Path) -> None:
    async with serve(seeing) as client:
        source = np.full((300, 300, 3), 250, np.uint8)
        hook = client.codeformer.register_forward_hook(break_down)
        answer = await client.restore(png(source))
        assert not answer.face_restoration_applied
        assert answer.reason == skip_reason_pb2.SKIP_REASON_FAILED
        np.testing.assert_array_equal(pixels(answer.image), source)
        hook.remove()
        assert (await client.restore(png(source))).face_restoration_applied


def batches() -> float:
    return sum(s.value for m in metrics.BATCH_SIZE.collect() for s in m.samples if s.name.endswith("_count"))


async def long_request(client: Client, **options: Any) -> grpc.aio.UnaryUnaryCall:
    """Start a request that restores many faces one by one, and wait until the device works on it."""
    request = pb.RestoreFacesRequest(image={"data": png(photo(1600, 640))})
    call = client.stub.RestoreFaces(request, **options)

    async def runs() -> bool:
        return call.done() or await client.running() == 1

    await until(runs)
    return call


async def idle(client: Client) -> None:
    async def is_idle() -> bool:
        return await client.running() == 0

    await until(is_idle)


async def test_a_cancelled_call_stops_between_batches_and_the_next_is_unharmed(seeing: Path) -> None:
    async with serve(seeing, max_batch=1) as client:
        before = batches()
        call = await long_request(client)

        async def one_batch_done() -> bool:
            return batches() > before

        await until(one_batch_done)
        call.cancel()
        await idle(client)
        done = batches() - before
        answer = await client.restore(png(photo(1600, 640)))
        assert answer.face_restoration_applied
        assert done < sum(face.restored for face in answer.faces)


async def test_a_full_queue_refuses_at_once_and_says_when_to_come_back(seeing: Path) -> None:
    async with serve(seeing, max_batch=1, queue_capacity=0) as client:
        call = await long_request(client)
        code, reason, _, retry = await failure(client.restore(png(photo(64, 64))))
        assert (code, reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "QUEUE_FULL")
        assert retry.retry_delay.ToSeconds() >= 1
        assert (await call).face_restoration_applied


async def test_a_passed_deadline_stops_the_work(seeing: Path) -> None:
    async with serve(seeing, max_batch=1) as client:
        before = batches()
        call = await long_request(client, timeout=0.5)
        assert (await failure(call))[0] == grpc.StatusCode.DEADLINE_EXCEEDED
        await idle(client)
        done = batches() - before
        answer = await client.restore(png(photo(1600, 640)))
        assert done < sum(face.restored for face in answer.faces)
