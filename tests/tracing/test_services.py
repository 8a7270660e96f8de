"""The services' traces: of calls, of each timed stage, and of batches with what is theirs."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Coroutine, Sequence
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import pytest_asyncio
from grpc.aio import AioRpcError

from atelier.generator.v1 import generator_service_pb2 as pb
from atelier_restorer.batching import FaceBatcher, RestoredCrop
from atelier_runtime import tracing
from atelier_runtime.device_worker import DeviceWorker
from tests import tiny_restorer, tiny_sdxl
from tests.integration.gateway_client import GatewayClient, serve_gateway
from tests.integration.generator_server import Running, request, result_of, serving, until
from tests.integration.restorer_server import photo, png
from tests.tracing.open_metrics import ACCEPT, samples_of
from tests.tracing.otlp_receiver import Received, Receiver, eventually

pytestmark = pytest.mark.asyncio(loop_scope="module")

GENERATE = "atelier.generator.v1.GeneratorService/GenerateImage"
RESTORE = "atelier.restorer.v1.RestorerService/RestoreFaces"
TRACES = ["1" * 32, "2" * 32]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def generator(
    module_receiver: Receiver, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Running]:
    folder = tiny_sdxl.build_set(tmp_path_factory.mktemp("sdxl"))
    async with serving(folder, max_batch=4) as running:
        yield running


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def gateway(
    module_receiver: Receiver, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[GatewayClient]:
    """A gateway, and a restorer that sees a face in every photo."""
    folder: Path = tiny_restorer.build_set(
        tmp_path_factory.mktemp("restorer"),
        detector=tiny_restorer.detector_state({tiny_restorer.FACES_OF_512_PX: 0.99}),
        codeformer=tiny_restorer.codeformer_state(),
    )
    async with serve_gateway(folder, jobs_database="none") as client:
        yield client


def parent(trace_id: str) -> tuple[tuple[str, str], ...]:
    return (("traceparent", f"00-{trace_id}-{'a' * 16}-01"),)


async def both_while_busy(running: Running, calls: list[Coroutine[Any, Any, Any]]) -> None:
    """Run calls that all wait when the device becomes free."""
    release = threading.Event()
    running.server.worker.submit(lambda job: release.wait(60))
    tasks = [asyncio.create_task(call) for call in calls]
    await until(lambda: running.server.worker.depth == len(tasks))
    release.set()
    await asyncio.gather(*tasks)


def named(receiver: Receiver, name: str, count: int = 1) -> list[Received]:
    """The spans of a name once there are so many, by their traces; not for the event loop."""
    eventually(lambda: len(receiver.named(name)) >= count)
    return sorted(receiver.named(name), key=lambda span: span.trace_id)


async def test_a_photo_is_one_trace_from_http_to_the_last_stage(
    gateway: GatewayClient, receiver: Receiver
) -> None:
    await gateway.post("/restore", png(photo()))
    [http] = await asyncio.to_thread(named, receiver, "POST /restore")
    client, server = await asyncio.to_thread(named, receiver, RESTORE, 2)
    if client.kind == "server":
        client, server = server, client
    assert (client.parent_id, server.parent_id) == (http.span_id, client.span_id)
    assert server.attributes["rpc.response.status_code"] == "OK"
    assert server.attributes["atelier.request_id"] == http.attributes["atelier.request_id"]
    spans = receiver.of_trace(http.trace_id)
    for stage in ("decode", "detect", "align", "restore", "paste", "encode", "queue"):
        assert spans[stage].parent_id == server.span_id, stage


async def test_a_span_takes_as_long_as_the_histogram_says_and_is_its_exemplar(
    gateway: GatewayClient, receiver: Receiver
) -> None:
    async def paste() -> tuple[float, list[Any]]:
        address = f"http://127.0.0.1:{gateway.restorer.server.metrics_port}/metrics"
        async with httpx.AsyncClient() as client:
            response = await client.get(address, headers=ACCEPT)
        assert response.headers["content-type"].startswith("application/openmetrics-text")
        samples = samples_of(response.text, stage="paste")
        total = sum(sample.value for sample in samples if sample.name == "atelier_stage_duration_seconds_sum")
        return total, [sample.exemplar for sample in samples if sample.exemplar]

    before, _ = await paste()
    await gateway.post("/restore", png(photo()))
    [span] = await asyncio.to_thread(named, receiver, "paste")
    after, exemplars = await paste()
    assert span.seconds == pytest.approx(after - before, abs=1e-6)
    ids = {"trace_id": span.trace_id, "span_id": span.span_id}
    [exemplar] = [exemplar for exemplar in exemplars if exemplar.labels == ids]
    assert exemplar.value == pytest.approx(span.seconds, abs=1e-6)


async def test_a_request_alone_has_its_stages_below_its_call(generator: Running, receiver: Receiver) -> None:
    await result_of(generator.generator.GenerateImage(request(), metadata=parent(TRACES[0])))
    [call] = await asyncio.to_thread(named, receiver, GENERATE)
    spans = receiver.of_trace(TRACES[0])
    for stage in ("queue", "text", "base", "decode", "encode"):
        assert spans[stage].parent_id == call.span_id, stage
    assert (call.kind, call.parent_id) == ("server", "a" * 16)
    assert "batch" not in spans


async def test_a_batch_is_a_trace_of_its_own_that_links_to_its_requests_and_they_to_it(
    generator: Running, receiver: Receiver
) -> None:
    calls = [
        result_of(generator.generator.GenerateImage(request(seed=seed), metadata=parent(trace)))
        for seed, trace in enumerate(TRACES)
    ]
    await both_while_busy(generator, calls)
    first, second = await asyncio.to_thread(named, receiver, GENERATE, 2)
    spans = await asyncio.to_thread(named, receiver, "batch", 3)
    [batch] = [span for span in spans if not span.parent_id]
    seen = {span.parent_id: span for span in spans if span.parent_id}
    assert set(batch.links) == {first.id, second.id}
    assert batch.trace_id not in TRACES and batch.attributes == {"atelier.batch.requests": 2}
    for call in (first, second):
        assert seen[call.span_id].links == [batch.id]
        own = receiver.of_trace(call.trace_id)
        for stage in ("queue", "text", "decode", "encode"):  # what they do not share
            assert own[stage].parent_id == call.span_id, stage
        assert "base" not in own
    assert receiver.of_trace(batch.trace_id)["base"].parent_id == batch.span_id


class Mirror:
    """A stand-in for the network that restores faces."""

    def restore(
        self, crops: np.ndarray, decodes: Sequence[tuple[int, float]], *, max_batch: int
    ) -> list[RestoredCrop]:
        return [crops[number] for number, _ in decodes]


async def test_faces_of_several_photos_are_a_batch_too(module_receiver: Receiver, receiver: Receiver) -> None:
    worker, release = DeviceWorker(capacity=1), threading.Event()
    batcher = FaceBatcher(worker, Mirror(), max_batch=8)
    face = np.zeros((8, 8, 3), np.uint8)

    async def photo_of(trace: str, faces: int) -> None:
        with tracing.server_span("photo", dict(parent(trace))):
            await batcher.restore([face] * faces, [[0.5]] * faces)

    blocking = worker.submit(lambda job: release.wait(60))
    tasks = [asyncio.create_task(photo_of(trace, 2)) for trace in TRACES]
    await asyncio.sleep(0)  # both have queued their faces, and the batch waits for the device
    release.set()
    await asyncio.gather(blocking.result(), *tasks)
    await asyncio.to_thread(worker.close)
    first, second = await asyncio.to_thread(named, receiver, "photo", 2)
    spans = await asyncio.to_thread(named, receiver, "batch", 3)
    [batch] = [span for span in spans if not span.parent_id]
    assert set(batch.links) == {first.id, second.id}
    assert receiver.of_trace(batch.trace_id)["restore"].parent_id == batch.span_id
    for photo_span in (first, second):
        own = receiver.of_trace(photo_span.trace_id)
        assert own["batch"].links == [batch.id]
        assert own["queue"].parent_id == own["batch"].parent_id == photo_span.span_id


async def test_a_call_that_fails_says_why_and_holds_no_message(
    generator: Running, receiver: Receiver
) -> None:
    with pytest.raises(AioRpcError):
        await result_of(generator.generator.GenerateImage(request(prompt="a cat", width_px=7)))
    [call] = await asyncio.to_thread(named, receiver, GENERATE)
    assert (call.attributes["rpc.response.status_code"], call.is_error) == ("INVALID_ARGUMENT", False)
    assert call.attributes["error.type"] == "invalid_request"
    assert "cat" not in repr(receiver.spans) and not call.status_message


async def test_who_only_looks_whether_it_lives_is_not_traced(generator: Running, receiver: Receiver) -> None:
    await generator.generator.GetStatus(pb.GetStatusRequest())
    await generator.generator.GetStatus(pb.GetStatusRequest(), metadata=parent(TRACES[0]))
    [span] = await asyncio.to_thread(named, receiver, "atelier.generator.v1.GeneratorService/GetStatus")
    assert span.trace_id == TRACES[0]
