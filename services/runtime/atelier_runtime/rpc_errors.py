"""Errors over gRPC: one complete table to `google.rpc.Status`, and back.

Details follow google.rpc: ErrorInfo (reason and domain), BadRequest (the first 20 violations, the rest
counted; texts truncated, because trailers are small), RetryInfo.
"""

from __future__ import annotations

import grpc
from google.protobuf import any_pb2, duration_pb2
from google.protobuf.message import Message
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc_status import rpc_status

from atelier_runtime.errors import (
    AtelierError,
    ErrorReason,
    FieldViolation,
    InternalError,
    make_error,
)

DOMAIN = "atelier"
MAX_VIOLATIONS = 20
MAX_TEXT_CHARS = 200

GRPC_CODES: dict[ErrorReason, int] = {
    ErrorReason.INVALID_REQUEST: code_pb2.INVALID_ARGUMENT,
    ErrorReason.MALFORMED_BODY: code_pb2.INVALID_ARGUMENT,
    ErrorReason.BODY_TOO_LARGE: code_pb2.RESOURCE_EXHAUSTED,
    ErrorReason.REQUEST_TIMEOUT: code_pb2.DEADLINE_EXCEEDED,
    ErrorReason.UNSUPPORTED_MEDIA_TYPE: code_pb2.INVALID_ARGUMENT,
    ErrorReason.QUEUE_FULL: code_pb2.RESOURCE_EXHAUSTED,
    ErrorReason.DEADLINE_UNMEETABLE: code_pb2.UNAVAILABLE,
    ErrorReason.DEADLINE_EXCEEDED: code_pb2.DEADLINE_EXCEEDED,
    ErrorReason.SERVICE_NOT_READY: code_pb2.UNAVAILABLE,
    ErrorReason.SERVICE_DRAINING: code_pb2.UNAVAILABLE,
    ErrorReason.SERVICE_UNAVAILABLE: code_pb2.UNAVAILABLE,
    ErrorReason.NOT_SERVED: code_pb2.UNIMPLEMENTED,
    ErrorReason.OUT_OF_MEMORY: code_pb2.RESOURCE_EXHAUSTED,
    ErrorReason.BAD_IMAGE: code_pb2.INTERNAL,
    ErrorReason.CANCELLED: code_pb2.CANCELLED,
    ErrorReason.UNAUTHENTICATED: code_pb2.UNAUTHENTICATED,
    ErrorReason.FORBIDDEN: code_pb2.PERMISSION_DENIED,
    ErrorReason.RATE_LIMITED: code_pb2.RESOURCE_EXHAUSTED,
    ErrorReason.NOT_FOUND: code_pb2.UNIMPLEMENTED,
    ErrorReason.GONE: code_pb2.NOT_FOUND,
    ErrorReason.INTERNAL: code_pb2.INTERNAL,
}

_REASON_OF_BARE_CODE = {
    grpc.StatusCode.INVALID_ARGUMENT: ErrorReason.INVALID_REQUEST,
    grpc.StatusCode.RESOURCE_EXHAUSTED: ErrorReason.BODY_TOO_LARGE,  # gRPC's own: a message over the limit
    grpc.StatusCode.UNAVAILABLE: ErrorReason.SERVICE_UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED: ErrorReason.DEADLINE_EXCEEDED,
    grpc.StatusCode.CANCELLED: ErrorReason.CANCELLED,
}


def to_status(error: AtelierError, request_id: str | None = None) -> status_pb2.Status:
    """Build the status of an error. Of an internal error it reveals only the request ID."""
    message = error.message
    if isinstance(error, InternalError):
        message = f"{InternalError.default_message} (request {request_id or 'unknown'})"
    status = status_pb2.Status(code=GRPC_CODES[error.reason], message=_truncated(message, 4 * MAX_TEXT_CHARS))
    _add(status, error_details_pb2.ErrorInfo(reason=error.reason.name, domain=DOMAIN))
    if error.fields:
        bad = error_details_pb2.BadRequest()
        for violation in error.fields[:MAX_VIOLATIONS]:
            bad.field_violations.add(
                field=_truncated(violation.field, MAX_TEXT_CHARS),
                description=_truncated(violation.message, MAX_TEXT_CHARS),
            )
        rest = len(error.fields) - MAX_VIOLATIONS
        if rest > 0:
            bad.field_violations.add(field="...", description=f"and {rest} more")
        _add(status, bad)
    if error.retry_after_s is not None:
        delay = duration_pb2.Duration()
        delay.FromNanoseconds(int(error.retry_after_s * 1e9))
        _add(status, error_details_pb2.RetryInfo(retry_delay=delay))
    return status


def is_from_grpc(error: grpc.aio.AioRpcError) -> bool:
    """Return whether gRPC itself, not a service, raised an error, such as an unreachable address."""
    return _details(error) is None


def from_rpc_error(error: grpc.aio.AioRpcError) -> AtelierError:
    """Rebuild the exception that a service raised; a status without our details becomes the nearest one."""
    reason = _REASON_OF_BARE_CODE.get(error.code(), ErrorReason.INTERNAL)
    fields: list[FieldViolation] = []
    retry_after_s: float | None = None
    status = _details(error)
    for detail in status.details if status else ():
        info, bad, retry = (
            error_details_pb2.ErrorInfo(),
            error_details_pb2.BadRequest(),
            error_details_pb2.RetryInfo(),
        )
        if detail.Unpack(info):
            if info.domain == DOMAIN and info.reason in ErrorReason.__members__:
                reason = ErrorReason[info.reason]
        elif detail.Unpack(bad):
            fields = [FieldViolation(v.field, v.description) for v in bad.field_violations]
        elif detail.Unpack(retry):
            retry_after_s = retry.retry_delay.ToNanoseconds() / 1e9
    return make_error(reason, error.details() or "", fields=fields, retry_after_s=retry_after_s)


def _details(error: grpc.aio.AioRpcError) -> status_pb2.Status | None:
    try:
        status: status_pb2.Status | None = rpc_status.from_call(error)
    except ValueError:  # details that contradict the code are not ours
        return None
    return status


def _add(status: status_pb2.Status, detail: Message) -> None:
    packed = any_pb2.Any()
    packed.Pack(detail)
    status.details.append(packed)


def _truncated(text: str, limit: int) -> str:
    return text if len(text) <= limit else text[: limit - 3] + "..."
