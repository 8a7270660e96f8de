"""Spans by OpenTelemetry's SDK, delivered over OTLP; the only module that imports it, and only when needed.

The tracer provider is ours alone: it is not the global one, so no other library adds spans, whose attributes
nobody here has chosen. The standard variables say the rest: sampler, resource, limits, headers, certificates.
See docs/decisions/traces.md.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Mapping, Sequence

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.sampling import Decision, Sampler, SamplingResult
from opentelemetry.trace import Link, SpanContext, SpanKind, StatusCode, TraceState
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from opentelemetry.util.types import Attributes as OtelAttributes

from atelier_runtime import __version__, metrics
from atelier_runtime.tracing import TRACEPARENT, Attributes, Kind

logger = logging.getLogger(__name__)

_KINDS: Mapping[Kind, SpanKind] = {
    "internal": SpanKind.INTERNAL,
    "server": SpanKind.SERVER,
    "client": SpanKind.CLIENT,
}
_MOST_WAITING = "OTEL_BSP_MAX_QUEUE_SIZE"
_W3C = TraceContextTextMapPropagator()


class OpenSpan:
    """A span that has begun. Any thread may use it."""

    def __init__(self, span: trace.Span, started_ns: int) -> None:
        self._span = span
        self._started_ns = started_ns
        self._ended_ns: int | None = None
        context = span.get_span_context()
        self.trace_id = trace.format_trace_id(context.trace_id)
        self.span_id = trace.format_span_id(context.span_id)
        self.is_sampled = context.trace_flags.sampled
        """Whether the trace is kept."""
        self.traceparent = f"00-{self.trace_id}-{self.span_id}-{context.trace_flags:02x}"
        self.tracestate = context.trace_state.to_header()

    @property
    def context(self) -> Context:
        """What a child is started in."""
        return trace.set_span_in_context(self._span, Context())

    def rename(self, name: str) -> None:
        """Give the span the name that is known only now."""
        self._span.update_name(name)

    def set(self, attributes: Attributes) -> None:
        """Add attributes."""
        self._span.set_attributes(dict(attributes))

    def event(self, name: str, attributes: Attributes) -> None:
        """Note that something has happened now."""
        self._span.add_event(name, dict(attributes))

    def fail(self, reason: str | None = None) -> None:
        """Mark what the span stands for as failed."""
        if reason is not None:
            self._span.set_attribute("error.type", reason)
        self._span.set_status(StatusCode.ERROR)

    def lasted(self, seconds: float) -> None:
        """Say how long it took, to the nanosecond what a histogram observes."""
        self._ended_ns = self._started_ns + round(seconds * 1e9)

    def end(self) -> None:
        """End the span now, or when `lasted` has said. What is set afterwards is lost."""
        self._span.end(self._ended_ns)


class Tracer:
    """Makes spans and delivers them in the background."""

    def __init__(self, service_name: str) -> None:
        """`service_name`: unless the variables give one."""
        self._delivery = _Delivery(OTLPSpanExporter(), int(os.environ.get(_MOST_WAITING, 2048)))
        self._provider = TracerProvider(resource=_resource(service_name), shutdown_on_exit=False)
        self._provider.sampler = _WithWhatIsLinked(self._provider.sampler)
        self._provider.add_span_processor(_Waiting(self._delivery))
        self._tracer = self._provider.get_tracer("atelier", __version__)
        # Of each batch that cannot be delivered it would say so several times; `_Delivery` says it once.
        logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)

    def start(
        self,
        name: str,
        kind: Kind,
        parent: OpenSpan | Mapping[str, str] | None,
        *,
        links: Sequence[str] = (),
        attributes: Attributes | None = None,
        seconds_ago: float = 0.0,
    ) -> OpenSpan:
        """Begin a span.

        Args:
            name: Of a small set: spans are counted by name.
            kind: On which side of a call it is.
            parent: A span, or the headers of a request; None: a trace of its own.
            links: Further spans, as `traceparent`; those that are none are left out.
            attributes: More of it.
            seconds_ago: When it began.
        """
        context = parent.context if isinstance(parent, OpenSpan) else _W3C.extract(parent or {}, Context())
        now_ns = time.time_ns() - round(seconds_ago * 1e9)
        others = [_W3C.extract({TRACEPARENT: link}, Context()) for link in links]
        contexts = [trace.get_current_span(other).get_span_context() for other in others]
        span = self._tracer.start_span(
            name,
            context,
            _KINDS[kind],
            dict(attributes or {}),
            [Link(each) for each in contexts if each.is_valid],
            now_ns,
        )
        return OpenSpan(span, now_ns)

    def shutdown(self, seconds: float) -> None:
        """Deliver what is left, for at most so many seconds; a receiver that is away is not waited for."""
        if not self._delivery.fails:
            # It has no limit of its own that could be set.
            flushing = threading.Thread(target=self._provider.shutdown, daemon=True)
            flushing.start()
            flushing.join(seconds)
        self._delivery.shutdown()


class _Delivery(SpanExporter):
    """Says once that spans are lost, and once, with their number, that they no longer are."""

    def __init__(self, exporter: SpanExporter, most_waiting: int) -> None:
        self.most_waiting = most_waiting
        self.fails = False
        self._exporter = exporter
        self._lock = threading.Lock()
        self._waiting = 0
        self._is_full = False
        self._lost = 0
        self._ended = False

    def has_room(self) -> bool:
        """Count a span that is to be delivered; where too many wait it is lost, and this returns False."""
        with self._lock:
            if self._waiting < self.most_waiting:
                self._waiting += 1
                return True
            self._count(1)
            is_news = not self._is_full and not self.fails
            self._is_full = True
        if is_news:
            logger.warning(
                "spans are lost, as OTEL_EXPORTER_OTLP_ENDPOINT takes fewer than there are",
                extra={"waiting": self.most_waiting},
            )
        return False

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Deliver spans; in the thread of the processor, one call at a time."""
        with self._lock:
            self._waiting -= len(spans)
        result = self._exporter.export(spans)
        if self._ended:
            return result
        if result is SpanExportResult.SUCCESS:
            with self._lock:
                was_losing = self.fails or (self._is_full and self._waiting == 0)
                lost = self._lost
                if was_losing:
                    self.fails, self._is_full, self._lost = False, False, 0
            if was_losing:
                logger.info("spans are delivered again", extra={"lost": lost})
        else:
            with self._lock:
                self._count(len(spans))
                is_news, self.fails = not self.fails, True
            if is_news:
                logger.warning("spans cannot be delivered to OTEL_EXPORTER_OTLP_ENDPOINT")
        return result

    def _count(self, lost: int) -> None:
        self._lost += lost
        metrics.SPANS_LOST.inc(lost)

    def shutdown(self) -> None:
        """Give up what is being delivered. Safe to repeat."""
        if not self._ended:
            self._ended = True
            self._exporter.shutdown()
            if lost := self._lost + self._waiting:
                logger.warning("spans were lost", extra={"lost": lost})


class _Waiting(BatchSpanProcessor):
    """Lets spans wait until they are delivered; by itself it would lose them without a word."""

    def __init__(self, delivery: _Delivery) -> None:
        super().__init__(delivery, max_queue_size=delivery.most_waiting)
        self._delivery = delivery

    def on_end(self, span: ReadableSpan) -> None:
        """Take a span that has ended."""
        is_kept = span.context is not None and span.context.trace_flags.sampled
        if is_kept and self._delivery.has_room():
            super().on_end(span)


class _WithWhatIsLinked(Sampler):
    """Keeps a trace that begins with links if one of the linked is kept: a batch with its requests."""

    def __init__(self, sampler: Sampler) -> None:
        self._sampler = sampler

    def should_sample(
        self,
        parent_context: Context | None,
        trace_id: int,
        name: str,
        kind: SpanKind | None = None,
        attributes: OtelAttributes = None,
        links: Sequence[Link] | None = None,
        trace_state: TraceState | None = None,
    ) -> SamplingResult:
        """Decide whether a span is kept."""
        parent: SpanContext = trace.get_current_span(parent_context).get_span_context()
        if links and not parent.is_valid:
            is_kept = any(link.context.trace_flags.sampled for link in links)
            return SamplingResult(Decision.RECORD_AND_SAMPLE if is_kept else Decision.DROP, attributes)
        return self._sampler.should_sample(
            parent_context, trace_id, name, kind, attributes, links, trace_state
        )

    def get_description(self) -> str:
        """Return its name."""
        return f"WithWhatIsLinked({self._sampler.get_description()})"


def _resource(service_name: str) -> Resource:
    ours = {
        "service.version": __version__,
        "service.instance.id": str(uuid.uuid4()),
        "host.name": socket.gethostname(),  # the pod's name, in Kubernetes
    }
    resource = Resource(ours).merge(Resource.create())
    if str(resource.attributes.get("service.name", "unknown_service")).startswith("unknown_service"):
        resource = resource.merge(Resource({"service.name": service_name}))
    return resource
