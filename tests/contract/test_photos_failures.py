"""What goes wrong behind the routes for photographs: the right status, and the next request unharmed."""

from __future__ import annotations

import base64
import json
import logging
import socket
import threading
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from atelier_gateway.problems import RETRYABLE, HTTP_STATUS
from atelier_runtime import images
from atelier_runtime.errors import ErrorReason, FieldViolation, make_error
from tests.contract.problem_body import problem
from tests.contract.script import picture
from tests.contract.scripted_stages import House, eventually

PNG = images.encode(images.Picture(picture(64, 48)), "png", 92)
PATHS = ["/restore", "/detect", "/compare"]


def order(path: str) -> dict[str, Any]:
    more = {"fidelities": [0.2, 0.8]} if path == "/compare" else {}
    return {"image": base64.b64encode(PNG).decode(), **more}


def ask(house: House, path: str) -> httpx.Response:
    return house.client.post(path, json=order(path))


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("reason", list(ErrorReason))
def test_every_error_of_the_restorer(house: House, path: str, reason: ErrorReason) -> None:
    fields = [FieldViolation("image", "is too large")] if reason is ErrorReason.INVALID_REQUEST else []
    house.restorer.error = make_error(reason, "said by the stage", fields=fields, retry_after_s=6.2)
    expected = {
        # a stage never sends these of itself; if gRPC does, the fault is ours or the stage is gone
        ErrorReason.BODY_TOO_LARGE: ErrorReason.INTERNAL,
        ErrorReason.CANCELLED: ErrorReason.SERVICE_UNAVAILABLE,
    }.get(reason, reason)
    response = ask(house, path)
    error = problem(response, HTTP_STATUS[expected], expected.value)
    assert ("Retry-After" in response.headers) == (expected in RETRYABLE)
    if expected is ErrorReason.QUEUE_FULL:
        assert response.headers["Retry-After"] == "7", "the stage's own word, rounded up"
    if expected is ErrorReason.INTERNAL:
        assert "said by the stage" not in response.text and response.json()["request_id"] in error["message"]
    house.restorer.error = None
    assert ask(house, path).status_code == 200, "the next request is unharmed"


def test_a_restorer_that_is_away() -> None:
    house = House()
    try:
        house.stop_restorer()
        for path in PATHS:
            response = ask(house, path)
            problem(response, 503, "stage_unavailable")
            assert int(response.headers["Retry-After"]) >= 1
        house.start_restorer()
        eventually(lambda: ask(house, "/restore").status_code == 200)
    finally:
        house.close()


def test_photographs_need_no_generator() -> None:
    house = House()
    try:
        house.stop_generator()
        assert [ask(house, path).status_code for path in PATHS] == [200, 200, 200]
    finally:
        house.close()


@pytest.mark.parametrize("path", PATHS)
def test_the_deadline(path: str) -> None:
    house = House(deadline_seconds=1)
    try:
        house.restorer.hold = True
        problem(ask(house, path), 504, "deadline_exceeded")
        eventually(lambda: house.restorer.cancelled == 1)
    finally:
        house.close()


@pytest.mark.parametrize("path", PATHS)
def test_a_client_that_hangs_up_stops_the_work(
    house: House, path: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    house.restorer.hold = True
    body = json.dumps(order(path)).encode()
    with socket.create_connection(("127.0.0.1", house.port), timeout=20) as connection:
        head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
        connection.sendall(head.encode() + body)
        eventually(lambda: house.restorer.running == 1)
    eventually(lambda: house.restorer.cancelled == 1 and house.restorer.running == 0)
    eventually(lambda: any(getattr(record, "code", None) == "499" for record in caplog.records))
    house.restorer.hold = False
    assert ask(house, path).status_code == 200, "the next request is unharmed"


def test_a_comparison_that_lacks_a_picture_is_our_fault(house: House) -> None:
    house.restorer.most_results = 1
    problem(ask(house, "/compare"), 500, "internal")


def test_an_answer_without_a_picture_is_our_fault(house: House) -> None:
    house.restorer.no_picture = True
    problem(ask(house, "/restore"), 500, "internal")


def metric(house: House, name: str, **labels: str) -> float:
    families = text_string_to_metric_families(house.client.get("/metrics").text)
    return sum(
        sample.value
        for family in families
        for sample in family.samples
        if sample.name == name and sample.labels == labels
    )


@pytest.mark.parametrize("path", PATHS)
def test_metrics_move(house: House, path: str) -> None:
    def answered(code: str) -> float:
        name = "atelier_request_duration_seconds_count"
        return metric(house, name, method=f"POST {path}", code=code)

    before = answered("200"), answered("422")
    ask(house, path)
    house.client.post(path, json={})
    assert (answered("200"), answered("422")) == (before[0] + 1, before[1] + 1)
    assert metric(house, "atelier_backend_pending", stage="restorer") == 0
    house.restorer.hold = True
    asking = threading.Thread(target=lambda: ask(house, path))
    asking.start()
    eventually(lambda: house.restorer.running == 1)
    assert metric(house, "atelier_backend_pending", stage="restorer") == 1
    house.restorer.hold = False
    asking.join()
    eventually(lambda: metric(house, "atelier_backend_pending", stage="restorer") == 0)
