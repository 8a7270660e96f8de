"""The channels to the two stages: protobuf out, protobuf back, and a stage's errors as our exceptions.

The only file of the gateway that imports stubs. Every call carries the request id and the time that
is left; cancelling the task that awaits a call cancels the call in the stage.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from typing import Any, Literal

import grpc

from atelier.common.v1 import error_reason_pb2, image_pb2, service_status_pb2, stage_report_pb2
from atelier.generator.v1 import generator_service_pb2, generator_service_pb2_grpc
from atelier.restorer.v1 import restorer_service_pb2, restorer_service_pb2_grpc
from atelier_gateway.schema import GenerateRequest
from atelier_gateway.work import (
    Drawing,
    Encoding,
    FaceOutcome,
    Restoration,
    RestorationOrder,
    StagePicture,
    StageStatus,
)
from atelier_runtime import defaults, metrics
from atelier_runtime.errors import (
    AtelierError,
    BodyTooLarge,
    Cancelled,
    DeadlineExceeded,
    InternalError,
    InvalidRequest,
    NotDoneReason,
    StageUnavailable,
)
from atelier_runtime.images import message_limit_bytes
from atelier_runtime.log import REQUEST_ID_HEADER, request_id
from atelier_runtime.status import from_rpc_error

UNREACHABLE_RETRY_AFTER_S = 5.0

_CONNECT_TIMEOUT_MS = 5_000
_PING_TIMEOUT_MS = 10_000


StageName = Literal["generator", "restorer"]

_FORMAT_TO_PB: dict[str, image_pb2.ImageFormat] = {
    "png": image_pb2.IMAGE_FORMAT_PNG,
    "jpeg": image_pb2.IMAGE_FORMAT_JPEG,
    "webp": image_pb2.IMAGE_FORMAT_WEBP,
    "raw": image_pb2.IMAGE_FORMAT_RAW_RGB8,
}


def _open_channel(address: str, max_pixels: int) -> grpc.aio.Channel:
    limit = message_limit_bytes(max_pixels)
    return grpc.aio.insecure_channel(
        address,
        options=[
            ("grpc.max_receive_message_length", limit),
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
        self._channels = [_open_channel(address, max_pixels) for address in (generator, restorer)]
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
            message = _drawing_to_pb(request, encoding)
            call = self._generator.GenerateImage(message, timeout=_remaining(deadline), metadata=_metadata())
            try:
                async for event in call:
                    if event.WhichOneof("event") == "result":
                        return _drawing_from_pb(event.result, encoding)
            finally:
                call.cancel()  # does nothing to a finished call, and stops the work of any other
            raise InternalError("The generator ended its answer without a picture.")

    async def restore(self, order: RestorationOrder, *, deadline: float) -> Restoration:
        """Have the restorer restore faces, enlarge and encode. Raises like `draw`."""
        async with _calling("restorer"):
            message = _restoration_to_pb(order)
            call = self._restorer.RestoreFaces(message, timeout=_remaining(deadline), metadata=_metadata())
            return _restoration_from_pb(await call, order.encoding)

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
    return _status_from_pb(answer.status)


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


def _output_to_pb(encoding: Encoding) -> image_pb2.OutputOptions:
    return image_pb2.OutputOptions(format=_FORMAT_TO_PB[encoding.format], quality=encoding.quality)


def _drawing_to_pb(
    request: GenerateRequest, encoding: Encoding
) -> generator_service_pb2.GenerateImageRequest:
    return generator_service_pb2.GenerateImageRequest(
        prompt=request.prompt,
        negative_prompt=request.negative_prompt,
        width_px=request.width,
        height_px=request.height,
        num_inference_steps=request.num_inference_steps,
        guidance_scale=request.guidance_scale,
        seed=None if request.seed == -1 else request.seed,
        use_refiner=request.use_refiner,
        hires_fix=request.hires_fix,
        use_realesrgan=request.use_realesrgan,
        hires_fix_simple=request.hires_fix_simple,
        hires_scale=request.hires_scale,
        output=_output_to_pb(encoding),
    )


def _restoration_to_pb(order: RestorationOrder) -> restorer_service_pb2.RestoreFacesRequest:
    return restorer_service_pb2.RestoreFacesRequest(
        image=image_pb2.Image(
            data=order.picture.data,
            format=_FORMAT_TO_PB[order.picture.format],
            width_px=order.picture.width,
            height_px=order.picture.height,
        ),
        fidelity=order.fidelity,
        max_faces=None if order.restore_faces else 0,
        upscale=order.upscale,
        use_realesrgan=order.use_realesrgan,
        output=_output_to_pb(order.encoding),
    )


def _drawing_from_pb(result: generator_service_pb2.GenerateImageResult, asked: Encoding) -> Drawing:
    return Drawing(
        picture=_picture_from_pb(result.image, asked),
        seed=result.effective_request.seed,
        model_set=result.model_set,
        refiner_applied=result.refiner_applied,
        refiner_reason=_reason_from_pb(result.refiner_reason),
        hires_fix_applied=result.hires_fix_applied,
        hires_fix_reason=_reason_from_pb(result.hires_fix_reason),
        upscaler=result.upscaler,
        warnings=tuple(result.warnings),
        stages=tuple(_report_from_pb(report) for report in result.stages),
    )


def _restoration_from_pb(response: restorer_service_pb2.RestoreFacesResponse, asked: Encoding) -> Restoration:
    return Restoration(
        picture=_picture_from_pb(response.image, asked),
        faces=tuple(_face_from_pb(face) for face in response.faces),
        applied=response.face_restoration_applied,
        reason=_reason_from_pb(response.reason),
        upscale_applied=response.upscale_applied,
        upscaler=response.upscaler,
        warnings=tuple(response.warnings),
        stages=tuple(_report_from_pb(report) for report in response.stages),
    )


def _picture_from_pb(image: image_pb2.Image, asked: Encoding) -> StagePicture:
    if image.format != _FORMAT_TO_PB[asked.format] or not image.data:
        raise InternalError(f"A stage answered without a picture as {asked.format}.")
    return StagePicture(image.data, asked.format, image.width_px, image.height_px)


def _face_from_pb(result: restorer_service_pb2.FaceResult) -> FaceOutcome:
    box = result.face.box
    return FaceOutcome(
        box=(box.x1_px, box.y1_px, box.x2_px, box.y2_px),
        confidence=result.face.confidence,
        restored=result.restored,
        reason=_reason_from_pb(result.reason),
    )


def _reason_from_pb(value: error_reason_pb2.NotDoneReason) -> NotDoneReason | None:
    if value == error_reason_pb2.NOT_DONE_REASON_UNSPECIFIED:
        return None
    try:
        name = error_reason_pb2.NotDoneReason.Name(value)
    except ValueError:  # a stage of a newer version has a reason that we do not know
        return NotDoneReason.FAILED
    return NotDoneReason[name.removeprefix("NOT_DONE_REASON_")]


def _report_from_pb(report: stage_report_pb2.StageReport) -> metrics.StageReport:
    return metrics.StageReport(
        stage=report.stage,
        seconds=report.duration.ToNanoseconds() / 1e9,
        peak_vram_bytes=report.peak_vram_bytes if report.HasField("peak_vram_bytes") else None,
    )


def _status_from_pb(status: service_status_pb2.ServiceStatus) -> StageStatus:
    return StageStatus(
        version=status.version,
        ready=status.ready,
        model_set=status.model_set,
        device=status.device,
        device_name=status.device_name,
        vram_free_bytes=status.vram_free_bytes if status.HasField("vram_free_bytes") else None,
        vram_total_bytes=status.vram_total_bytes if status.HasField("vram_total_bytes") else None,
        networks={network.role: network.name for network in status.networks},
    )
