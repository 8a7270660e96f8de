"""What happens around every gRPC call: request id, readiness, errors to statuses, metrics, one log line."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import aclosing, contextmanager, suppress
from typing import Any

import grpc
from grpc_status import rpc_status

from atelier_runtime import metrics
from atelier_runtime.errors import AtelierError, Cancelled, DeadlineExceeded, ErrorReason, InternalError
from atelier_runtime.health import Readiness
from atelier_runtime.log import REQUEST_ID_HEADER, accept_request_id, request_id
from atelier_runtime.rpc_errors import GRPC_CODES, to_status

log = logging.getLogger(__name__)

REFUSALS = frozenset(
    {
        ErrorReason.INVALID_REQUEST,
        ErrorReason.QUEUE_FULL,
        ErrorReason.DEADLINE_UNMEETABLE,
        ErrorReason.SERVICE_NOT_READY,
        ErrorReason.SERVICE_DRAINING,
    }
)
"""Errors that are raised before any work is done."""

_CODE_NAMES = {code.value[0]: code.name for code in grpc.StatusCode}
_ALWAYS_ANSWERED = "GetStatus"


class _Ended(Exception):
    """Carries the status of a failed call from the inner to the outer function."""

    def __init__(self, error: AtelierError) -> None:
        self.error = error


class CallInterceptor(grpc.aio.ServerInterceptor):
    """Wraps every handler of the stage's own service, and only those (not health, not reflection)."""

    def __init__(self, service_name: str, readiness: Readiness) -> None:
        self._service_name = service_name
        self._readiness = readiness
        self._calls = 0
        self._idle = asyncio.Event()
        self._idle.set()

    async def all_ended(self, within_s: float) -> bool:
        """Wait for the calls in progress; return False if some are not over in that time."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._idle.wait(), within_s)
        return self._idle.is_set()

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler:
        """Wrap the handler that the server found, if it is ours."""
        handler = await continuation(handler_call_details)
        service, _, method = handler_call_details.method.lstrip("/").partition("/")
        if handler is None or service != self._service_name:
            return handler
        offered = dict(handler_call_details.invocation_metadata).get(REQUEST_ID_HEADER)
        if handler.unary_unary:
            return grpc.unary_unary_rpc_method_handler(
                self._unary(handler.unary_unary, method, offered),
                handler.request_deserializer,
                handler.response_serializer,
            )
        return grpc.unary_stream_rpc_method_handler(
            self._stream(handler.unary_stream, method, offered),
            handler.request_deserializer,
            handler.response_serializer,
        )

    def _unary(self, behaviour: Callable[..., Any], method: str, offered: str | None) -> Callable[..., Any]:
        async def call(message: Any, context: grpc.aio.ServicerContext) -> Any:
            try:
                with self._around(method, offered, context):
                    return await behaviour(message, context)
            except _Ended as ended:
                await self._abort(context, ended.error)

        return call

    def _stream(self, behaviour: Callable[..., Any], method: str, offered: str | None) -> Callable[..., Any]:
        async def call(message: Any, context: grpc.aio.ServicerContext) -> AsyncIterator[Any]:
            try:
                with self._around(method, offered, context):
                    # Closed here and now: a cancelled call must not go on until the garbage is collected.
                    async with aclosing(behaviour(message, context)) as events:
                        async for event in events:
                            yield event
            except _Ended as ended:
                await self._abort(context, ended.error)

        return call

    @contextmanager
    def _around(self, method: str, offered: str | None, context: grpc.aio.ServicerContext) -> Iterator[None]:
        request_id.set(accept_request_id(offered))  # each call has a task, so a context, of its own
        self._calls += 1
        self._idle.clear()
        metrics.REQUESTS_IN_PROGRESS.inc()
        start = time.perf_counter()
        error: AtelierError | None = None
        try:
            if method != _ALWAYS_ANSWERED:
                self._readiness.require()
            yield
        except (asyncio.CancelledError, GeneratorExit):
            # gRPC cancels the handler for both; which one it was, the clock tells.
            remaining = context.time_remaining()
            error = DeadlineExceeded() if remaining is not None and remaining <= 0 else Cancelled()
            raise
        except AtelierError as raised:
            error = raised
            if isinstance(raised, InternalError):
                log.exception("internal error")
            raise _Ended(error) from raised
        except Exception as raised:
            error = InternalError()
            log.exception("internal error")
            raise _Ended(error) from raised
        finally:
            self._calls -= 1
            if self._calls == 0:
                self._idle.set()
            metrics.REQUESTS_IN_PROGRESS.dec()
            self._record(method, time.perf_counter() - start, error)

    @staticmethod
    def _record(method: str, seconds: float, error: AtelierError | None) -> None:
        code = "OK" if error is None else _CODE_NAMES[GRPC_CODES[error.reason]]
        metrics.REQUEST_DURATION.labels(method, code).observe(seconds)
        extra: dict[str, object] = {"method": method, "code": code, "seconds": round(seconds, 4)}
        if error is not None:
            metrics.ERRORS.labels(error.reason).inc()
            if error.reason in REFUSALS:
                metrics.REFUSALS.labels(error.reason).inc()
            extra |= {"reason": error.reason, "error": error.message}
        quiet = method == _ALWAYS_ANSWERED and error is None
        log.log(logging.DEBUG if quiet else logging.INFO, "call", extra=extra)

    @staticmethod
    async def _abort(context: grpc.aio.ServicerContext, error: AtelierError) -> None:
        await context.abort_with_status(rpc_status.to_status(to_status(error, request_id.get())))
