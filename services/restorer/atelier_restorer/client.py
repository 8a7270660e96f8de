"""A client of the restorer that returns plain data: files and reports.

The restorer is a service somewhere (`connect`), or its servicer in this process (see `in_process`): the same
messages either way, so the same images and reports. Imports no torch, because a caller of a service does not
need it.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from typing import Any

import grpc

from atelier.common.v1 import image_pb2, skip_reason_pb2
from atelier.restorer.v1 import restorer_service_pb2 as pb
from atelier.restorer.v1 import restorer_service_pb2_grpc as pb_grpc
from atelier_restorer.convert import IDENTITY_MODES, LOOKS, MASKS, RULES
from atelier_restorer.pace import Pace
from atelier_restorer.request import DetectRequest, FaceEdit, IdentityMode, RestoreRequest
from atelier_runtime import wire
from atelier_runtime.channel import NO_LIMIT, channel_options
from atelier_runtime.errors import (
    RETRYABLE,
    AtelierError,
    BodyTooLarge,
    DeadlineExceeded,
    ErrorReason,
    InternalError,
    QueueFull,
    ServiceUnavailable,
)
from atelier_runtime.rpc_errors import from_rpc_error, is_from_grpc
from atelier_runtime.tls import Pem, channel_credentials

logger = logging.getLogger(__name__)

_RULE_NUMBERS = {rule: number for number, rule in RULES.items()}  # of two numbers, the one that is not 0
_MASK_NUMBERS = {mask: number for number, mask in MASKS.items()}
_LOOK_NUMBERS = {look: number for number, look in LOOKS.items()}

_IDENTITY_NUMBERS = {mode: number for number, mode in IDENTITY_MODES.items()}

_make_stub: Callable[[grpc.aio.Channel], Any] = (
    pb_grpc.RestorerServiceStub
)  # protoc's output is not annotated

_BUSY = RETRYABLE - {ErrorReason.SERVICE_UNAVAILABLE}
"""Not `SERVICE_UNAVAILABLE`: an unreachable address or a missing network stays so for a while."""

_OVERLOADED = {ErrorReason.QUEUE_FULL, ErrorReason.DEADLINE_UNMEETABLE}
"""Fewer calls at once would help."""

_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.25, 8.0  # doubled each time, for who refuses without saying until when

MAX_CONCURRENCY = 64
"""Calls of one client that may be in flight at once; each holds an image and its result in memory."""

_TOO_LARGE = "larger than max"
"""In what gRPC itself says of a message, with the status that also stands for overload."""

UnaryCall = Callable[[Any, float], Awaitable[Any]]
"""Takes a message and the seconds left."""
StreamCall = Callable[[Any, float], AsyncIterator[Any]]


@dataclass(frozen=True)
class Restored:
    """A restored image as a file's bytes, its mask as a gray PNG if requested, and the report.

    `report` has the names of the HTTP API: `faces`, `face_restoration_applied`, `face_restoration_reason`,
    `tone_matched`, `min_similarity`, `upscale_applied`, `upscaler`, `warnings`, `warning_codes`, `stages`,
    `model_set`.
    """

    picture: bytes
    mask: bytes | None
    crops: tuple[tuple[int, bytes, bytes], ...]
    """Index of a face, its aligned crop before and after as PNGs, if requested: of those that were restored,
    and of those that the guard of the likeness left as they were."""
    report: dict[str, Any]


class Client:
    """A restorer that can be called; see the module."""

    def __init__(
        self,
        restore_faces: UnaryCall,
        detect_faces: UnaryCall,
        compare_fidelities: StreamCall,
        *,
        timeout_s: float,
        concurrency: int = MAX_CONCURRENCY,
    ) -> None:
        """Remember the calls.

        Args:
            restore_faces: Calls RestoreFaces.
            detect_faces: Calls DetectFaces.
            compare_fidelities: Calls CompareFidelities.
            timeout_s: For one image, retries included, waiting for calls of this client's own not.
            concurrency: Calls in flight at once; others wait. Fewer while the restorer refuses some.
        """
        self._restore_faces = restore_faces
        self._detect_faces = detect_faces
        self._compare_fidelities = compare_fidelities
        self._timeout_s = timeout_s
        self._pace = Pace(concurrency)

    async def restore(self, data: bytes, request: RestoreRequest) -> Restored:
        """Restore the faces of an image file. Raises `AtelierError`."""
        message = _restore_request_to_proto(data, request)
        response = await self._with_retries(lambda seconds: self._restore_faces(message, seconds))
        if request.identity is IdentityMode.GUARD:
            wire.check_guarded(response)
        return _restored(response)

    async def compare(
        self, data: bytes, request: RestoreRequest, fidelities: Sequence[float]
    ) -> list[Restored]:
        """Restore the faces of an image file at each of 1 to 8 fidelities. Raises `AtelierError`."""
        message = pb.CompareFidelitiesRequest(
            restore=_restore_request_to_proto(data, request), fidelities=list(fidelities)
        )
        message.restore.ClearField("fidelity")

        async def call(seconds: float) -> list[pb.CompareFidelitiesResponse]:
            return [response async for response in self._compare_fidelities(message, seconds)]

        responses = await self._with_retries(call)
        wire.check_fidelities([response.fidelity for response in responses], message.fidelities)
        return [_restored(response.result) for response in responses]

    async def detect(self, data: bytes, request: DetectRequest) -> list[dict[str, Any]]:
        """Return the faces of an image file; warnings are logged. Raises `AtelierError`."""
        message = pb.DetectFacesRequest(
            image=image_pb2.Image(data=data),
            min_confidence=request.min_confidence,
            detect_size_px=request.detect_size_px,
            look=_LOOK_NUMBERS[request.look],
        )
        response = await self._with_retries(lambda seconds: self._detect_faces(message, seconds))
        for warning in wire.warnings_from_proto(response.warnings):
            logger.warning(warning.message)
        return [_face_report(face) for face in response.faces]

    async def _with_retries(self, call: Callable[[float], Awaitable[Any]]) -> Any:
        """Make a call; if the restorer is busy, do so again when it says, with fewer calls in flight."""
        left_s, attempt = self._timeout_s, 0
        while True:
            async with self._pace.slot():
                started = time.monotonic()
                try:
                    result = await call(max(0.0, left_s))
                except AtelierError as error:
                    pause_s = _pause_s(error, attempt)
                    left_s -= time.monotonic() - started
                    if pause_s is None or pause_s >= left_s:
                        raise
                    self._note_refusal(error)
                else:
                    self._pace.accepted()
                    return result
            await asyncio.sleep(pause_s)
            left_s -= pause_s
            attempt += 1

    def _note_refusal(self, error: AtelierError) -> None:
        if error.reason not in _OVERLOADED:
            logger.info("the restorer is not ready; retrying", extra={"reason": error.reason.value})
            return
        before = self._pace.allowed
        self._pace.refused()
        if self._pace.allowed < before:
            logger.info("the restorer is busy", extra={"images_at_once": self._pace.allowed})


def _pause_s(error: AtelierError, attempt: int) -> float | None:
    """Return when to try again, in seconds; None: not at all."""
    if error.reason not in _BUSY:
        return None
    if error.retry_after_s is not None or error.reason is not ErrorReason.QUEUE_FULL:
        return error.retry_after_s
    return float(min(_LONGEST_PAUSE_S, _FIRST_PAUSE_S * 2**attempt) * random.uniform(0.5, 1.5))


@asynccontextmanager
async def connect(
    address: str,
    *,
    timeout_s: float,
    concurrency: int = MAX_CONCURRENCY,
    api_key: str | None = None,
    tls: Pem | None = None,
) -> AsyncIterator[Client]:
    """Open a channel to the service at `host:port`; see `Client`. Nothing is sent yet.

    `api_key`: what is presented to it, where it has keys. `tls`: what to trust and to present; None: nothing
    is encrypted.
    """
    metadata = (("authorization", f"Bearer {api_key}"),) if api_key else ()
    # The limit is the service's to set: it depends on its own max_pixels.
    options = channel_options(max_receive_bytes=NO_LIMIT, max_send_bytes=NO_LIMIT)
    if tls is None:
        opening = grpc.aio.insecure_channel(address, options=options)
    else:
        opening = grpc.aio.secure_channel(address, channel_credentials(tls), options=options)
    async with opening as channel:
        stub = _make_stub(channel)

        def unary(method: Callable[..., Awaitable[Any]]) -> UnaryCall:
            async def call(message: Any, seconds: float) -> Any:
                try:
                    return await method(message, timeout=seconds, metadata=metadata)
                except grpc.aio.AioRpcError as error:
                    raise _readable(error, address, timeout_s) from None

            return call

        async def compare(message: Any, seconds: float) -> AsyncIterator[Any]:
            try:
                responses = stub.CompareFidelities(message, timeout=seconds, metadata=metadata)
                async for response in responses:
                    yield response
            except grpc.aio.AioRpcError as error:
                raise _readable(error, address, timeout_s) from None

        yield Client(
            unary(stub.RestoreFaces),
            unary(stub.DetectFaces),
            compare,
            timeout_s=timeout_s,
            concurrency=concurrency,
        )


def _readable(error: grpc.aio.AioRpcError, address: str, timeout_s: float) -> AtelierError:
    """Rebuild the service's error; rephrase what gRPC itself reports."""
    ours = from_rpc_error(error)
    match ours:
        case ServiceUnavailable() if is_from_grpc(error):
            return ServiceUnavailable(f"The restorer at {address} cannot be reached: {error.details()}")
        case DeadlineExceeded():
            return DeadlineExceeded(f"The restorer at {address} did not respond within {timeout_s:g} s.")
        case BodyTooLarge() if is_from_grpc(error) and _TOO_LARGE not in (error.details() or ""):
            return QueueFull(
                f"The restorer at {address} is busy: {error.details()}"
            )  # such as a proxy's limit
        case BodyTooLarge():
            return BodyTooLarge(f"The image exceeds the message limit of {address}: {error.details()}")
        case InternalError() if error.code() is grpc.StatusCode.UNIMPLEMENTED:
            return ServiceUnavailable(f"The service at {address} is not a restorer: {error.details()}")
    return ours


def _restore_request_to_proto(data: bytes, request: RestoreRequest) -> pb.RestoreFacesRequest:
    return pb.RestoreFacesRequest(
        image=image_pb2.Image(data=data),
        fidelity=request.fidelity if request.sets_fidelity else None,
        rule=_RULE_NUMBERS[request.rule],
        max_faces=request.max_faces,
        min_face_px=request.min_face_px,
        max_face_px=request.max_face_px,
        min_confidence=request.min_confidence,
        detect_size_px=request.detect_size_px,
        look=_LOOK_NUMBERS[request.look],
        visibility=request.visibility,
        upscale=request.upscale,
        use_upscaler=request.use_upscaler,
        aligned=request.aligned,
        mask=_MASK_NUMBERS[request.mask],
        output=wire.output_to_proto(request.output_format, request.quality, request.metadata),
        return_mask=request.return_mask,
        return_crops=request.return_crops,
        max_sharpness=request.max_sharpness,
        match_tone=request.match_tone,
        identity=_IDENTITY_NUMBERS[request.identity],
        min_similarity=request.min_similarity,
        faces=[_face_edit_to_proto(edit) for edit in request.faces],
    )


def _face_edit_to_proto(edit: FaceEdit) -> pb.FaceEdit:
    x1, y1, x2, y2 = edit.face.box
    face = pb.Face(
        index=edit.face.index,
        box=pb.Box(x1_px=x1, y1_px=y1, x2_px=x2, y2_px=y2),
        landmarks=[pb.Point(x_px=x, y_px=y) for x, y in edit.face.landmarks],
        confidence=edit.face.confidence,
        orientation_unclear=edit.face.orientation_unclear,
    )
    return pb.FaceEdit(face=face, fidelity=edit.fidelity, visibility=edit.visibility, skip=edit.skip)


def _restored(response: pb.RestoreFacesResponse) -> Restored:
    return Restored(
        picture=response.image.data,
        mask=response.mask.data if response.HasField("mask") else None,
        crops=tuple(
            (result.face.index, result.crop_before.data, result.crop_after.data)
            for result in response.faces
            if result.HasField("crop_after")
            and (result.restored or result.reason == skip_reason_pb2.SKIP_REASON_IDENTITY_CHANGED)
        ),
        report=_report(response),
    )


def _report(response: pb.RestoreFacesResponse) -> dict[str, Any]:
    warnings = wire.warnings_from_proto(response.warnings)
    return {
        "faces": [
            {
                **_face_report(result.face),
                "restored": result.restored,
                "reason": wire.skip_reason_from_proto(result.reason),
                "fidelity": wire.optional(result, "fidelity"),
                "fidelity_requested": wire.optional(result, "fidelity_requested"),
                "visibility": wire.optional(result, "visibility"),
                "visibility_requested": wire.optional(result, "visibility_requested"),
                "identity_similarity": wire.optional(result, "identity_similarity"),
                "identity_unknown": result.identity_unknown,
            }
            for result in response.faces
        ],
        "face_restoration_applied": response.face_restoration_applied,
        "face_restoration_reason": wire.skip_reason_from_proto(response.reason),
        "tone_matched": response.tone_matched,
        "min_similarity": wire.optional(response, "min_similarity"),
        "upscale_applied": response.upscale_applied,
        "upscaler": response.upscaler or None,
        "warnings": [warning.message for warning in warnings],
        "warning_codes": [warning.code for warning in warnings],
        "stages": [asdict(report) for report in wire.stages_from_proto(response.stages)],
        "model_set": response.model_set,
    }


def _face_report(face: pb.Face) -> dict[str, Any]:
    return {
        "box": [face.box.x1_px, face.box.y1_px, face.box.x2_px, face.box.y2_px],
        "landmarks": [[point.x_px, point.y_px] for point in face.landmarks],
        "confidence": face.confidence,
        "size_px": wire.optional(face, "size_px"),
        "sharpness": wire.optional(face, "sharpness"),
        "roll_degrees": wire.optional(face, "roll_degrees"),
        "orientation_unclear": face.orientation_unclear,
    }
