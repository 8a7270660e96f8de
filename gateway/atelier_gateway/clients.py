"""The channels to the two stages: protobuf out, protobuf back, and a stage's errors as our exceptions.

Every call carries the request id and the time that
is left; cancelling the task that awaits a call cancels the call in the stage.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from typing import Any, Literal

import grpc

from atelier.generator.v1 import generator_service_pb2, generator_service_pb2_grpc
from atelier.restorer.v1 import restorer_service_pb2, restorer_service_pb2_grpc
from atelier_gateway import convert
from atelier_gateway.photo_schema import CompareRequest, DetectRequest, RestoreRequest
from atelier_gateway.schema import GenerateRequest
from atelier_gateway.work import Detection, Drawing, Encoding, Restoration, RestorationOrder, StageStatus
from atelier_runtime import defaults, metrics
from atelier_runtime.errors import (
    AtelierError,
    BodyTooLarge,
    Cancelled,
    DeadlineExceeded,
    InternalError,
    InvalidRequest,
    StageUnavailable,
)
from atelier_runtime.images import Format, message_limit_bytes
from atelier_runtime.log import REQUEST_ID_HEADER, request_id
from atelier_runtime.status import from_rpc_error

UNREACHABLE_RETRY_AFTER_S = 5.0

_CONNECT_TIMEOUT_MS = 5_000
_PING_TIMEOUT_MS = 10_000
_LARGEST_MESSAGE_BYTES = 2**31 - 1  # gRPC's own limit

StageName = Literal["generator", "restorer"]


def _open_channel(address: str, max_pixels: int, *, most_pictures: int) -> grpc.aio.Channel:
    limit = message_limit_bytes(max_pixels)
    return grpc.aio.insecure_channel(
        address,
        options=[
            ("grpc.max_receive_message_length", min(most_pictures * limit, _LARGEST_MESSAGE_BYTES)),
            ("grpc.max_send_message_length", limit),
            # A stage that restarts is found again within a second or two, not after gRPC's two minutes.
            ("grpc.initial_reconnect_backoff_ms", 200),
            ("grpc.max_reconnect_backoff_ms", 2000),
            # An address that swallows packets, or a process that hangs, is given up long before the deadline.
            ("grpc.min_reconnect_backoff_ms", _CONNECT_TIMEOUT_MS),
            ("grpc.keepalive_time_ms", int(defaults.PING_INTERVAL_S * 1000)),
            ("grpc.keepalive_timeout_ms", _PING_TIMEOUT_MS),
            ("grpc.enable_http_proxy", 0),
            # Two gateways in one process (as in tests) must not share a connection's backoff.
            ("grpc.use_local_subchannel_pool", 1),
        ],
    )


class Stages:
    """Both stages, each behind one channel. Make it in the event loop that uses it."""

    def __init__(self, *, generator: str, restorer: str, max_pixels: int) -> None:
        """Addresses are gRPC targets such as `127.0.0.1:50051`; nothing is connected yet."""
        self._channels = [
            _open_channel(generator, max_pixels, most_pictures=1),
            # an answer may hold a picture for each fidelity, with its mask and crops
            _open_channel(restorer, max_pixels, most_pictures=defaults.MAX_FIDELITIES),
        ]
        self._generator = generator_service_pb2_grpc.GeneratorServiceStub(self._channels[0])
        self._restorer = restorer_service_pb2_grpc.RestorerServiceStub(self._channels[1])

    async def close(self) -> None:
        """Close both channels; calls in flight are cancelled."""
        for channel in self._channels:
            await channel.close()

    async def draw(self, request: GenerateRequest, encoding: Encoding, *, deadline: float) -> Drawing:
        """Have the generator draw. `deadline`: `time.monotonic()` at which to give up.

        Raises the stage's own error; DeadlineExceeded; StageUnavailable if it cannot be reached.
        """
        async with _calling("generator"):
            message = convert.drawing_order(request, encoding)
            call = self._generator.GenerateImage(message, timeout=_remaining(deadline), metadata=_metadata())
            try:
                async for event in call:
                    if event.WhichOneof("event") == "result":
                        return convert.drawing(event.result, encoding)
            finally:
                call.cancel()  # does nothing to a finished call, and stops the work of any other
            raise InternalError("The generator ended its answer without a picture.")

    async def restore(self, order: RestorationOrder, *, deadline: float) -> Restoration:
        """Have the restorer restore a drawing's faces, enlarge and encode it. Raises like `draw`."""
        async with _calling("restorer"):
            message = convert.restoration_order(order)
            call = self._restorer.RestoreFaces(message, timeout=_remaining(deadline), metadata=_metadata())
            return convert.restoration(await call, order.encoding)

    async def restore_photo(
        self, request: RestoreRequest, output_format: Format | None, *, deadline: float
    ) -> Restoration:
        """Have the restorer restore a photograph; `output_format` None: the input's. Raises like `draw`."""
        async with _calling("restorer"):
            message = convert.restore_order(request, output_format)
            call = self._restorer.RestoreFaces(message, timeout=_remaining(deadline), metadata=_metadata())
            return convert.restoration(await call, None)

    async def compare(self, request: CompareRequest, *, deadline: float) -> tuple[Restoration, ...]:
        """Have the restorer restore a photograph once for each fidelity. Raises like `draw`."""
        async with _calling("restorer"):
            message = convert.compare_order(request)
            call = self._restorer.CompareFidelities(
                message, timeout=_remaining(deadline), metadata=_metadata()
            )
            return convert.comparison(await call)

    async def detect(self, request: DetectRequest, *, deadline: float) -> Detection:
        """Have the restorer find the faces of a photograph. Raises like `draw`."""
        async with _calling("restorer"):
            message = convert.detect_order(request)
            call = self._restorer.DetectFaces(message, timeout=_remaining(deadline), metadata=_metadata())
            return convert.detection(await call)

    async def generator_status(self, *, timeout_s: float) -> StageStatus:
        """Ask the generator for its state. Raises StageUnavailable if it does not answer in time."""
        call = self._generator.GetStatus(
            generator_service_pb2.GetStatusRequest(), timeout=timeout_s, metadata=_metadata()
        )
        return await _status("generator", call)

    async def restorer_status(self, *, timeout_s: float) -> StageStatus:
        """Ask the restorer for its state. Raises StageUnavailable if it does not answer in time."""
        call = self._restorer.GetStatus(
            restorer_service_pb2.GetStatusRequest(), timeout=timeout_s, metadata=_metadata()
        )
        return await _status("restorer", call)


@asynccontextmanager
async def _calling(stage: StageName) -> AsyncIterator[None]:
    """Count the call as pending, and turn a gRPC error into ours."""
    pending = metrics.STAGE_PENDING.labels(stage)
    pending.inc()
    try:
        yield
    except grpc.aio.AioRpcError as error:
        raise _our_error(stage, error) from None
    finally:
        pending.dec()


async def _status(stage: StageName, call: Awaitable[Any]) -> StageStatus:
    try:
        answer = await call
    except grpc.aio.AioRpcError as error:
        if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
            raise _unreachable(stage) from None
        raise _our_error(stage, error) from None
    return convert.stage_status(answer.status)


def _unreachable(stage: StageName) -> StageUnavailable:
    return StageUnavailable(f"The {stage} cannot be reached.", retry_after_s=UNREACHABLE_RETRY_AFTER_S)


def _our_error(stage: StageName, error: grpc.aio.AioRpcError) -> AtelierError:
    """Rebuild the stage's error. Texts of gRPC itself hold addresses, so they are not passed on."""
    ours = from_rpc_error(error)
    if isinstance(ours, (StageUnavailable, Cancelled)):  # a stage that is killed cancels its calls
        return _unreachable(stage)
    if isinstance(ours, DeadlineExceeded):
        return DeadlineExceeded(f"The deadline passed while the {stage} worked.")
    if isinstance(ours, BodyTooLarge) or (isinstance(ours, InvalidRequest) and not ours.fields):
        return InternalError(f"The {stage} refused a message: {error.details()}")
    if isinstance(ours, InternalError):
        return InternalError(f"The {stage} failed: {error.details()}")
    return ours


def _remaining(deadline: float) -> float:
    remaining = deadline - time.monotonic()
    if remaining <= 0:
        raise DeadlineExceeded()
    return remaining


def _metadata() -> tuple[tuple[str, str], ...]:
    current = request_id.get()
    return ((REQUEST_ID_HEADER, current),) if current else ()
