"""What surrounds every HTTP request but CORS preflights: ID, span, metrics, a log line, a last resort."""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from atelier_gateway.access.caller import PIXELS, address_of, caller_in
from atelier_gateway.http.errors import HTTP_STATUS, path_below_root, unforeseen_error
from atelier_runtime import metrics, tracing
from atelier_runtime.caller import caller as current_caller
from atelier_runtime.errors import AtelierError, ErrorReason, ServiceDraining
from atelier_runtime.log import REQUEST_ID_HEADER, accept_request_id, request_id

audit = logging.getLogger("atelier_gateway.audit")
"""A line for each request: who, what kind, sizes, outcome. No prompt and no picture is in it."""

_METHODS = frozenset({"GET", "HEAD", "POST", "OPTIONS", "PUT", "PATCH", "DELETE"})
_NOT_TRACED = frozenset({"/livez", "/readyz", "/health", "/metrics"})
"""What is asked every few seconds."""
_CLIENT_CLOSED_REQUEST = 499
_POLLED = frozenset({"/", "/livez", "/readyz", "/health", "/metrics", "/studio/{name:path}", "other"})
_NO_KEY = "anonymous"
_REFUSED = "none"
"""Labels where there is no key: the caller needs none, or it was refused. No key has such a name."""

_SLASHES = re.compile(r"/{2,}")


class RequestContextMiddleware:
    """The innermost middleware: it must see the scope in which the router leaves the matched route."""

    def __init__(self, app: ASGIApp, *, render_error: Callable[[str, AtelierError], Response]) -> None:
        """`render_error` takes a path and an error outside the routes; each route renders its own."""
        self._app = app
        self._render_error = render_error

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        with _span(scope):
            await self._serve(scope, receive, send)

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        current = accept_request_id(Headers(scope=scope).get(REQUEST_ID_HEADER))
        token = request_id.set(current)
        caller_token = current_caller.set("")
        started = time.perf_counter()
        status = received = sent = 0

        async def counted_receive() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            return message

        async def send_with_id(message: Message) -> None:
            nonlocal status, sent
            sent += len(message.get("body", b""))
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)["X-Request-ID"] = current
            await send(message)

        metrics.REQUESTS_IN_PROGRESS.inc()
        try:
            await self._app(scope, counted_receive, send_with_id)
        except asyncio.CancelledError:  # only the end of the time for draining cancels a request
            if status:  # the response has begun: it is cut off, and counts as what it would have been
                status = HTTP_STATUS[ErrorReason.SERVICE_DRAINING]
            else:
                late = ServiceDraining("The gateway has stopped before the request was finished.")
                await self._render_error(path_below_root(scope), late)(scope, receive, send_with_id)
        except Exception:  # even what a middleware raises must get a response and a line in the log
            error = unforeseen_error()
            if status:
                status = HTTP_STATUS[error.reason]
                raise
            await self._render_error(path_below_root(scope), error)(scope, receive, send_with_id)
        finally:
            metrics.REQUESTS_IN_PROGRESS.dec()
            seconds = time.perf_counter() - started
            _record(scope, status or _CLIENT_CLOSED_REQUEST, seconds, received, sent)
            current_caller.reset(caller_token)
            request_id.reset(token)


class SlashesMiddleware:
    """Takes several slashes for one: people end addresses with a slash, and clients append paths to them."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Give each request the path that is meant."""
        if scope["type"] == "http" and "//" in scope["path"]:
            scope = {**scope, "path": _SLASHES.sub("/", scope["path"])}
        await self._app(scope, receive, send)


class RootPathMiddleware:
    """Lets requests come with the prefix below which a proxy serves the gateway, and without it."""

    def __init__(self, app: ASGIApp, *, root_path: str) -> None:
        self._app = app
        self._root_path = root_path

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Give each request the whole path, and say which part of it is the prefix, as ASGI wants it."""
        if scope["type"] == "http":
            path = scope["path"]
            if path == self._root_path:
                path += "/"
            elif not path.startswith(f"{self._root_path}/"):
                path = self._root_path + path
            scope = {**scope, "root_path": self._root_path, "path": path}
        await self._app(scope, receive, send)


def _span(scope: Scope) -> AbstractContextManager[object]:
    if path_below_root(scope) in _NOT_TRACED:
        return nullcontext()
    method = scope["method"] if scope["method"] in _METHODS else "other"
    return tracing.server_span(method, Headers(scope=scope), {"http.request.method": method})


def _describe_span(method: str, path: str, status: int) -> None:
    if (span := tracing.current()) is None:
        return
    if path != "other":
        span.rename(f"{method} {path}")
        span.set({"http.route": path})
    span.set({"http.response.status_code": status, "atelier.request_id": request_id.get() or ""})
    if status >= 500:
        span.fail()


def _record(scope: Scope, status: int, seconds: float, received: int, sent: int) -> None:
    method = scope["method"] if scope["method"] in _METHODS else "other"
    path = route_template(scope)
    code = str(status)
    metrics.REQUEST_DURATION.labels(f"{method} {path}", code).observe(seconds, tracing.exemplar())
    _describe_span(method, path, status)
    caller = caller_in(scope)
    key = caller.key.name if caller and caller.key else _NO_KEY if caller else _REFUSED
    metrics.KEY_REQUESTS.labels(key, code).inc()
    fields: dict[str, object] = {
        "caller": caller.name if caller else f"address {address_of(scope)}",
        "method": method,
        "path": path,
        "code": code,
        "seconds": round(seconds, 4),
        "received_bytes": received,
        "sent_bytes": sent,
    }
    if pixels := scope.get("state", {}).get(PIXELS):
        fields["pixels"] = pixels
    # What is polled, or is the page's own, says nothing of who does what.
    is_polled = method in ("GET", "HEAD") and path in _POLLED
    audit.log(logging.DEBUG if is_polled else logging.INFO, "request", extra=fields)


def route_template(scope: Scope) -> str:
    """Return the path of the matched route as it was declared, such as `/v1/jobs/{id}`.

    "other" where no route matched, and for mounted files: a client must not be able to make up label values.
    A prefix must be given to the `APIRouter`, not to `include_router`, to be part of the template.
    """
    route = scope.get("route")
    return "other" if route is None else str(route.path)
