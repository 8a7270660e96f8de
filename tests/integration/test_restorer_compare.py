"""CompareFidelities: a stream of one image for each fidelity, each as RestoreFaces would return it."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from atelier.common.v1 import image_pb2
from atelier.restorer.v1 import restorer_service_pb2 as pb
from atelier_restorer import pipeline, restoration
from atelier_restorer.request import RestoreResult
from atelier_runtime import metrics
from atelier_runtime.errors import QueueFull
from atelier_runtime.images import message_limit_bytes
from tests.integration.restorer_server import (
    Client,
    failure,
    idle,
    photo,
    pixels,
    png,
    serve,
    stage_names,
    until,
)

FIDELITIES = [0.0, 0.3, 0.6, 1.0]
LONGEST_WAIT_S = 60


def compare_request(data: bytes, fidelities: list[float], **fields: Any) -> pb.CompareFidelitiesRequest:
    restore = pb.RestoreFacesRequest(image=image_pb2.Image(data=data), **fields)
    return pb.CompareFidelitiesRequest(restore=restore, fidelities=fidelities)


class GatedPaste:
    """Counts the images that are pasted; each must be let through."""

    def __init__(self) -> None:
        self.started = 0
        self._slots = threading.Semaphore(0)
        self._original = restoration.paste

    def allow(self, images: int = 1) -> None:
        self._slots.release(images)

    def __call__(self, *arguments: Any, **options: Any) -> RestoreResult:
        self.started += 1
        assert self._slots.acquire(timeout=LONGEST_WAIT_S)
        return self._original(*arguments, **options)


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[GatedPaste]:
    gate = GatedPaste()
    monkeypatch.setattr(pipeline, "paste", gate)
    yield gate
    gate.allow(100)


async def test_images_arrive_one_by_one_and_equal_those_of_restore_faces(
    restorer: Client, gate: GatedPaste
) -> None:
    data = png(photo())
    fields = {"max_faces": 2, "return_mask": True, "return_crops": True}
    call = restorer.stub.CompareFidelities(compare_request(data, FIDELITIES, **fields), timeout=60)
    responses: list[pb.CompareFidelitiesResponse] = []
    for fidelity in FIDELITIES:
        gate.allow()  # the next image is not pasted before this one has arrived
        responses.append(await asyncio.wait_for(call.read(), LONGEST_WAIT_S))
        assert responses[-1].fidelity == fidelity
    assert await call.read() is grpc.aio.EOF
    assert gate.started == len(FIDELITIES)

    gate.allow(len(FIDELITIES))
    for response in responses:
        result = response.result
        single = await restorer.restore(data, fidelity=response.fidelity, **fields)
        # Faces that share a batch may be rounded differently, by one level.
        assert np.abs(pixels(single.image).astype(int) - pixels(result.image)).max() <= 1
        np.testing.assert_array_equal(pixels(single.mask), pixels(result.mask))
        assert result.face_restoration_applied and len(result.faces) == len(single.faces)
        for face, alone in zip(result.faces, single.faces, strict=True):
            assert (face.face, face.restored, face.reason) == (alone.face, alone.restored, alone.reason)
            assert face.HasField("fidelity") == alone.HasField("fidelity") == face.restored
            assert not face.restored or face.fidelity == alone.fidelity == response.fidelity
            assert face.HasField("crop_after") == alone.HasField("crop_after") == face.restored
        assert stage_names(result) == stage_names(single)
        assert (result.model_set, result.upscale_applied) == (single.model_set, single.upscale_applied)


async def test_a_client_that_cancels_gets_no_further_images_pasted(
    restorer: Client, gate: GatedPaste
) -> None:
    call = restorer.stub.CompareFidelities(compare_request(png(photo()), FIDELITIES, max_faces=1))
    gate.allow()
    assert (await asyncio.wait_for(call.read(), LONGEST_WAIT_S)).fidelity == 0.0
    call.cancel()

    async def ended() -> bool:
        return bool(metrics.REQUESTS_IN_PROGRESS._value.get() == 0)

    await until(ended)
    gate.allow(len(FIDELITIES))
    assert (await restorer.restore(png(photo()), max_faces=1)).face_restoration_applied
    assert gate.started <= 2 + 1, "one had begun, and one is that of the later request"


async def test_a_slow_reader_keeps_its_slot_in_the_queue(seeing: Path) -> None:
    """What it has not read stays in memory; the queue's capacity bounds how much that can be."""
    output = {"format": image_pb2.IMAGE_FORMAT_RAW_RGB8}  # 3 MB each: more than gRPC sends unread
    request = compare_request(png(photo(1000, 1000)), FIDELITIES * 2, max_faces=1, output=output)
    small = png(photo(300, 300))
    async with serve(seeing, queue_capacity=1) as client:
        readers = [client.stub.CompareFidelities(request) for _ in range(2)]
        for reader in readers:
            assert (await asyncio.wait_for(reader.read(), LONGEST_WAIT_S)).fidelity == 0.0
        await idle(client)
        _, reason, _, _ = await failure(client.restore(small, max_faces=1))
        assert reason == "QUEUE_FULL"
        for reader in readers:
            rest = [(await reader.read()).fidelity for _ in request.fidelities[1:]]
            assert rest == list(request.fidelities)[1:] and await reader.read() is grpc.aio.EOF
        assert (await client.restore(small, max_faces=1)).face_restoration_applied
        abandoned = client.stub.CompareFidelities(request)
        await abandoned.read()
        abandoned.cancel()
        await until(lambda: _has_free_slots(client, 2))


async def _has_free_slots(client: Client, slots: int) -> bool:
    with contextlib.ExitStack() as held:
        try:
            for _ in range(slots):
                held.enter_context(client.server.worker.hold_slot())
        except QueueFull:
            return False
    return True


async def test_the_message_limit_is_that_of_a_single_image(restorer: Client) -> None:
    """Eight images together may exceed it: each is a message of its own."""
    noise = np.random.default_rng(0).integers(0, 256, (1400, 1400, 3), np.uint8)
    output = {"format": image_pb2.IMAGE_FORMAT_RAW_RGB8}
    request = compare_request(png(noise), [n / 8 for n in range(8)], max_faces=1, output=output)
    sizes = [r.ByteSize() async for r in restorer.stub.CompareFidelities(request, timeout=120)]
    limit = message_limit_bytes(2_000_000)
    assert len(sizes) == 8 and max(sizes) < limit < sum(sizes)


async def test_the_same_fidelity_may_be_compared_with_itself(restorer: Client) -> None:
    call = restorer.stub.CompareFidelities(compare_request(png(photo()), [0.5, 0.5], max_faces=1))
    first, second = [response async for response in call]
    assert first.fidelity == second.fidelity == 0.5
    assert np.abs(pixels(first.result.image).astype(int) - pixels(second.result.image)).max() <= 1


async def test_an_image_without_a_face_is_returned_for_each_fidelity(blind_restorer: Client) -> None:
    source = photo(300, 200)
    call = blind_restorer.stub.CompareFidelities(compare_request(png(source), FIDELITIES))
    responses = [response async for response in call]
    assert [response.fidelity for response in responses] == FIDELITIES
    for response in responses:
        assert not response.result.face_restoration_applied
        np.testing.assert_array_equal(pixels(response.result.image), source)
