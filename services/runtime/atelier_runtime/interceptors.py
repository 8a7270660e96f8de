"""What every gRPC call goes through: request ID, API key, readiness, errors to statuses, metrics, a log line.

An exception keeps the frames that it passed, and with them the request's image. gRPC keeps the exception of
`abort` in a cycle that only a full garbage collection finds. So a call is aborted outside its `except` block,
when neither the frame nor the exception's context lead to the message.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import AbstractContextManager, aclosing, contextmanager, nullcontext, suppress
from typing import Any

import grpc
from google.protobuf.message import DecodeError
from grpc_status import rpc_status

from atelier_runtime import metrics, tracing
from atelier_runtime.call_keys import CallKeys
from atelier_runtime.caller import caller
from atelier_runtime.errors import (
    REFUSALS,
    AtelierError,
    Cancelled,
    DeadlineExceeded,
    InternalError,
    MalformedBody,
)
from atelier_runtime.health import Readiness
from atelier_runtime.log import REQUEST_ID_HEADER, accept_request_id, request_id
from atelier_runtime.rpc_errors import GRPC_CODES, to_status

logger = logging.getLogger(__name__)

_CODE_NAMES = {code.value[0]: code.name for code in grpc.StatusCode}
_STATUS_METHOD = "GetStatus"
_Messages = AsyncIterator[Any]
_Metadata = Mapping[str, Any]
_OURS = frozenset({"UNKNOWN", "DEADLINE_EXCEEDED", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS"})
"""Codes that make the span of a call a failed one, as OpenTelemetry's conventions have it for servers."""
_MALFORMED = "The message is not a protobuf message of this method."


class _Failed(Exception):
    """Carries the status of a failed call from the inner to the outer function."""

    def __init__(self, error: AtelierError) -> None:
        self.status: grpc.Status = rpc_status.to_status(to_status(error, request_id.get()))


class _Malformed:
    """Takes the place of a message that is not one: gRPC itself would respond UNKNOWN with Python's text."""


def _or_malformed(deserialize: Callable[[bytes], Any]) -> Callable[[bytes], Any]:
    def deserialize_or_not(serialized: bytes) -> Any:
        try:
            return deserialize(serialized)
        except DecodeError:
            return _Malformed()

    return deserialize_or_not


def _refusing_malformed(handler: grpc.RpcMethodHandler) -> grpc.RpcMethodHandler:
    """Wrap a handler of health or reflection, which is otherwise left alone."""
    deserializer, serializer = _or_malformed(handler.request_deserializer), handler.response_serializer

    async def refuse(message: object, context: grpc.aio.ServicerContext) -> None:
        if isinstance(message, _Malformed):
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, _MALFORMED)

    async def checked(messages: _Messages, context: grpc.aio.ServicerContext) -> _Messages:
        async for message in messages:
            await refuse(message, context)
            yield message

    async def stream(messages: _Messages, context: grpc.aio.ServicerContext) -> _Messages:
        async for response in handler.stream_stream(checked(messages, context), context):
            yield response

    async def unary(message: Any, context: grpc.aio.ServicerContext) -> Any:
        await refuse(message, context)
        return await (handler.unary_unary or handler.unary_stream)(message, context)

    if handler.stream_stream:
        return grpc.stream_stream_rpc_method_handler(stream, deserializer, serializer)
    if handler.unary_unary:
        return grpc.unary_unary_rpc_method_handler(unary, deserializer, serializer)
    return grpc.unary_stream_rpc_method_handler(unary, deserializer, serializer)


def _check(message: object) -> None:
    if isinstance(message, _Malformed):
        raise MalformedBody(_MALFORMED)


class CallInterceptor(grpc.aio.ServerInterceptor):
    """Wraps every handler of the service itself, but not those of health and reflection."""

    def __init__(self, service_name: str, readiness: Readiness, keys: CallKeys) -> None:
        self._service_name = service_name
        self._readiness = readiness
        self._keys = keys
        self._calls = 0
        self._idle = asyncio.Event()
        self._idle.set()

    async def all_ended(self, within_s: float) -> bool:
        """Wait for the calls in progress; return False if some have not ended in that time."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._idle.wait(), within_s)
        return self._idle.is_set()

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler:
        """Wrap the handler of a call to our service."""
        handler = await continuation(handler_call_details)
        service, _, method = handler_call_details.method.lstrip("/").partition("/")
        if handler is None:
            return handler
        if service != self._service_name:
            return _refusing_malformed(handler)
        metadata = dict(handler_call_details.invocation_metadata)
        deserializer = _or_malformed(handler.request_deserializer)
        if handler.unary_unary:
            return grpc.unary_unary_rpc_method_handler(
                self._unary(handler.unary_unary, method, metadata), deserializer, handler.response_serializer
            )
        return grpc.unary_stream_rpc_method_handler(
            self._stream(handler.unary_stream, method, metadata), deserializer, handler.response_serializer
        )

    def _unary(self, handle: Callable[..., Any], method: str, metadata: _Metadata) -> Callable[..., Any]:
        async def call(message: Any, context: grpc.aio.ServicerContext) -> Any:
            try:
                with self._span(method, metadata), self._observed(method, metadata, context):
                    _check(message)
                    return await handle(message, context)
            except _Failed as failed:
                status = failed.status
            del message
            await context.abort_with_status(status)

        return call

    def _stream(self, handle: Callable[..., Any], method: str, metadata: _Metadata) -> Callable[..., Any]:
        async def call(message: Any, context: grpc.aio.ServicerContext) -> AsyncIterator[Any]:
            try:
                with self._span(method, metadata), self._observed(method, metadata, context):
                    _check(message)
                    # Closed at once: a canceled call must not go on until garbage collection.
                    async with aclosing(handle(message, context)) as events:
                        async for event in events:
                            yield event
                return
            except _Failed as failed:
                status = failed.status
            del message
            await context.abort_with_status(status)

        return call

    def _span(self, method: str, metadata: _Metadata) -> AbstractContextManager[object]:
        if method == _STATUS_METHOD and tracing.TRACEPARENT not in metadata:  # somebody looks whether we live
            return nullcontext()
        name = f"{self._service_name}/{method}"
        return tracing.server_span(name, metadata, {"rpc.system.name": "grpc", "rpc.method": name})

    @contextmanager
    def _observed(
        self, method: str, metadata: _Metadata, context: grpc.aio.ServicerContext
    ) -> Iterator[None]:
        # each call has its own task, and so its own context
        request_id.set(accept_request_id(metadata.get(REQUEST_ID_HEADER)))
        self._calls += 1
        self._idle.clear()
        metrics.REQUESTS_IN_PROGRESS.inc()
        start = time.perf_counter()
        error: AtelierError | None = None
        try:
            peer = context.peer().rpartition(":")[0]
            caller.set(self._keys.admit(metadata, peer, works=method != _STATUS_METHOD))
            if method != _STATUS_METHOD:
                self._readiness.require()
            yield
        except (asyncio.CancelledError, GeneratorExit):
            # gRPC cancels the handler in both cases; the clock tells which one it was.
            remaining = context.time_remaining()
            error = DeadlineExceeded() if remaining is not None and remaining <= 0 else Cancelled()
            raise
        except AtelierError as raised:
            error = raised
            if isinstance(raised, InternalError):
                logger.exception("internal error")
            raise _Failed(error) from raised
        except Exception as raised:
            error = InternalError()
            logger.exception("internal error")
            raise _Failed(error) from raised
        finally:
            self._calls -= 1
            if self._calls == 0:
                self._idle.set()
            metrics.REQUESTS_IN_PROGRESS.dec()
            self._record(method, time.perf_counter() - start, error)
            del error  # its traceback leads to this frame

    @staticmethod
    def _record(method: str, seconds: float, error: AtelierError | None) -> None:
        code = "OK" if error is None else _CODE_NAMES[GRPC_CODES[error.reason]]
        metrics.REQUEST_DURATION.labels(method, code).observe(seconds, tracing.exemplar())
        _describe_span(code, error)
        extra: dict[str, object] = {"method": method, "code": code, "seconds": round(seconds, 4)}
        if error is not None:
            metrics.ERRORS.labels(error.reason).inc()
            if error.reason in REFUSALS:
                metrics.REFUSALS.labels(error.reason).inc()
            extra |= error.for_log()
        quiet = method == _STATUS_METHOD and error is None
        logger.log(logging.DEBUG if quiet else logging.INFO, "call", extra=extra)


def _describe_span(code: str, error: AtelierError | None) -> None:
    """Note the end of a call on its span, if there is one: never a message, which can hold what was sent."""
    if (span := tracing.current()) is None:
        return
    span.set({"rpc.response.status_code": code, "atelier.request_id": request_id.get() or ""})
    if error is not None:
        span.set({"error.type": error.reason})
    if code in _OURS:
        span.fail()
