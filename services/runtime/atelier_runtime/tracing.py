"""Traces of requests, from HTTP through gRPC to each timed stage, where an OTLP address is set.

Without it nothing of OpenTelemetry's SDK is loaded, and every function here returns at once. With it,
`tracing_setup` installs a tracer, and spans are made: one for each request (`server_span`), and below it one
for whatever is done for it (`span`). What is done for no request, such as loading, has none.

The current span belongs to the current context, as the request's ID does: tasks and copied contexts have it.
Spans never hold prompts, pictures, messages of errors or anything else of a client's but its request ID.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from contextvars import Context, ContextVar
from typing import TYPE_CHECKING, Any, Literal

from atelier_runtime.errors import AtelierError, ErrorReason

if TYPE_CHECKING:
    from atelier_runtime.tracing_otlp import OpenSpan, Tracer

Kind = Literal["internal", "server", "client"]
Attributes = Mapping[str, str | int | float | bool]

TRACEPARENT = "traceparent"
TRACESTATE = "tracestate"
"""The HTTP headers and gRPC metadata keys of W3C Trace Context."""

_MAX_STATE = 512
"""Characters of a client's `tracestate` that are passed on, what W3C demands; gRPC metadata has 8 KiB."""

_current: ContextVar[OpenSpan | None] = ContextVar("span", default=None)
_tracer: Tracer | None = None
_NOTHING: AbstractContextManager[None] = nullcontext()


def install(tracer: Tracer | None) -> Tracer | None:
    """Trace with this from now on, None: not at all; return what it was before. See `tracing_setup`."""
    global _tracer
    former, _tracer = _tracer, tracer
    return former


# --- the current span ---


def current() -> OpenSpan | None:
    """Return the span that the current task or thread works in."""
    return _current.get()


def span_of(context: Context) -> OpenSpan | None:
    """Return the span of another context, such as that of a job which waits for the device."""
    return context.get(_current)


def ids() -> dict[str, str]:
    """Return `trace_id` and `span_id` of the current span, for a line of the log; empty if there is none."""
    span = _current.get()
    return {} if span is None else {"trace_id": span.trace_id, "span_id": span.span_id}


def exemplar() -> dict[str, str] | None:
    """Return the same for an observation of a histogram; None unless the trace is kept."""
    span = _current.get()
    if span is None or not span.is_sampled:
        return None
    return {"trace_id": span.trace_id, "span_id": span.span_id}


def headers() -> tuple[tuple[str, str], ...]:
    """Return the headers, or gRPC metadata, with which a call continues the trace."""
    span = _current.get()
    if span is None:
        return ()
    state = span.tracestate
    return ((TRACEPARENT, span.traceparent), *(((TRACESTATE, state),) if state else ()))


def event(name: str, **attributes: str | int | float) -> None:
    """Note on the current span that something has happened now."""
    if (span := _current.get()) is not None:
        span.event(name, attributes)


def note_error(reason: str) -> None:
    """Note on the current span why what it stands for failed; `reason`: an `ErrorReason` or a class."""
    if (span := _current.get()) is not None:
        span.set({"error.type": reason})


# --- new spans ---


def span(
    name: str, *, of: OpenSpan | None = None, kind: Kind = "internal", attributes: Attributes | None = None
) -> AbstractContextManager[OpenSpan | None]:
    """Work in a span below `of`, or else below the current one; in none if there is none."""
    if _tracer is None:
        return _NOTHING
    parent = of or _current.get()
    if parent is None:
        return _NOTHING
    return _working_in(_tracer.start(name, kind, parent, attributes=attributes))


def server_span(
    name: str, carrier: Mapping[str, Any], attributes: Attributes | None = None
) -> AbstractContextManager[OpenSpan | None]:
    """Work for a request in a span that continues its caller's trace, or else begins one.

    `carrier`: its headers or metadata, by names in lower case; they need not be valid. Whether the request
    has failed is for its protocol to say: an exception does not mark the span.
    """
    if _tracer is None:
        return _NOTHING
    given = {name: carrier.get(name) for name in (TRACEPARENT, TRACESTATE)}
    known = {name: text for name, text in given.items() if isinstance(text, str)}
    if len(known.get(TRACESTATE, "")) > _MAX_STATE:
        del known[TRACESTATE]
    return _working_in(_tracer.start(name, "server", known, attributes=attributes), marks_errors=False)


def linked_span(
    name: str, traceparents: Sequence[str], attributes: Attributes | None = None
) -> AbstractContextManager[OpenSpan | None]:
    """Work in a trace of its own, which links to others and is kept if one of them is."""
    if _tracer is None:
        return _NOTHING
    return _working_in(_tracer.start(name, "internal", None, links=traceparents, attributes=attributes))


def past_span(name: str, seconds: float, *, of: OpenSpan | None = None) -> None:
    """Add a span that ends now and began so many seconds ago, below `of` or else the current one."""
    parent = of or _current.get()
    if _tracer is not None and parent is not None:
        _tracer.start(name, "internal", parent, seconds_ago=seconds).end()


@contextmanager
def working_in(span: OpenSpan | None) -> Iterator[None]:
    """Work in a span that is open already, and stays so."""
    token = _current.set(span)
    try:
        yield
    finally:
        with suppress(ValueError):  # another context: a generator that is closed by whoever collects it
            _current.reset(token)


@contextmanager
def shared_span(name: str, requests: Sequence[OpenSpan | None]) -> Iterator[None]:
    """Work for several requests at once, each given by its span, in the span of none of them.

    It is the root of a trace of its own with a link to each; and in the trace of each there is a span of the
    same name and time, with a link to it. What is done for a single request is done in the span of that.
    """
    several = [request for request in dict.fromkeys(requests) if request is not None]
    if _tracer is None or len(several) < 2:
        with working_in(several[0] if several else None):
            yield
        return
    size = {"atelier.batch.requests": len(several)}
    links = [request.traceparent for request in several]
    shared = _tracer.start(name, "internal", None, links=links, attributes=size)
    seen = [
        _tracer.start(name, "internal", request, links=[shared.traceparent], attributes=size)
        for request in several
    ]
    try:
        with _working_in(shared):
            yield
    finally:
        for each in seen:
            each.end()


@contextmanager
def _working_in(span: OpenSpan, *, marks_errors: bool = True) -> Iterator[OpenSpan]:
    try:
        with working_in(span):
            yield span
    except BaseException as error:
        if marks_errors:
            span.fail(_reason_of(error))
        raise
    finally:
        span.end()


def _reason_of(error: BaseException) -> str:
    if isinstance(error, asyncio.CancelledError):
        return ErrorReason.CANCELLED
    return error.reason if isinstance(error, AtelierError) else type(error).__name__
