"""Errors in OpenAI's shape, with its types and codes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import NamedTuple

import orjson
from pydantic import BaseModel, Field
from starlette.responses import Response

from atelier_gateway.http.errors import ErrorRenderingRoute, challenge, retry_after
from atelier_gateway.http.schemas import printable
from atelier_runtime.errors import (
    AtelierError,
    ErrorReason,
    FieldViolation,
    InternalError,
    InvalidRequest,
    NotFound,
)
from atelier_runtime.log import request_id

INVALID = "invalid_request_error"
SERVER = "server_error"


class Told(NamedTuple):
    """How a reason is told: the HTTP status, and the error's type and code."""

    status: int
    type: str
    code: str


ERRORS: Mapping[ErrorReason, Told] = {
    ErrorReason.INVALID_REQUEST: Told(400, INVALID, "invalid_value"),
    ErrorReason.MALFORMED_BODY: Told(400, INVALID, "malformed_body"),
    ErrorReason.BODY_TOO_LARGE: Told(413, INVALID, "request_too_large"),
    ErrorReason.REQUEST_TIMEOUT: Told(408, INVALID, "request_timeout"),
    ErrorReason.UNSUPPORTED_MEDIA_TYPE: Told(415, INVALID, "unsupported_content_type"),
    ErrorReason.QUEUE_FULL: Told(429, "rate_limit_error", "rate_limit_exceeded"),
    ErrorReason.DEADLINE_UNMEETABLE: Told(503, SERVER, "server_overloaded"),
    ErrorReason.DEADLINE_EXCEEDED: Told(504, SERVER, "timeout"),
    ErrorReason.SERVICE_NOT_READY: Told(503, SERVER, "service_unavailable"),
    ErrorReason.SERVICE_DRAINING: Told(503, SERVER, "service_unavailable"),
    ErrorReason.SERVICE_UNAVAILABLE: Told(503, SERVER, "service_unavailable"),
    ErrorReason.NOT_SERVED: Told(501, SERVER, "not_served"),
    ErrorReason.OUT_OF_MEMORY: Told(503, SERVER, "out_of_memory"),
    ErrorReason.BAD_IMAGE: Told(500, SERVER, "server_error"),
    ErrorReason.CANCELLED: Told(499, INVALID, "cancelled"),  # for the log only: the client is gone
    ErrorReason.UNAUTHENTICATED: Told(401, INVALID, "invalid_api_key"),
    ErrorReason.FORBIDDEN: Told(403, INVALID, "insufficient_permissions"),
    ErrorReason.RATE_LIMITED: Told(429, "rate_limit_error", "rate_limit_exceeded"),
    ErrorReason.NOT_FOUND: Told(404, INVALID, "unknown_url"),
    ErrorReason.GONE: Told(410, INVALID, "expired"),
    ErrorReason.INTERNAL: Told(500, SERVER, "server_error"),
}
"""409 is not among them: OpenAI's clients would repeat the request."""

_NOT_WORTH_REPEATING = frozenset(
    {ErrorReason.DEADLINE_EXCEEDED, ErrorReason.OUT_OF_MEMORY, ErrorReason.NOT_SERVED}
)
"""Their clients repeat each 5xx twice, unless they are told that it does not help."""


class OpenAIErrorDetail(BaseModel):
    """Why a request failed."""

    message: str
    type: str = Field(examples=[INVALID])
    param: str | None = Field(description="The offending field, as the client named it.")
    code: str | None = Field(examples=["invalid_value"])


class OpenAIErrorAnswer(BaseModel):
    """The body of every error."""

    error: OpenAIErrorDetail


class Refusal(InvalidRequest):
    """A refused field, with the code that OpenAI has for it."""

    def __init__(self, field: str, message: str, code: str) -> None:
        super().__init__([FieldViolation(field, message)])
        self.code = code


class ModelNotFound(NotFound):
    """There is no such model; other than in a request for images, its name matters."""

    code = "model_not_found"

    def __init__(self, name: str) -> None:
        super().__init__(f"The model '{printable(name)}' does not exist.")
        self.fields = (FieldViolation("model", "does not exist"),)


def unsupported_value(field: str, message: str) -> Refusal:
    """Return the error of a value that OpenAI knows and we cannot do."""
    return Refusal(field, message, "unsupported_value")


def unsupported_parameter(field: str, message: str) -> Refusal:
    """Return the error of a field that has no meaning here, and would change the picture elsewhere."""
    return Refusal(field, message, "unsupported_parameter")


@contextmanager
def told_by_client_names(new_name: Callable[[str], str]) -> Iterator[None]:
    """Rename the fields of an `InvalidRequest` that is raised inside to what the client called them.

    Several of `/generate` may come from one of OpenAI's: width and height from size.
    """
    try:
        yield
    except Refusal:  # which names the client's field
        raise
    except InvalidRequest as error:
        renamed = (FieldViolation(new_name(each.field), each.message) for each in error.fields)
        raise InvalidRequest(tuple(dict.fromkeys(renamed))) from error


def error_detail(error: AtelierError, *, status: int | None = None) -> OpenAIErrorDetail:
    """Return what a client is told of an error."""
    _, error_type, code = ERRORS[error.reason]
    message = error.message
    if isinstance(error, InternalError):  # its own message is for the log
        message = f"{InternalError.default_message} The request ID leads to the cause: {request_id.get()}"
    if isinstance(error, Refusal | ModelNotFound):
        code = error.code
    elif status == 405:
        code = "method_not_allowed"
    param = error.fields[0].field if error.fields else None
    return OpenAIErrorDetail(message=message, type=error_type, param=param, code=code)


class OpenAIRoute(ErrorRenderingRoute):
    """A route of OpenAI's interface."""

    @staticmethod
    def render_error(
        error: AtelierError, *, status: int | None = None, headers: Mapping[str, str] | None = None
    ) -> Response:
        """Return the response to an error."""
        answer = OpenAIErrorAnswer(error=error_detail(error, status=status))
        repeat = {"x-should-retry": "false"} if error.reason in _NOT_WORTH_REPEATING else {}
        return Response(
            orjson.dumps(answer.model_dump()),
            status_code=ERRORS[error.reason].status if status is None else status,
            headers={**(headers or {}), **retry_after(error), **challenge(error, "Bearer"), **repeat},
            media_type="application/json",
        )
