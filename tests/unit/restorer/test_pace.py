"""How many calls a client has in flight, with what a restorer of a certain capacity accepts."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import grpc
import pytest

from atelier.restorer.v1 import restorer_service_pb2 as pb
from atelier_restorer.client import Client, connect
from atelier_restorer.pace import Pace
from atelier_restorer.request import DetectRequest
from atelier_runtime.errors import BodyTooLarge, QueueFull


class Restorer:
    """Accepts `capacity` calls at once, and refuses others as the errors of `refusal` say."""

    def __init__(self, capacity: int, retry_after_s: float | None) -> None:
        self.capacity = capacity
        self.retry_after_s = retry_after_s
        self.running = self.peak = self.refused = self.accepted = 0

    async def __call__(self, message: object, seconds: float) -> pb.DetectFacesResponse:
        if self.running >= self.capacity:
            self.refused += 1
            raise QueueFull(retry_after_s=self.retry_after_s)
        self.running += 1
        self.peak = max(self.peak, self.running)
        try:
            for _ in range(20):
                await asyncio.sleep(0)
            self.accepted += 1
            return pb.DetectFacesResponse()
        finally:
            self.running -= 1

    def client(self, concurrency: int) -> Client:
        return Client(self, self, no_comparisons, timeout_s=60, concurrency=concurrency)


async def no_comparisons(message: object, seconds: float) -> AsyncIterator[object]:
    responses: tuple[object, ...] = ()
    for response in responses:
        yield response


async def detect_all(client: Client, images: int) -> None:
    await asyncio.gather(*(client.detect(b"", DetectRequest()) for _ in range(images)))


async def test_no_more_calls_than_allowed_are_in_flight() -> None:
    restorer = Restorer(capacity=100, retry_after_s=None)
    await detect_all(restorer.client(concurrency=3), 20)
    assert (restorer.peak, restorer.refused, restorer.accepted) == (3, 0, 20)


@pytest.mark.parametrize("retry_after_s", [0.001, None])
async def test_refusals_lower_the_number_to_what_is_accepted(retry_after_s: float | None) -> None:
    """Without it, each of the calls waiting would be sent again, with its image, until it is accepted."""
    restorer = Restorer(capacity=2, retry_after_s=retry_after_s)
    await detect_all(restorer.client(concurrency=16), 60)
    assert restorer.accepted == 60 and restorer.peak == 2
    assert restorer.refused < 60


async def test_the_number_rises_again() -> None:
    pace = Pace(8)
    async with pace.slot(), pace.slot(), pace.slot():
        pace.refused()
    assert pace.allowed == 2
    for _ in range(2 + 3 + 4 + 5 + 6 + 7 + 8):
        pace.accepted()
    assert pace.allowed == 8
    for _ in range(20):
        async with pace.slot():
            pace.refused()
    assert pace.allowed == 1, "there is always one, or nothing would go on"


async def test_a_waiting_call_can_be_canceled() -> None:
    pace = Pace(1)
    async with pace.slot():
        waiting = asyncio.create_task(pace.slot().__aenter__())
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
    async with asyncio.timeout(30), pace.slot():
        assert pace.in_flight == 1


async def test_a_refusal_without_details_is_tried_again() -> None:
    """A bare status, as of a proxy with a limit; gRPC gives the same one to a message that is too large."""
    details = ["rate limited", "rate limited"]

    async def detect(request: bytes, context: grpc.aio.ServicerContext) -> bytes:
        if details:
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, details.pop())
        return b""

    handlers = {"DetectFaces": grpc.unary_unary_rpc_method_handler(detect)}
    server = grpc.aio.server()
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler("atelier.restorer.v1.RestorerService", handlers),)
    )
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with connect(f"127.0.0.1:{port}", timeout_s=60) as client:
            assert await client.detect(b"image", DetectRequest()) == []
            details.append("Received message larger than max (5 vs. 4)")
            with pytest.raises(BodyTooLarge, match="larger than max"):
                await client.detect(b"image", DetectRequest())
    finally:
        await server.stop(None)
