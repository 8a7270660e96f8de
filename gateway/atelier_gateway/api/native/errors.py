"""Errors in the native contract: one body for all of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import orjson
from pydantic import BaseModel, Field
from starlette.responses import Response

from atelier_gateway.http.errors import HTTP_STATUS, ErrorRenderingRoute, challenge, retry_after
from atelier_runtime.errors import AtelierError, InternalError
from atelier_runtime.log import request_id
from atelier_runtime.recipes.whole import whole_text


class FieldProblem(BaseModel):
    """One offending field, as the client named it."""

    field: str
    message: str


class ProblemDetail(BaseModel):
    """Why a request failed."""

    code: str = Field(examples=["invalid_request"])
    message: str
    fields: list[FieldProblem]


class Problem(BaseModel):
    """The body of every error."""

    success: Literal[False] = False
    error: ProblemDetail
    detail: str = Field(description="The message again, where older clients look for it.")
    request_id: str


class NativeRoute(ErrorRenderingRoute):
    """A route of the native contract."""

    @staticmethod
    def render_error(
        error: AtelierError, *, status: int | None = None, headers: Mapping[str, str] | None = None
    ) -> Response:
        """Return the response to an error.

        The connection stays open even where a body was refused unread: the server discards the rest as it
        comes. Closing it would reset the connection while the client is still sending, and lose the response.
        """
        return Response(
            orjson.dumps(_problem(error, request_id.get() or "").model_dump(mode="json")),
            status_code=HTTP_STATUS[error.reason] if status is None else status,
            headers={**(headers or {}), **retry_after(error), **challenge(error, "Bearer")},
            media_type="application/json",
        )


def _problem(error: AtelierError, current: str) -> Problem:
    message = error.message
    if isinstance(error, InternalError):  # its own message is for the log
        message = f"{InternalError.default_message} The request ID leads to the cause: {current}"
    message = whole_text(message)  # it may quote a text that UTF-8 cannot express
    fields = [FieldProblem(field=whole_text(v.field), message=whole_text(v.message)) for v in error.fields]
    return Problem(
        error=ProblemDetail(code=error.reason.value, message=message, fields=fields),
        detail=message,
        request_id=current,
    )
