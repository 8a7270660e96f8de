"""What goes wrong behind the photo routes: the right status, and the next request unharmed."""

from __future__ import annotations

import base64
import json
import logging
import socket
import threading
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from atelier_gateway.http.errors import HTTP_STATUS
from atelier_runtime.errors import RETRYABLE, ErrorReason, FieldViolation, make_error
from tests.contract.metrics_seen import pending, requests, scrape
from tests.contract.problem_body import problem
from tests.contract.script import file_of, gradient
from tests.contract.services import eventually
from tests.contract.stack import Stack

PNG = file_of(gradient(64, 48))
PATHS = ["/restore", "/detect", "/compare"]


def body_for(path: str) -> dict[str, Any]:
    more = {"fidelities": [0.2, 0.8]} if path == "/compare" else {}
    return {"image": base64.b64encode(PNG).decode(), **more}


def post(stack: Stack, path: str) -> httpx.Response:
    return stack.client.post(path, json=body_for(path))


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("reason", list(ErrorReason))
def test_every_error_of_the_restorer(stack: Stack, path: str, reason: ErrorReason) -> None:
    fields = [FieldViolation("image", "is too large")] if reason is ErrorReason.INVALID_REQUEST else []
    stack.restorer.error = make_error(reason, "the service's message", fields=fields, retry_after_s=6.2)
    expected = {
        # a service never sends these itself; if gRPC does, the fault is ours or the service is gone
        ErrorReason.BODY_TOO_LARGE: ErrorReason.INTERNAL,
        ErrorReason.CANCELLED: ErrorReason.SERVICE_UNAVAILABLE,
        # it is the gateway that it refuses
        ErrorReason.UNAUTHENTICATED: ErrorReason.INTERNAL,
        ErrorReason.FORBIDDEN: ErrorReason.INTERNAL,
    }.get(reason, reason)
    response = post(stack, path)
    error = problem(response, HTTP_STATUS[expected], expected.value)
    assert ("Retry-After" in response.headers) == (expected in RETRYABLE)
    if expected is ErrorReason.QUEUE_FULL:
        assert response.headers["Retry-After"] == "7", "the service's own, rounded up"
    if expected is ErrorReason.INTERNAL:
        assert "the service's message" not in response.text
        assert response.json()["request_id"] in error["message"]
    stack.restorer.error = None
    assert post(stack, path).status_code == 200, "the next request is unharmed"


def test_without_a_restorer(stoppable_stack: Stack) -> None:
    stack = stoppable_stack
    stack.stop_restorer()
    for path in PATHS:
        response = post(stack, path)
        problem(response, 503, "stage_unavailable")
        assert int(response.headers["Retry-After"]) >= 1
    stack.start_restorer()
    eventually(lambda: post(stack, "/restore").status_code == 200)


def test_photos_do_not_need_the_generator(stoppable_stack: Stack) -> None:
    stoppable_stack.stop_generator()
    assert [post(stoppable_stack, path).status_code for path in PATHS] == [200, 200, 200]
    stoppable_stack.start_generator()


@pytest.fixture(scope="module")
def hurried_stack() -> Iterator[Stack]:
    with Stack(deadline_seconds=0.5) as stack:
        yield stack


@pytest.mark.parametrize("path", PATHS)
def test_the_deadline(hurried_stack: Stack, path: str) -> None:
    hurried_stack.reset()
    hurried_stack.restorer.hold = True
    problem(post(hurried_stack, path), 504, "deadline_exceeded")
    eventually(lambda: hurried_stack.restorer.cancelled == 1)


@pytest.mark.parametrize("path", PATHS)
def test_a_client_that_disconnects_stops_the_work(
    stack: Stack, path: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    stack.restorer.hold = True
    body = json.dumps(body_for(path)).encode()
    with socket.create_connection(("127.0.0.1", stack.port), timeout=20) as connection:
        head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
        connection.sendall(head.encode() + body)
        eventually(lambda: stack.restorer.running == 1)
    eventually(lambda: stack.restorer.cancelled == 1 and stack.restorer.running == 0)
    eventually(lambda: any(getattr(record, "code", None) == "499" for record in caplog.records))
    stack.restorer.hold = False
    assert post(stack, path).status_code == 200, "the next request is unharmed"


def test_a_comparison_that_lacks_an_image_is_our_fault(stack: Stack) -> None:
    stack.restorer.max_results = 1
    problem(post(stack, "/compare"), 500, "internal")


def test_a_response_without_an_image_is_our_fault(stack: Stack) -> None:
    stack.restorer.no_image = True
    problem(post(stack, "/restore"), 500, "internal")


@pytest.mark.parametrize("path", PATHS)
def test_metrics_move(stack: Stack, path: str) -> None:
    def counted(code: str) -> float:
        return requests(scrape(stack), f"POST {path}", code)

    before = counted("200"), counted("422")
    post(stack, path)
    stack.client.post(path, json={})
    assert (counted("200"), counted("422")) == (before[0] + 1, before[1] + 1)
    assert pending(stack, "restorer") == 0
    stack.restorer.hold = True
    client = threading.Thread(target=lambda: post(stack, path))
    client.start()
    eventually(lambda: stack.restorer.running == 1)
    assert pending(stack, "restorer") == 1
    stack.restorer.hold = False
    client.join()
    eventually(lambda: pending(stack, "restorer") == 0)
