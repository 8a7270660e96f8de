"""Three processes, as they are started in production, and a receiver of their spans."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests import tiny_restorer, tiny_sdxl
from tests.processes import free_port, process, ready, wait_for
from tests.tracing.otlp_receiver import receiving, variables

pytestmark = pytest.mark.slow

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
REQUEST = {"prompt": "a red apple", "width": 256, "height": 256, "num_inference_steps": 1, "seed": 1}
GENERATE = "atelier.generator.v1.GeneratorService/GenerateImage"
RESTORE = "atelier.restorer.v1.RestorerService/RestoreFaces"


@contextmanager
def running(folder: Path) -> Iterator[str]:
    """Start the processes and yield the gateway's address."""
    gateway, generator, restorer = free_port(), free_port(), free_port()
    faces = tiny_restorer.build_set(
        folder / "faces",
        detector=tiny_restorer.detector_state({tiny_restorer.FACES_OF_256_PX: 0.9}),
        codeformer=tiny_restorer.codeformer_state(),
    )
    images = tiny_sdxl.build_set(folder / "images")
    with ExitStack() as processes:
        for name, port, model_set in (("generator", generator, images), ("restorer", restorer, faces)):
            settings = {"PORT": port, "METRICS_PORT": 0, "MODEL_SET": model_set, "DEVICE": "cpu"}
            processes.enter_context(process(name, folder / f"{name}.log", **settings))
        addresses = {"GENERATOR": f"127.0.0.1:{generator}", "RESTORER": f"127.0.0.1:{restorer}"}
        processes.enter_context(process("gateway", folder / "gateway.log", PORT=gateway, **addresses))
        url = f"http://127.0.0.1:{gateway}"
        wait_for(lambda: ready(url))
        yield url


def calls(log: Path) -> list[dict[str, Any]]:
    """The lines of calls, but for those that ask how the service is."""
    lines = [json.loads(line) for line in log.read_text().splitlines() if line.startswith("{")]
    return [line for line in lines if line["message"] == "call" and line["method"] != "GetStatus"]


def test_a_request_is_one_trace_over_three_processes_which_deliver_it_when_they_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trace = {"traceparent": f"00-{TRACE}-00f067aa0ba902b7-01"}
    with receiving() as receiver:
        for name, value in variables(receiver.endpoint, OTEL_BSP_SCHEDULE_DELAY="600000").items():
            monkeypatch.setenv(name, value)
        with running(tmp_path) as url:
            response = httpx.post(f"{url}/generate", json=REQUEST, headers=trace, timeout=120)
            assert response.status_code == 200, response.text
            assert not receiver.spans
        received = list(receiver.spans)
    assert {span.trace_id for span in received} == {TRACE}, "what is done for no request has no trace"
    spans = {(span.name, span.resource["service.name"]): span for span in received}
    request = spans["POST /generate", "atelier-gateway"]
    for name, service, stage in ((GENERATE, "generator", "base"), (RESTORE, "restorer", "detect")):
        asked, answered = spans[name, "atelier-gateway"], spans[name, f"atelier-{service}"]
        assert (asked.parent_id, answered.parent_id) == (request.span_id, asked.span_id)
        assert spans[stage, f"atelier-{service}"].parent_id == answered.span_id
        [line] = calls(tmp_path / f"{service}.log")
        assert (line["trace_id"], line["span_id"]) == answered.id
