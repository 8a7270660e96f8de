"""Asks a restorer to restore or find faces, and says in plain data what it answered.

The restorer is a service somewhere (`connect`), or its servicer in this process (`in_process.open_here`):
the same messages either way, so the same pictures and reports. Imports no torch, because a caller of a
service needs none.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import grpc

from atelier.common.v1 import error_reason_pb2, image_pb2, stage_report_pb2
from atelier.restorer.v1 import restorer_service_pb2 as pb
from atelier.restorer.v1 import restorer_service_pb2_grpc
from atelier_restorer.request import DetectRequest, FaceEdit, FaceRule, MaskKind, RestoreRequest
from atelier_runtime import defaults
from atelier_runtime.errors import (
    AtelierError,
    BodyTooLarge,
    DeadlineExceeded,
    DeadlineUnmeetable,
    InternalError,
    QueueFull,
    ServiceDraining,
    ServiceNotReady,
    ServiceUnavailable,
)
from atelier_runtime.images import Format
from atelier_runtime.rpc_errors import from_rpc_error

log = logging.getLogger(__name__)

_CONNECT_TIMEOUT_MS = 5_000
_PING_TIMEOUT_MS = 10_000

_RULES = {
    FaceRule.ALL: pb.FACE_RULE_ALL,
    FaceRule.LARGEST: pb.FACE_RULE_LARGEST,
    FaceRule.CENTER: pb.FACE_RULE_CENTER,
}
_MASKS = {MaskKind.FEATHER: pb.MASK_KIND_FEATHER, MaskKind.PARSE: pb.MASK_KIND_PARSE}
_FORMATS: dict[Format, image_pb2.ImageFormat] = {
    "png": image_pb2.IMAGE_FORMAT_PNG,
    "jpeg": image_pb2.IMAGE_FORMAT_JPEG,
    "webp": image_pb2.IMAGE_FORMAT_WEBP,
}
_COME_BACK = (QueueFull, DeadlineUnmeetable, ServiceNotReady, ServiceDraining)
"""Refusals that time heals: asked again when the restorer says so."""


@dataclass(frozen=True)
class Restored:
    """A restored picture as a file's bytes, its mask as a gray PNG if asked for, and the report.

    `report` has the contract's names: `faces`, `face_restoration_applied`, `face_restoration_reason`,
    `tone_matched`, `upscale_applied`, `upscaler`, `warnings`, `stages`, `model_set`.
    """

    picture: bytes
    mask: bytes | None
    crops: tuple[tuple[int, bytes, bytes], ...]
    """Index of a restored face, its aligned crop before and after as PNGs; if asked for."""
    report: dict[str, Any]


class Client:
    """A restorer that can be asked; see the module."""

    def __init__(
        self,
        restore_faces: Callable[[pb.RestoreFacesRequest, float], Awaitable[pb.RestoreFacesResponse]],
        detect_faces: Callable[[pb.DetectFacesRequest, float], Awaitable[pb.DetectFacesResponse]],
        compare_fidelities: Callable[
            [pb.CompareFidelitiesRequest, float], Awaitable[pb.CompareFidelitiesResponse]
        ],
        *,
        timeout_s: float,
    ) -> None:
        """Each function takes a message and the seconds left; `timeout_s` is for one picture in all."""
        self._restore_faces = restore_faces
        self._detect_faces = detect_faces
        self._compare_fidelities = compare_fidelities
        self._timeout_s = timeout_s

    async def restore(self, data: bytes, request: RestoreRequest) -> Restored:
        """Restore the faces of a picture file. Raises `AtelierError`."""
        return _restored(await self._patiently(self._restore_faces, _restore_message(data, request)))

    async def compare(
        self, data: bytes, request: RestoreRequest, fidelities: Sequence[float]
    ) -> list[Restored]:
        """Restore the faces of a picture file at each of 1 to 8 fidelities. Raises `AtelierError`."""
        message = pb.CompareFidelitiesRequest(
            restore=_restore_message(data, request), fidelities=list(fidelities)
        )
        message.restore.ClearField("fidelity")
        response = await self._patiently(self._compare_fidelities, message)
        return [_restored(result) for result in response.results]

    async def detect(self, data: bytes, request: DetectRequest) -> list[dict[str, Any]]:
        """Return what is known of each face of a picture file. Raises `AtelierError`."""
        message = pb.DetectFacesRequest(
            image=image_pb2.Image(data=data),
            min_confidence=request.min_confidence,
            detect_size_px=request.detect_size_px,
        )
        response = await self._patiently(self._detect_faces, message)
        return [_face(face) for face in response.faces]

    async def _patiently(self, call: Callable[[Any, float], Awaitable[Any]], message: Any) -> Any:
        """Ask, and ask again when a busy restorer says that it will have time."""
        deadline = time.monotonic() + self._timeout_s
        while True:
            try:
                return await call(message, max(0.0, deadline - time.monotonic()))
            except _COME_BACK as error:
                pause = error.retry_after_s
                if pause is None or time.monotonic() + pause >= deadline:
                    raise
                log.warning("the restorer is busy and is asked again", extra={"in_seconds": pause})
                await asyncio.sleep(pause)


@asynccontextmanager
async def connect(address: str, *, timeout_s: float) -> AsyncIterator[Client]:
    """Open a channel to the service at `host:port`. Nothing is sent yet."""
    channel = grpc.aio.insecure_channel(
        address,
        options=[
            # The limit is the service's to say: it depends on its own max_pixels.
            ("grpc.max_receive_message_length", -1),
            ("grpc.max_send_message_length", -1),
            # An address that swallows packets, or a process that hangs, is given up long before the deadline.
            ("grpc.min_reconnect_backoff_ms", _CONNECT_TIMEOUT_MS),
            ("grpc.keepalive_time_ms", int(defaults.PING_INTERVAL_S * 1000)),
            ("grpc.keepalive_timeout_ms", _PING_TIMEOUT_MS),
            ("grpc.enable_http_proxy", 0),
        ],
    )
    async with channel:
        stub = restorer_service_pb2_grpc.RestorerServiceStub(channel)

        def method(call: Callable[..., Awaitable[Any]]) -> Callable[[Any, float], Awaitable[Any]]:
            async def ask(message: Any, seconds: float) -> Any:
                try:
                    return await call(message, timeout=seconds)
                except grpc.aio.AioRpcError as error:
                    raise _readable(error, address, timeout_s) from None

            return ask

        methods = (stub.RestoreFaces, stub.DetectFaces, stub.CompareFidelities)
        yield Client(*map(method, methods), timeout_s=timeout_s)


def _readable(error: grpc.aio.AioRpcError, address: str, timeout_s: float) -> AtelierError:
    """Rebuild the service's error; say in our words what gRPC says in its own."""
    ours = from_rpc_error(error)
    match ours:
        case ServiceUnavailable():
            return ServiceUnavailable(f"No restorer can be reached at {address}: {error.details()}")
        case DeadlineExceeded():
            return DeadlineExceeded(f"The restorer at {address} did not answer within {timeout_s:g} s.")
        case BodyTooLarge():
            return BodyTooLarge(f"The picture is larger than {address} takes: {error.details()}")
        case InternalError() if error.code() is grpc.StatusCode.UNIMPLEMENTED:
            return ServiceUnavailable(f"What answers at {address} is no restorer: {error.details()}")
    return ours


def _restore_message(data: bytes, request: RestoreRequest) -> pb.RestoreFacesRequest:
    output = image_pb2.OutputOptions(quality=request.quality)
    if request.output_format is not None:
        output.format = _FORMATS[request.output_format]
    return pb.RestoreFacesRequest(
        image=image_pb2.Image(data=data),
        fidelity=request.fidelity,
        rule=_RULES[request.rule],
        max_faces=request.max_faces,
        min_face_px=request.min_face_px,
        max_face_px=request.max_face_px,
        min_confidence=request.min_confidence,
        visibility=request.visibility,
        upscale=request.upscale,
        use_upscaler=request.use_upscaler,
        aligned=request.aligned,
        mask=_MASKS[request.mask],
        output=output,
        return_mask=request.return_mask,
        return_crops=request.return_crops,
        max_sharpness=request.max_sharpness,
        match_tone=request.match_tone,
        faces=[_order_message(order) for order in request.faces],
    )


def _order_message(order: FaceEdit) -> pb.FaceEdit:
    x1, y1, x2, y2 = order.face.box
    face = pb.Face(
        index=order.face.index,
        box=pb.Box(x1_px=x1, y1_px=y1, x2_px=x2, y2_px=y2),
        landmarks=[pb.Point(x_px=x, y_px=y) for x, y in order.face.landmarks],
        confidence=order.face.confidence,
    )
    return pb.FaceEdit(face=face, fidelity=order.fidelity, visibility=order.visibility, skip=order.skip)


def _restored(response: pb.RestoreFacesResponse) -> Restored:
    return Restored(
        picture=response.image.data,
        mask=response.mask.data if response.HasField("mask") else None,
        crops=tuple(
            (result.face.index, result.crop_before.data, result.crop_after.data)
            for result in response.faces
            if result.restored and result.HasField("crop_after")
        ),
        report=_report(response),
    )


def _report(response: pb.RestoreFacesResponse) -> dict[str, Any]:
    return {
        "faces": [
            {
                **_face(result.face),
                "restored": result.restored,
                "reason": _reason(result.reason),
                "fidelity": result.fidelity if result.HasField("fidelity") else None,
            }
            for result in response.faces
        ],
        "face_restoration_applied": response.face_restoration_applied,
        "face_restoration_reason": _reason(response.reason),
        "tone_matched": response.tone_matched,
        "upscale_applied": response.upscale_applied,
        "upscaler": response.upscaler or None,
        "warnings": list(response.warnings),
        "stages": [_stage(report) for report in response.stages],
        "model_set": response.model_set,
    }


def _face(face: pb.Face) -> dict[str, Any]:
    return {
        "box": [face.box.x1_px, face.box.y1_px, face.box.x2_px, face.box.y2_px],
        "landmarks": [[point.x_px, point.y_px] for point in face.landmarks],
        "confidence": face.confidence,
        "size_px": face.size_px if face.HasField("size_px") else None,
        "sharpness": face.sharpness if face.HasField("sharpness") else None,
        "roll_degrees": face.roll_degrees if face.HasField("roll_degrees") else None,
    }


def _reason(number: error_reason_pb2.SkipReason) -> str | None:
    if number == error_reason_pb2.SKIP_REASON_UNSPECIFIED:
        return None
    try:
        name = error_reason_pb2.SkipReason.Name(number)
    except ValueError:  # a service of a newer version has a reason that we do not know
        return "failed"
    return name.removeprefix("SKIP_REASON_").lower()


def _stage(report: stage_report_pb2.StageReport) -> dict[str, Any]:
    return {
        "stage": report.stage,
        "seconds": report.duration.ToNanoseconds() / 1e9,
        "peak_vram_bytes": report.peak_vram_bytes if report.HasField("peak_vram_bytes") else None,
    }
