"""Errors over HTTP: the status of every reason, and what every dialect does with an error."""

from __future__ import annotations

import logging
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Coroutine, Mapping
from typing import Any

from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Scope

from atelier_runtime import metrics, tracing
from atelier_runtime.errors import (
    DEFAULT_RETRY_AFTER_S,
    REFUSALS,
    RETRYABLE,
    AtelierError,
    ErrorReason,
    InternalError,
    MalformedBody,
    NotFound,
)

logger = logging.getLogger(__name__)

HTTP_STATUS: Mapping[ErrorReason, int] = {
    ErrorReason.INVALID_REQUEST: 422,
    ErrorReason.MALFORMED_BODY: 400,
    ErrorReason.BODY_TOO_LARGE: 413,
    ErrorReason.REQUEST_TIMEOUT: 408,
    ErrorReason.UNSUPPORTED_MEDIA_TYPE: 415,
    ErrorReason.QUEUE_FULL: 429,
    ErrorReason.DEADLINE_UNMEETABLE: 503,
    ErrorReason.DEADLINE_EXCEEDED: 504,
    ErrorReason.SERVICE_NOT_READY: 503,
    ErrorReason.SERVICE_DRAINING: 503,
    ErrorReason.SERVICE_UNAVAILABLE: 503,
    ErrorReason.NOT_SERVED: 501,
    ErrorReason.OUT_OF_MEMORY: 503,
    ErrorReason.BAD_IMAGE: 500,
    ErrorReason.CANCELLED: 499,  # for the log only: the client is gone
    ErrorReason.UNAUTHENTICATED: 401,
    ErrorReason.FORBIDDEN: 403,
    ErrorReason.RATE_LIMITED: 429,
    ErrorReason.NOT_FOUND: 404,
    ErrorReason.GONE: 410,
    ErrorReason.INTERNAL: 500,
}


class ErrorRenderingRoute(APIRoute, ABC):
    """A route that renders its errors as its dialect does. Each dialect has a subclass as its route class."""

    @staticmethod
    @abstractmethod
    def render_error(
        error: AtelierError, *, status: int | None = None, headers: Mapping[str, str] | None = None
    ) -> Response:
        """Return the response to an error; `status` overrides the table, as for HTTP's 405."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return the handler, with errors rendered."""
        handle = super().get_route_handler()

        async def handle_with_errors(request: Request) -> Response:
            try:
                return await handle(request)
            except AtelierError as error:
                log_and_count(error, is_probe=request.method in ("GET", "HEAD"))
                return self.render_error(error)
            except HTTPException:  # the framework's own; the application handles it
                raise
            except Exception:  # whatever a handler raises, the client gets a response that says so
                return self.render_error(unforeseen_error())

        return handle_with_errors


class ErrorRenderer:
    """Renders errors outside the routes in the form of the dialect that their path belongs to."""

    def __init__(self, dialects: Mapping[str, type[ErrorRenderingRoute]]) -> None:
        """`dialects`: path prefix -> route class. The longest match wins; "" is required."""
        self._dialects = sorted(dialects.items(), key=lambda item: len(item[0]), reverse=True)

    def render(
        self,
        path: str,
        error: AtelierError,
        *,
        status: int | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Response:
        """Return the response to an error at a path."""
        route_class = next(
            route_class
            for prefix, route_class in self._dialects
            if path == prefix or path.startswith(f"{prefix}/") or not prefix
        )
        return route_class.render_error(error, status=status, headers=headers)

    async def handle_unmatched(self, request: Request, error: Exception) -> Response:
        """Respond where no route took the request: 404, 405 and the framework's other errors."""
        assert isinstance(error, HTTPException), "registered for this class"
        ours: AtelierError
        if error.status_code == 404:
            ours = NotFound()
        elif error.status_code == 405:
            ours = NotFound(f"{request.method[:20]} is not a method of this path.")
        else:
            ours = MalformedBody("The request cannot be read.")
        log_and_count(ours)
        headers = error.headers if error.status_code == 405 else None  # Allow
        return self.render(path_below_root(request.scope), ours, status=error.status_code, headers=headers)


def path_below_root(scope: Scope) -> str:
    """Return a request's path without the prefix below which a proxy serves the gateway."""
    root_path, path = scope.get("root_path", ""), str(scope["path"])
    return path[len(root_path) :] if root_path and path.startswith(f"{root_path}/") else path


def retry_after(error: AtelierError) -> dict[str, str]:
    """Return the Retry-After header of an error that is worth retrying, otherwise none."""
    if error.reason not in RETRYABLE:
        return {}
    delay = DEFAULT_RETRY_AFTER_S if error.retry_after_s is None else error.retry_after_s
    return {"Retry-After": str(max(1, math.ceil(delay)))}


def challenge(error: AtelierError, scheme: str) -> dict[str, str]:
    """Return the WWW-Authenticate header of an error that a key would help against, otherwise none."""
    is_about_keys = error.reason is ErrorReason.UNAUTHENTICATED
    return {"WWW-Authenticate": f'{scheme} realm="Atelier"'} if is_about_keys else {}


def log_and_count(error: AtelierError, *, is_probe: bool = False) -> None:
    """Log and count an error that is about to be returned.

    `is_probe`: from an endpoint that is polled every few seconds; kept out of the log.
    """
    metrics.ERRORS.labels(error.reason).inc()
    tracing.note_error(error.reason)
    if error.reason in REFUSALS:
        metrics.REFUSALS.labels(error.reason).inc()
    is_our_fault = error.reason in (ErrorReason.INTERNAL, ErrorReason.BAD_IMAGE)
    logger.log(
        logging.ERROR if is_our_fault else logging.DEBUG if is_probe else logging.INFO,
        "failed",
        extra=error.for_log(),
    )


def unforeseen_error() -> InternalError:
    """Log the exception being handled with its traceback; return what the client may know of it."""
    logger.exception("internal error")
    error = InternalError()
    log_and_count(error)
    return error
