"""Errors as AUTOMATIC1111's web UI has them: `error`, `detail`, `body` and `errors`, texts all four."""

from __future__ import annotations

from collections.abc import Mapping

import orjson
from pydantic import BaseModel, Field
from starlette.responses import Response

from atelier_gateway.http.errors import HTTP_STATUS, ErrorRenderingRoute, challenge, retry_after
from atelier_runtime.errors import AtelierError, InternalError
from atelier_runtime.log import request_id


class Automatic1111Error(BaseModel):
    """The body of every error under /sdapi/v1."""

    error: str = Field(description="The kind of error.", examples=["InvalidRequest"])
    detail: str = Field(description="What is wrong; every offending field is named.")
    body: str = Field(description="Always empty.")
    errors: str = Field(description="As detail.")


class Automatic1111Route(ErrorRenderingRoute):
    """A route of this dialect."""

    @staticmethod
    def render_error(
        error: AtelierError, *, status: int | None = None, headers: Mapping[str, str] | None = None
    ) -> Response:
        """Return the response to an error."""
        message = error.message
        if isinstance(error, InternalError):  # its own message is for the log
            current = request_id.get() or ""
            message = f"{InternalError.default_message} The request ID leads to the cause: {current}"
        answer = Automatic1111Error(error=type(error).__name__, detail=message, body="", errors=message)
        return Response(
            orjson.dumps(answer.model_dump()),
            status_code=HTTP_STATUS[error.reason] if status is None else status,
            headers={**(headers or {}), **retry_after(error), **challenge(error, "Basic")},
            media_type="application/json",
        )
