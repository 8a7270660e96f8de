"""The channels to the two stages: protobuf out, protobuf back, and a stage's errors as our exceptions.

Every call carries the request id and the time that is left; cancelling the task that awaits a call cancels
the call in the stage. Calls are shared among all ready replicas behind a stage's name, see `link.py`.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable
from typing import Any

import grpc
from google.protobuf.message import Message

from atelier.generator.v1 import generator_service_pb2, generator_service_pb2_grpc
from atelier.restorer.v1 import restorer_service_pb2, restorer_service_pb2_grpc
from atelier_gateway import convert
from atelier_gateway.link import BackendChannel, StageName, our_error, unreachable
from atelier_gateway.photo_schema import CompareRequest, DetectRequest, RestoreRequest
from atelier_gateway.schema import GenerateRequest
from atelier_gateway.work import Detection, Generation, Encoding, Restoration, RestorationOrder, StageStatus
from atelier_runtime import defaults
from atelier_runtime.errors import DeadlineExceeded, InternalError
from atelier_runtime.images import Format
from atelier_runtime.log import REQUEST_ID_HEADER, request_id


class Stages:
    """Both stages, each behind one name. Make it in the event loop that uses it."""

    def __init__(self, *, generator: str, restorer: str, max_pixels: int, wait_s: float = 0.0) -> None:
        """Addresses are gRPC targets such as `127.0.0.1:50051` or `dns:///restorer:50052`; nothing is
        connected yet. `wait_s`: how long a call waits for a replica while there is none.
        """
        self._generator = BackendChannel(
            "generator",
            generator,
            generator_service_pb2.DESCRIPTOR.services_by_name["GeneratorService"].full_name,
            max_pixels=max_pixels,
            most_pictures=1,
            wait_s=wait_s,
        )
        self._restorer = BackendChannel(
            "restorer",
            restorer,
            restorer_service_pb2.DESCRIPTOR.services_by_name["RestorerService"].full_name,
            max_pixels=max_pixels,
            # an answer may hold a picture for each fidelity, with its mask and crops
            most_pictures=defaults.MAX_FIDELITIES,
            wait_s=wait_s,
        )

    async def close(self) -> None:
        """Close both channels; calls in flight are cancelled."""
        await self._generator.close()
        await self._restorer.close()

    async def draw(self, request: GenerateRequest, encoding: Encoding, *, deadline: float) -> Generation:
        """Have the generator draw. `deadline`: `time.monotonic()` at which to give up.

        Raises the stage's own error; DeadlineExceeded; ServiceUnavailable if it cannot be reached.
        """
        message = convert.drawing_order(request, encoding)

        async def once(channel: grpc.aio.Channel) -> Generation:
            stub = generator_service_pb2_grpc.GeneratorServiceStub(channel)
            call = stub.GenerateImage(message, timeout=_remaining(deadline), metadata=_metadata())
            try:
                async for event in call:
                    if event.WhichOneof("event") == "result":
                        return convert.drawing(event.result, encoding)
            finally:
                call.cancel()  # does nothing to a finished call, and stops the work of any other
            raise InternalError("The generator ended its answer without a picture.")

        return await self._generator.call(once, deadline)

    async def restore(self, order: RestorationOrder, *, deadline: float) -> Restoration:
        """Have the restorer restore a drawing's faces, enlarge and encode it. Raises like `draw`."""
        answer = await self._ask_restorer("RestoreFaces", convert.restoration_order(order), deadline)
        return convert.restoration(answer, order.encoding)

    async def restore_photo(
        self, request: RestoreRequest, output_format: Format | None, *, deadline: float
    ) -> Restoration:
        """Have the restorer restore a photograph; `output_format` None: the input's. Raises like `draw`."""
        message = convert.restore_order(request, output_format)
        return convert.restoration(await self._ask_restorer("RestoreFaces", message, deadline), None)

    async def compare(self, request: CompareRequest, *, deadline: float) -> tuple[Restoration, ...]:
        """Have the restorer restore a photograph once for each fidelity. Raises like `draw`."""
        message = convert.compare_order(request)
        return convert.comparison(await self._ask_restorer("CompareFidelities", message, deadline))

    async def detect(self, request: DetectRequest, *, deadline: float) -> Detection:
        """Have the restorer find the faces of a photograph. Raises like `draw`."""
        message = convert.detect_order(request)
        return convert.detection(await self._ask_restorer("DetectFaces", message, deadline))

    async def _ask_restorer(self, method: str, message: Message, deadline: float) -> Any:
        async def once(channel: grpc.aio.Channel) -> Any:
            method_of = getattr(restorer_service_pb2_grpc.RestorerServiceStub(channel), method)
            return await method_of(message, timeout=_remaining(deadline), metadata=_metadata())

        return await self._restorer.call(once, deadline)

    async def generator_status(self, *, timeout_s: float) -> StageStatus:
        """Ask the generator for its state. Raises ServiceUnavailable if it does not answer in time."""
        stub = generator_service_pb2_grpc.GeneratorServiceStub(self._generator.status_channel)
        request = generator_service_pb2.GetStatusRequest()
        return await _status("generator", stub.GetStatus(request, timeout=timeout_s, metadata=_metadata()))

    async def restorer_status(self, *, timeout_s: float) -> StageStatus:
        """Ask the restorer for its state. Raises ServiceUnavailable if it does not answer in time."""
        stub = restorer_service_pb2_grpc.RestorerServiceStub(self._restorer.status_channel)
        request = restorer_service_pb2.GetStatusRequest()
        return await _status("restorer", stub.GetStatus(request, timeout=timeout_s, metadata=_metadata()))


async def _status(stage: StageName, call: Awaitable[Any]) -> StageStatus:
    try:
        answer = await call
    except grpc.aio.AioRpcError as error:
        if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
            raise unreachable(stage) from None
        raise our_error(stage, error) from None
    return convert.stage_status(answer.status)


def _remaining(deadline: float) -> float:
    remaining = deadline - time.monotonic()
    if remaining <= 0:
        raise DeadlineExceeded()
    return remaining


def _metadata() -> tuple[tuple[str, str], ...]:
    current = request_id.get()
    return ((REQUEST_ID_HEADER, current),) if current else ()
