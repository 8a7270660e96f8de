"""The gateway's traces: of requests, of their calls to the services, and of jobs."""

from __future__ import annotations

import io
import json
import logging
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from atelier_runtime.errors import InternalError, QueueFull
from atelier_runtime.log import JsonFormatter
from tests.contract.job_client import done
from tests.contract.stack import Stack
from tests.processes import free_port, program
from tests.tracing.open_metrics import ACCEPT, samples_of
from tests.tracing.otlp_receiver import Received, Receiver, eventually

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
CALLER = "00f067aa0ba902b7"
GENERATE = "atelier.generator.v1.GeneratorService/GenerateImage"
RESTORE = "atelier.restorer.v1.RestorerService/RestoreFaces"


@pytest.fixture(scope="module")
def shared_traced_stack(module_receiver: Receiver) -> Iterator[Stack]:
    with Stack() as stack:
        yield stack


@pytest.fixture
def stack(shared_traced_stack: Stack) -> Stack:
    shared_traced_stack.reset()
    return shared_traced_stack


def delivered(receiver: Receiver, name: str, count: int = 1) -> list[Received]:
    eventually(lambda: len(receiver.named(name)) >= count)
    return receiver.named(name)


def test_a_request_continues_its_clients_trace_and_its_calls_are_below_it(
    stack: Stack, receiver: Receiver
) -> None:
    response = stack.generate({"traceparent": f"00-{TRACE}-{CALLER}-01", "X-Request-ID": "mine"})
    assert response.status_code == 200
    [request] = delivered(receiver, "POST /generate")
    spans = receiver.of_trace(TRACE)
    assert (request.trace_id, request.parent_id, request.kind) == (TRACE, CALLER, "server")
    assert request.attributes == {
        "http.request.method": "POST",
        "http.route": "/generate",
        "http.response.status_code": 200,
        "atelier.request_id": "mine",
    }
    for call in (spans[GENERATE], spans[RESTORE]):
        assert (call.parent_id, call.kind, call.is_error) == (request.span_id, "client", False)
        assert call.attributes == {"rpc.system.name": "grpc", "rpc.method": call.name}


def test_nothing_that_a_client_has_written_is_in_a_span(stack: Stack, receiver: Receiver) -> None:
    secret = "a9f3c1"
    stack.generate({"Authorization": f"Bearer {secret}", "User-Agent": secret}, prompt=secret, width=secret)
    stack.client.get(f"/v1/jobs/{secret}", params={"q": secret}, headers={"traceparent": secret})
    stack.client.get(f"/{secret}")
    stack.client.request("GET", "/generate", headers={"X-Request-ID": secret * 100})
    delivered(receiver, "GET")
    delivered(receiver, "GET /generate")
    assert secret not in repr(receiver.spans)


def test_probes_are_not_traced(stack: Stack, receiver: Receiver) -> None:
    for path in ("/livez", "/readyz", "/health", "/metrics"):
        stack.client.get(path)
    stack.client.get("/openapi.json")
    delivered(receiver, "GET /openapi.json")
    assert {span.name for span in receiver.spans} == {"GET /openapi.json"}


def test_retries_are_events_of_the_call(stack: Stack, receiver: Receiver) -> None:
    stack.generator.error = QueueFull("full", retry_after_s=3)
    assert stack.generate().status_code == 429
    [request] = delivered(receiver, "POST /generate")
    call = receiver.of_trace(request.trace_id)[GENERATE]
    assert call.events == [("retry", {"reason": "queue_full"})] * 2
    assert (call.is_error, call.attributes["error.type"]) == (True, "queue_full")
    assert (request.is_error, request.attributes["error.type"]) == (False, "queue_full")


def test_a_failure_is_told_by_its_reason_alone(stack: Stack, receiver: Receiver) -> None:
    stack.generator.error = InternalError("cannot read the prompt 'a red apple'")
    assert stack.generate().status_code == 500
    [request] = delivered(receiver, "POST /generate")
    assert (request.is_error, request.attributes["error.type"]) == (True, "internal")
    assert request.attributes["http.response.status_code"] == 500
    assert not any(span.status_message or "apple" in repr(span) for span in receiver.spans)


def test_a_long_tracestate_is_not_passed_on(stack: Stack, receiver: Receiver) -> None:
    """The services would refuse the call: gRPC takes 8 KiB of metadata."""
    state = ",".join(f"vendor{number}={'x' * 250}" for number in range(32))
    headers = {"traceparent": f"00-{TRACE}-{CALLER}-01", "tracestate": state}
    assert stack.generate(headers).status_code == 200
    assert delivered(receiver, "POST /generate")[0].trace_id == TRACE


def test_a_client_decides_that_its_trace_is_not_kept(stack: Stack, receiver: Receiver) -> None:
    assert stack.generate({"traceparent": f"00-{TRACE}-{CALLER}-00"}).status_code == 200
    stack.client.get("/openapi.json")
    delivered(receiver, "GET /openapi.json")
    assert not receiver.of_trace(TRACE)


def test_a_job_has_a_trace_of_its_own_that_links_to_its_request(stack: Stack, receiver: Receiver) -> None:
    job = done(stack)
    [attempt] = delivered(receiver, "job generate")
    [submitted] = delivered(receiver, "POST /v1/jobs")
    assert attempt.links == [submitted.id]
    assert attempt.trace_id != submitted.trace_id and not attempt.parent_id
    assert attempt.attributes == {"atelier.request_id": job["id"], "atelier.job.claim": 1}
    assert receiver.of_trace(attempt.trace_id)[GENERATE].parent_id == attempt.span_id


def test_lines_of_the_log_carry_the_ids_of_the_trace(
    stack: Stack, receiver: Receiver, caplog: pytest.LogCaptureFixture
) -> None:
    log = io.StringIO()
    handler = logging.StreamHandler(log)
    handler.setFormatter(JsonFormatter())
    logging.getLogger().addHandler(handler)
    with caplog.at_level(logging.INFO):
        stack.generate()
        [request] = delivered(receiver, "POST /generate")
    logging.getLogger().removeHandler(handler)
    lines = [json.loads(line) for line in log.getvalue().splitlines()]
    [line] = [line for line in lines if line["message"] == "request"]
    assert (line["trace_id"], line["span_id"]) == request.id


def test_the_histogram_of_requests_has_exemplars(stack: Stack, receiver: Receiver) -> None:
    stack.generate()
    [request] = delivered(receiver, "POST /generate")
    response = stack.client.get("/metrics", headers=ACCEPT)
    assert response.headers["content-type"].startswith("application/openmetrics-text")
    found = [sample.exemplar for sample in samples_of(response.text, method="POST /generate")]
    ids = {"trace_id": request.trace_id, "span_id": request.span_id}
    assert ids in [exemplar.labels for exemplar in found if exemplar]


def test_prometheus_keeps_the_exemplars(stack: Stack, receiver: Receiver, tmp_path: Path) -> None:
    stack.generate()
    [request] = delivered(receiver, "POST /generate")
    target = {"job_name": "gateway", "static_configs": [{"targets": [f"127.0.0.1:{stack.port}"]}]}
    config = {"global": {"scrape_interval": "1s", "scrape_timeout": "1s"}, "scrape_configs": [target]}
    (tmp_path / "prometheus.yml").write_text(yaml.safe_dump(config))
    port = free_port()
    command = [program("prometheus"), "--enable-feature=exemplar-storage", "--config.file=prometheus.yml"]
    command += [f"--web.listen-address=127.0.0.1:{port}", "--storage.tsdb.path=data", "--log.level=error"]

    def known() -> bool:
        query: dict[str, Any] = {
            "query": "atelier_request_duration_seconds_bucket",
            "start": "2020-01-01T00:00:00Z",
            "end": "2100-01-01T00:00:00Z",
        }
        try:
            answer = httpx.get(f"http://127.0.0.1:{port}/api/v1/query_exemplars", params=query)
        except httpx.HTTPError:
            return False
        if answer.status_code != 200:  # it is starting
            return False
        found = [each["labels"] for series in answer.json()["data"] for each in series["exemplars"]]
        return {"trace_id": request.trace_id, "span_id": request.span_id} in found

    with (tmp_path / "log").open("wb") as log:
        prometheus = subprocess.Popen(command, cwd=tmp_path, stdout=log, stderr=log)
    try:
        eventually(known, within_s=60)
    finally:
        prometheus.terminate()
        prometheus.wait(30)
