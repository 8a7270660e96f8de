"""What happens around every HTTP request: request id, metrics, one log line, failures in our own body."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Coroutine
from typing import Any, TypeVar

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from atelier_gateway.problems import REFUSALS, problem_response
from atelier_runtime import metrics
from atelier_runtime.errors import AtelierError, Cancelled, ErrorReason, InternalError
from atelier_runtime.log import REQUEST_ID_HEADER, accept_request_id, request_id

logger = logging.getLogger(__name__)

T = TypeVar("T")

_METHODS = frozenset({"GET", "HEAD", "POST", "OPTIONS", "PUT", "PATCH", "DELETE"})


class RequestContextMiddleware:
    """Innermost middleware; `paths` are the addresses that metrics and log may name."""

    def __init__(self, app: ASGIApp, *, paths: frozenset[str]) -> None:
        self._app = app
        self._paths = paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        current = accept_request_id(Headers(scope=scope).get(REQUEST_ID_HEADER))
        token = request_id.set(current)
        started = time.perf_counter()
        status = 0

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)["X-Request-ID"] = current
            await send(message)

        metrics.REQUESTS_IN_PROGRESS.inc()
        try:
            await self._app(scope, receive, send_with_id)
        except Exception:  # whatever it was, the client is answered and the log tells
            logger.exception("internal error")
            if status:  # the answer has begun: it can only be cut off
                raise
            await problem_response(record(InternalError()), current)(scope, receive, send_with_id)
        finally:
            metrics.REQUESTS_IN_PROGRESS.dec()
            self._record(scope, status, time.perf_counter() - started)
            request_id.reset(token)

    def _record(self, scope: Scope, status: int, seconds: float) -> None:
        method = scope["method"] if scope["method"] in _METHODS else "other"
        path = scope["path"] if scope["path"] in self._paths else "other"
        code = str(status or 499)
        metrics.REQUEST_DURATION.labels(f"{method} {path}", code).observe(seconds)
        level = logging.INFO if method == "POST" else logging.DEBUG
        logger.log(
            level,
            "request",
            extra={"method": method, "path": path, "code": code, "seconds": round(seconds, 4)},
        )


def record(error: AtelierError, *, quietly: bool = False) -> AtelierError:
    """Count an error that is about to be answered, log it with its cause, and return it.

    `quietly` is for probes, which ask every few seconds whether a stage has come back.
    """
    metrics.ERRORS.labels(error.reason).inc()
    if error.reason in REFUSALS:
        metrics.REFUSALS.labels(error.reason).inc()
    ours = error.reason in (ErrorReason.INTERNAL, ErrorReason.BAD_IMAGE)
    logger.log(
        logging.ERROR if ours else logging.DEBUG if quietly else logging.INFO,
        "failed",
        extra={"reason": error.reason, "error": error.message},
    )
    return error


async def cancel_on_disconnect(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """Await `work`, or cancel it as soon as the client closes the connection.

    The body must have been read. Raises Cancelled if the client hung up.
    """
    working = asyncio.create_task(work)
    watching = asyncio.create_task(_hang_up(request))
    try:
        await asyncio.wait({working, watching}, return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return working.result()
        raise Cancelled("The client hung up.")
    finally:
        working.cancel()
        watching.cancel()
        await asyncio.gather(working, watching, return_exceptions=True)


async def _hang_up(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
