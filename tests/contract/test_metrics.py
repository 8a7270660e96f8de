"""/metrics: what is counted, and under which labels."""

from __future__ import annotations

import threading

import pytest

from atelier_runtime.errors import ServiceNotReady
from tests.contract.metrics_seen import pending, requests, scrape, value
from tests.contract.services import eventually
from tests.contract.stack import Stack


def test_metrics_move(stack: Stack) -> None:
    before = scrape(stack)
    stack.generate()
    stack.generate(width=1)
    stack.generator.error = ServiceNotReady()
    stack.generate()
    after = scrape(stack)
    for code in ("200", "422", "503"):
        assert requests(after, "POST /generate", code) == requests(before, "POST /generate", code) + 1
    for reason in ("invalid_request", "stage_not_ready"):
        for name in ("atelier_errors_total", "atelier_refusals_total"):
            assert value(after, name, reason=reason) == value(before, name, reason=reason) + 1
    assert value(after, "process_resident_memory_bytes") > 1e6


@pytest.mark.parametrize(
    ("method", "path", "label", "code"),
    [
        ("GET", "/livez", "GET /livez", "200"),
        ("GET", "/", "GET /", "200"),
        ("GET", "/openapi.json", "GET /openapi.json", "200"),
        ("HEAD", "/openapi.json", "HEAD /openapi.json", "200"),
        ("GET", "/docs", "GET /docs", "200"),
        ("GET", "/docs/assets/swagger-ui.css", "GET other", "200"),
        ("GET", "/generate", "GET /generate", "405"),
        ("GET", "/some/path", "GET other", "404"),
        ("PROPFIND", "/some/path", "other other", "404"),
        ("POST", "/txt2img", "POST /txt2img", "400"),
    ],
)
def test_the_label_is_the_matched_route(stack: Stack, method: str, path: str, label: str, code: str) -> None:
    before = requests(scrape(stack), label, code)
    stack.client.request(method, path)
    # a file's last bytes are sent before its request has ended
    eventually(lambda: requests(scrape(stack), label, code) == before + 1)
    assert not any("/some/path" in str(key) for key in scrape(stack)), "a client cannot make up labels"


def test_pending_calls_are_counted_for_each_backend(stack: Stack) -> None:
    assert (pending(stack, "generator"), pending(stack, "restorer")) == (0, 0)
    stack.generator.hold = stack.restorer.hold = True
    client = threading.Thread(target=stack.generate)
    client.start()
    eventually(lambda: stack.generator.running == 1)
    assert (pending(stack, "generator"), pending(stack, "restorer")) == (1, 0)
    stack.generator.hold = False
    eventually(lambda: stack.restorer.running == 1)
    assert (pending(stack, "generator"), pending(stack, "restorer")) == (0, 1)
    stack.restorer.hold = False
    client.join()
    eventually(lambda: (pending(stack, "generator"), pending(stack, "restorer")) == (0, 0))
