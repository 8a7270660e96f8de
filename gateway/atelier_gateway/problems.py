"""Failures on the HTTP wire: one total table from an error's reason to a status, and one body for all."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import orjson
from starlette.responses import Response

from atelier_runtime.errors import AtelierError, ErrorReason, FieldViolation, InternalError, InvalidRequest

HTTP_STATUS: Mapping[ErrorReason, int] = {
    ErrorReason.INVALID_REQUEST: 422,
    ErrorReason.MALFORMED_BODY: 400,
    ErrorReason.BODY_TOO_LARGE: 413,
    ErrorReason.UNSUPPORTED_MEDIA_TYPE: 415,
    ErrorReason.QUEUE_FULL: 429,
    ErrorReason.DEADLINE_UNMEETABLE: 503,
    ErrorReason.DEADLINE_EXCEEDED: 504,
    ErrorReason.SERVICE_NOT_READY: 503,
    ErrorReason.SERVICE_DRAINING: 503,
    ErrorReason.SERVICE_UNAVAILABLE: 503,
    ErrorReason.OUT_OF_MEMORY: 503,
    ErrorReason.BAD_IMAGE: 500,
    ErrorReason.CANCELLED: 499,  # in the log only: whoever would read it has gone
    ErrorReason.NOT_FOUND: 404,
    ErrorReason.INTERNAL: 500,
}

RETRYABLE = frozenset(
    {
        ErrorReason.QUEUE_FULL,
        ErrorReason.DEADLINE_UNMEETABLE,
        ErrorReason.SERVICE_NOT_READY,
        ErrorReason.SERVICE_DRAINING,
        ErrorReason.SERVICE_UNAVAILABLE,
    }
)
"""These carry Retry-After. Out of memory does not: the same order would fail again."""

REFUSALS = RETRYABLE - {ErrorReason.SERVICE_UNAVAILABLE} | {
    ErrorReason.INVALID_REQUEST,
    ErrorReason.MALFORMED_BODY,
    ErrorReason.BODY_TOO_LARGE,
    ErrorReason.UNSUPPORTED_MEDIA_TYPE,
}
"""Errors that are raised before any work is done; counted as refusals."""

_RETRY_AFTER_S = 5.0


def rename_fields(error: InvalidRequest, name_of: Callable[[str], str]) -> InvalidRequest:
    """Return a stage's refusal with its fields named as the client named them."""
    return InvalidRequest([FieldViolation(name_of(v.field), v.message) for v in error.fields])


def problem_body(error: AtelierError, request_id: str) -> dict[str, object]:
    """Return the body of a failure. Of an internal error it tells the request id and no more."""
    message = error.message
    if isinstance(error, InternalError):
        message = f"{InternalError.default_message} The request id leads to the cause: {request_id}"
    return {
        "success": False,
        "error": {
            "code": error.reason.value,
            "message": message,
            "fields": [
                {"field": violation.field, "message": violation.message} for violation in error.fields
            ],
        },
        "detail": message,
        "request_id": request_id,
    }


def problem_response(
    error: AtelierError,
    request_id: str,
    *,
    status: int | None = None,
    headers: Mapping[str, str] | None = None,
) -> Response:
    """Answer with a failure; `status` overrides the table for HTTP's own 405.

    The connection stays open even where a body was refused unread: the server throws the rest of it away
    as it comes. Closing would reset the connection under a client that still sends, and lose the answer.
    """
    sent = dict(headers or {})
    if error.reason in RETRYABLE:
        delay = _RETRY_AFTER_S if error.retry_after_s is None else error.retry_after_s
        sent["Retry-After"] = str(max(1, math.ceil(delay)))
    return Response(
        orjson.dumps(problem_body(error, request_id)),
        status_code=HTTP_STATUS[error.reason] if status is None else status,
        headers=sent,
        media_type="application/json",
    )
