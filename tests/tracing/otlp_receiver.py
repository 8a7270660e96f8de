"""A receiver of OTLP over gRPC: the service of the collector as its protos declare it, on a real socket."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from unittest import mock

import grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as pb
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2_grpc as pb_grpc
from opentelemetry.proto.common.v1 import common_pb2
from opentelemetry.proto.trace.v1 import trace_pb2

from atelier_runtime.tracing_setup import begin_tracing, end_tracing

_add_to_server: Any = pb_grpc.add_TraceServiceServicer_to_server  # protoc writes no types
KINDS = {1: "internal", 2: "server", 3: "client"}


@dataclass(frozen=True)
class Received:
    """A span that was delivered; `links`: (trace ID, span ID)."""

    name: str
    kind: str
    trace_id: str
    span_id: str
    parent_id: str
    seconds: float
    is_error: bool
    status_message: str
    attributes: dict[str, Any]
    links: list[tuple[str, str]]
    events: list[tuple[str, dict[str, Any]]]
    resource: dict[str, Any] = field(repr=False)

    @property
    def id(self) -> tuple[str, str]:
        return self.trace_id, self.span_id


class Receiver(pb_grpc.TraceServiceServicer):
    """Keeps what it receives."""

    def __init__(self, port: int = 0) -> None:
        self.spans: list[Received] = []
        self.hold = threading.Event()
        """Set: take nothing before `release` is set."""
        self.release = threading.Event()
        self._lock = threading.Lock()
        self._server = grpc.server(ThreadPoolExecutor(2))
        _add_to_server(self, self._server)
        self.port = self._server.add_insecure_port(f"127.0.0.1:{port}")
        self.endpoint = f"http://127.0.0.1:{self.port}"
        self._server.start()

    def Export(self, request: pb.ExportTraceServiceRequest, context: object) -> pb.ExportTraceServiceResponse:
        if self.hold.is_set():
            self.release.wait(60)
        with self._lock:
            for group in request.resource_spans:
                resource = _values(group.resource.attributes)
                self.spans += [
                    _received(span, resource) for scope in group.scope_spans for span in scope.spans
                ]
        return pb.ExportTraceServiceResponse()

    def named(self, name: str) -> list[Received]:
        with self._lock:
            return [span for span in self.spans if span.name == name]

    def clear(self) -> None:
        with self._lock:
            self.spans.clear()

    def of_trace(self, trace_id: str) -> dict[str, Received]:
        """The spans of a trace by name, of those of one name the last."""
        with self._lock:
            return {span.name: span for span in self.spans if span.trace_id == trace_id}

    def close(self) -> None:
        self._server.stop(None).wait()


def _received(span: trace_pb2.Span, resource: dict[str, Any]) -> Received:
    return Received(
        name=span.name,
        kind=KINDS[span.kind],
        trace_id=span.trace_id.hex(),
        span_id=span.span_id.hex(),
        parent_id=span.parent_span_id.hex(),
        seconds=(span.end_time_unix_nano - span.start_time_unix_nano) / 1e9,
        is_error=span.status.code == trace_pb2.Status.STATUS_CODE_ERROR,
        status_message=span.status.message,
        attributes=_values(span.attributes),
        links=[(link.trace_id.hex(), link.span_id.hex()) for link in span.links],
        events=[(event.name, _values(event.attributes)) for event in span.events],
        resource=resource,
    )


def _values(attributes: Any) -> dict[str, Any]:
    pairs: list[common_pb2.KeyValue] = list(attributes)
    return {pair.key: getattr(pair.value, str(pair.value.WhichOneof("value"))) for pair in pairs}


@contextmanager
def receiving(port: int = 0) -> Iterator[Receiver]:
    receiver = Receiver(port)
    try:
        yield receiver
    finally:
        receiver.close()


def variables(endpoint: str, **others: str) -> dict[str, str]:
    """The variables of a process that traces; spans are delivered as soon as they end, almost."""
    return {"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint, "OTEL_BSP_SCHEDULE_DELAY": "20", **others}


@contextmanager
def tracing_to(endpoint: str, **others: str) -> Iterator[None]:
    """Let this process trace."""
    with mock.patch.dict(os.environ, variables(endpoint, **others)):
        begin_tracing("test")
        try:
            yield
        finally:
            end_tracing()


def eventually(condition: Callable[[], object], *, within_s: float = 20.0) -> None:
    """Poll until `condition` holds; the limit only ends a broken test."""
    end = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < end, "it never happened"
        time.sleep(0.01)
