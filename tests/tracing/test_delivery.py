"""A receiver that is away, or comes back, and the last spans of a process."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest

from atelier_runtime import metrics, tracing
from atelier_runtime.tracing_setup import begin_tracing, end_tracing
from tests.contract.stack import Stack
from tests.processes import free_port
from tests.tracing.otlp_receiver import eventually, receiving, tracing_to

AWAY = "spans cannot be delivered to OTEL_EXPORTER_OTLP_ENDPOINT"
BACK = "spans are delivered again"
FULL = "spans are lost, as OTEL_EXPORTER_OTLP_ENDPOINT takes fewer than there are"
LOST = "spans were lost"
IMPATIENT = {"OTEL_EXPORTER_OTLP_TIMEOUT": "1"}


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    with caplog.at_level(logging.INFO):
        yield caplog


def of_tracing(log: pytest.LogCaptureFixture) -> list[str]:
    ours = ("opentelemetry", "atelier_runtime.tracing")
    return [line.getMessage() for line in log.records if line.name.startswith(ours)]


def spans_lost() -> float:
    """What the metric says."""
    return float(metrics.SPANS_LOST._value.get())


def lost(log: pytest.LogCaptureFixture, message: str) -> list[int]:
    """The numbers in these lines."""
    return [int(vars(line)["lost"]) for line in log.records if line.getMessage() == message]


def test_without_a_receiver_requests_are_served_and_the_log_says_once_why_there_are_no_traces(
    log: pytest.LogCaptureFixture,
) -> None:
    with tracing_to(f"http://127.0.0.1:{free_port()}", **IMPATIENT), Stack() as stack:
        for _ in range(3):
            assert stack.generate().status_code == 200
            eventually(lambda: of_tracing(log))
        assert stack.client.get("/openapi.json").status_code == 200
    assert of_tracing(log) == [AWAY, LOST] and lost(log, LOST)[0] > 0


def test_spans_are_delivered_once_the_receiver_is_back(log: pytest.LogCaptureFixture) -> None:
    port = free_port()
    with tracing_to(f"http://127.0.0.1:{port}", **IMPATIENT):
        with tracing.server_span("lost", {}):
            pass
        eventually(lambda: of_tracing(log))
        with receiving(port) as receiver:

            def arrived() -> bool:
                with tracing.server_span("delivered", {}):
                    pass
                return bool(receiver.named("delivered"))

            eventually(arrived)
            eventually(lambda: BACK in of_tracing(log))
            assert not receiver.named("lost")
            assert of_tracing(log) == [AWAY, BACK]


def test_spans_that_a_slow_receiver_does_not_take_are_counted(log: pytest.LogCaptureFixture) -> None:
    few = {"OTEL_BSP_MAX_QUEUE_SIZE": "8", "OTEL_BSP_MAX_EXPORT_BATCH_SIZE": "4"}
    made, before = 50, spans_lost()
    with receiving() as receiver:
        receiver.hold.set()
        with tracing_to(receiver.endpoint, **few):
            for _ in range(made):
                with tracing.server_span("one", {}):
                    pass
            assert of_tracing(log) == [FULL]
            receiver.hold.clear()
            receiver.release.set()
            eventually(lambda: BACK in of_tracing(log))
            delivered = len(receiver.named("one"))
            assert 8 <= delivered < made and lost(log, BACK) == [made - delivered]
            assert spans_lost() - before == made - delivered
        assert of_tracing(log) == [FULL, BACK]


def test_the_end_says_how_many_spans_a_slow_receiver_has_not_taken(
    log: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_BSP_MAX_QUEUE_SIZE", "8")
    monkeypatch.setenv("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "4")
    with receiving() as receiver:
        receiver.hold.set()
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.endpoint)
        begin_tracing("test")
        for _ in range(50):
            with tracing.server_span("one", {}):
                pass
        end_tracing(0.2)
        [count] = lost(log, LOST)
        receiver.release.set()
    assert of_tracing(log) == [FULL, LOST] and 42 <= count <= 50


def test_the_last_spans_are_delivered_when_the_process_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    with receiving() as receiver:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.endpoint)
        monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "600000")
        begin_tracing("test")
        with tracing.server_span("the last", {}):
            pass
        assert not receiver.named("the last")
        end_tracing()
        assert receiver.named("the last")


def test_the_end_does_not_wait_for_a_receiver_that_holds_on(monkeypatch: pytest.MonkeyPatch) -> None:
    with receiving() as receiver:
        receiver.hold.set()
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.endpoint)
        begin_tracing("test")
        with tracing.server_span("never delivered", {}):
            pass
        end_tracing(0.2)
        assert not receiver.spans, "the receiver would have held on for a minute"
        receiver.release.set()


def test_the_variables_name_the_service_and_say_what_is_kept() -> None:
    with receiving() as receiver:
        named = {"OTEL_SERVICE_NAME": "portraits", "OTEL_RESOURCE_ATTRIBUTES": "k8s.pod.name=gateway-1"}
        with tracing_to(receiver.endpoint, **named), tracing.server_span("one", {}):
            pass
        never = {"OTEL_TRACES_SAMPLER": "always_off"}
        with tracing_to(receiver.endpoint, **never), tracing.server_span("two", {}):
            assert tracing.exemplar() is None
            assert set(tracing.ids()) == {"trace_id", "span_id"}
        with tracing_to(receiver.endpoint), tracing.server_span("three", {}):
            pass
        [one], [three] = receiver.named("one"), receiver.named("three")
        assert (one.resource["service.name"], three.resource["service.name"]) == ("portraits", "atelier-test")
        assert one.resource["k8s.pod.name"] == "gateway-1"
        assert one.resource["service.version"] == three.resource["service.version"]
        assert not receiver.named("two")


def test_what_is_linked_is_kept_together() -> None:
    """A sampler would decide on the trace of a batch without regard to its requests."""
    with receiving() as receiver:
        settings = {"OTEL_TRACES_SAMPLER": "parentbased_traceidratio", "OTEL_TRACES_SAMPLER_ARG": "0"}
        with tracing_to(receiver.endpoint, **settings):
            kept = {"traceparent": f"00-{'1' * 32}-{'1' * 16}-01"}
            with tracing.server_span("kept", kept) as first, tracing.server_span("dropped", {}) as second:
                with tracing.shared_span("batch of one that is kept", [first, second]):
                    pass
                with tracing.shared_span("batch of none", [second, tracing.current()]):
                    pass
        [root, seen] = sorted(
            receiver.named("batch of one that is kept"), key=lambda span: bool(span.parent_id)
        )
        assert (root.parent_id, seen.trace_id, seen.links) == ("", "1" * 32, [root.id])
        assert not receiver.named("batch of none")
