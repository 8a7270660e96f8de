"""What goes wrong behind the gateway: the right status, our body, and the next request unharmed."""

from __future__ import annotations

import base64
import json
import logging
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from atelier_gateway.http.errors import HTTP_STATUS
from atelier_runtime import wire
from atelier_runtime.errors import (
    ERROR_CLASSES,
    RETRYABLE,
    ErrorReason,
    FieldViolation,
    QueueFull,
    make_error,
)
from atelier_runtime.images import Picture, encode
from atelier_runtime.outcomes import SkipReason
from tests.contract.problem_body import named_fields, problem
from tests.contract.script import gradient
from tests.contract.services import eventually
from tests.contract.stack import Stack

SMALL = {"prompt": "a red apple", "width": 256, "height": 256}

STATUS_OF_CONTRACT = {
    "malformed_body": 400,
    "invalid_request": 422,
    "body_too_large": 413,
    "request_timeout": 408,
    "unsupported_media_type": 415,
    "queue_full": 429,
    "deadline_unmeetable": 503,
    "stage_not_ready": 503,
    "stage_draining": 503,
    "stage_unavailable": 503,
    "deadline_exceeded": 504,
    "not_served": 501,
    "out_of_memory": 503,
    "internal": 500,
    "bad_picture": 500,
    "cancelled": 499,
    "unauthenticated": 401,
    "forbidden": 403,
    "rate_limited": 429,
    "not_found": 404,
    "gone": 410,
}


def test_the_tables_are_total_and_the_contracts() -> None:
    assert {reason.value: status for reason, status in HTTP_STATUS.items()} == STATUS_OF_CONTRACT
    assert set(HTTP_STATUS) == set(ErrorReason) == set(ERROR_CLASSES)


@pytest.mark.parametrize("reason", list(ErrorReason))
def test_every_error_of_the_generator(stack: Stack, reason: ErrorReason) -> None:
    fields = [FieldViolation("width_px", "is too large for this model set")]
    stack.generator.error = make_error(reason, "the service's message", fields=fields, retry_after_s=6.2)
    expected = {
        # a service never sends these itself; if gRPC does, the fault is ours or the service is gone
        ErrorReason.BODY_TOO_LARGE: ErrorReason.INTERNAL,
        ErrorReason.CANCELLED: ErrorReason.SERVICE_UNAVAILABLE,
        # it is the gateway that it refuses
        ErrorReason.UNAUTHENTICATED: ErrorReason.INTERNAL,
        ErrorReason.FORBIDDEN: ErrorReason.INTERNAL,
    }.get(reason, reason)
    response = stack.generate()
    error = problem(response, HTTP_STATUS[expected], expected.value)
    retry_after = response.headers.get("Retry-After")
    if expected not in RETRYABLE:
        assert retry_after is None
    elif expected is ErrorReason.SERVICE_UNAVAILABLE:
        assert retry_after is not None and int(retry_after) >= 1
    else:
        assert retry_after == "7", "the service's own, rounded up"
    expected_fields = ["width"] if reason is ErrorReason.INVALID_REQUEST else []
    assert named_fields(error) == expected_fields, "the client's name, not the service's"
    if expected is ErrorReason.INTERNAL:
        assert "the service's message" not in response.text
        assert response.json()["request_id"] in error["message"]
    stack.generator.error = None
    assert stack.generate().status_code == 200, "the next request is unharmed"


@pytest.mark.parametrize(
    ("given", "service_field", "client_field"),
    [
        ({}, "num_inference_steps", "num_inference_steps"),
        ({"steps": 3}, "num_inference_steps", "steps"),
        ({"sampler": "restart"}, "sampler", "sampler"),
        ({"use_realesrgan": True}, "use_upscaler", "use_realesrgan"),
        ({"hires_fix_simple": True}, "lanczos_scale", "hires_scale"),
        ({"output_format": "png"}, "output.format", "output_format"),
    ],
)
def test_refusals_name_the_clients_fields(
    stack: Stack, given: dict[str, Any], service_field: str, client_field: str
) -> None:
    fields = [FieldViolation(service_field, "cannot be")]
    stack.generator.error = make_error(ErrorReason.INVALID_REQUEST, "", fields=fields)
    assert named_fields(problem(stack.generate(**given), 422, "invalid_request")) == [client_field]


def test_the_restorers_refusal_of_a_fidelity_names_the_weight(stack: Stack) -> None:
    fields = [FieldViolation("fidelity", "cannot be")]
    stack.restorer.error = make_error(ErrorReason.INVALID_REQUEST, "", fields=fields)
    error = problem(stack.generate(on_restore_failure="fail"), 422, "invalid_request")
    assert named_fields(error) == ["face_restoration_weight"]


RESTORER_WITH_FAIL = {
    ErrorReason.INTERNAL: (503, "stage_unavailable"),
    ErrorReason.BAD_IMAGE: (503, "stage_unavailable"),
    ErrorReason.BODY_TOO_LARGE: (503, "stage_unavailable"),
    ErrorReason.CANCELLED: (503, "stage_unavailable"),
    ErrorReason.UNAUTHENTICATED: (503, "stage_unavailable"),
    ErrorReason.FORBIDDEN: (503, "stage_unavailable"),
    # without fields it is not the client's request that was refused
    ErrorReason.INVALID_REQUEST: (503, "stage_unavailable"),
}


@pytest.mark.parametrize(
    "reason", sorted(set(ErrorReason) - {ErrorReason.QUEUE_FULL})
)  # waited for, see below
def test_every_error_of_the_restorer_where_the_client_chose_to_fail(
    stack: Stack, reason: ErrorReason
) -> None:
    stack.restorer.error = make_error(reason, "the service's message", retry_after_s=2)
    status, code = RESTORER_WITH_FAIL.get(reason, (HTTP_STATUS[reason], reason.value))
    response = stack.generate(on_restore_failure="fail")
    problem(response, status, code)
    assert ("Retry-After" in response.headers) == (status in (429, 503) and code != "out_of_memory")


@pytest.mark.parametrize("reason", ["failed", "not_finite", "out_of_memory", "not_loaded"])
def test_a_restorer_that_could_restore_no_face_at_all(stack: Stack, reason: str) -> None:
    stack.restorer.faces = [(0.9, False, SkipReason(reason))]
    stack.restorer.result = {"reason": wire.skip_reason_to_proto(SkipReason(reason))}
    answer = stack.generate().json()
    assert (answer["face_restoration_applied"], answer["face_restoration_reason"]) == (False, reason)
    code = "out_of_memory" if reason == "out_of_memory" else "stage_unavailable"
    problem(stack.generate(on_restore_failure="fail"), 503, code)


def test_without_a_restorer_the_generated_image_is_returned(stoppable_stack: Stack) -> None:
    stack = stoppable_stack
    stack.stop_restorer()
    answer = stack.generate(upscale=2, det_model="retinaface_resnet50", output_format="jpeg").json()
    assert answer["success"] is True
    assert (answer["face_restoration_applied"], answer["face_restoration_reason"]) == (
        False,
        "restorer_unavailable",
    )
    assert (answer["upscale_applied"], answer["final_resolution"]) == (1, "256x256")
    assert answer["image"].startswith("data:image/jpeg;base64,") and answer["faces"] == []
    assert answer["warning_codes"] == ["not_checked", "restorer_failed"]
    assert "faces" in answer["warnings"][1] and "x2" in answer["warnings"][1]
    assert [stage["stage"] for stage in answer["stages"]] == ["base", "encode"]
    upscaled = stack.generate(upscale=2, use_face_restoration=False).json()
    assert (upscaled["face_restoration_reason"], upscaled["upscale_applied"]) == (None, 1)
    assert "x2" in upscaled["warnings"][0] and "faces" not in upscaled["warnings"][0]
    refused = stack.generate(on_restore_failure="fail")
    problem(refused, 503, "stage_unavailable")
    assert int(refused.headers["Retry-After"]) >= 1
    stack.start_restorer()
    eventually(lambda: stack.generate().json()["face_restoration_applied"])


def test_a_restorer_address_that_drops_everything_is_given_up_before_the_deadline() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:  # accepts connections and sends nothing
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        with Stack(restorer=address, backend_wait_seconds=0) as stack:
            answer = stack.generate().json()
            assert answer["face_restoration_reason"] == "restorer_unavailable"
            assert answer["generation_time_seconds"] < 150, "half of the deadline"


@pytest.mark.parametrize(
    ("reason", "reported"),
    [
        (ErrorReason.SERVICE_DRAINING, "restorer_unavailable"),
        (ErrorReason.SERVICE_NOT_READY, "restorer_unavailable"),
        (ErrorReason.DEADLINE_UNMEETABLE, "restorer_busy"),
        (ErrorReason.OUT_OF_MEMORY, "out_of_memory"),
        (ErrorReason.INTERNAL, "failed"),
        (ErrorReason.BAD_IMAGE, "failed"),
    ],
)
def test_if_the_restorer_fails_the_generated_image_is_returned(
    stack: Stack, reason: ErrorReason, reported: str
) -> None:
    stack.restorer.error = make_error(reason, "the service's message", retry_after_s=1)
    answer = stack.generate().json()
    assert (answer["success"], answer["face_restoration_reason"]) == (True, reported)
    assert answer["warning_codes"] == ["restorer_failed"]
    assert reported in answer["warnings"][0] and "the service's message" not in answer["warnings"][0]


def test_a_generated_image_waits_for_a_slot_of_the_restorer(stack: Stack) -> None:
    stack.restorer.error = QueueFull(retry_after_s=30)
    with ThreadPoolExecutor(1) as client:
        call = client.submit(stack.generate)
        eventually(lambda: len(stack.restorer.requests) >= 2)
        assert not call.done()
        stack.restorer.error = None
        answer = call.result(60).json()
    assert answer["face_restoration_applied"] and not answer["warnings"]
    assert len(stack.generator.requests) == 1


@pytest.mark.parametrize("on_restore_failure", ["return_base", "fail"])
def test_a_queue_that_stays_full_until_the_deadline(on_restore_failure: str) -> None:
    with Stack(deadline_seconds=4) as stack:
        stack.restorer.error = QueueFull(retry_after_s=30)
        response = stack.generate(on_restore_failure=on_restore_failure)
        if on_restore_failure == "fail":
            problem(response, 429, "queue_full")
            assert response.headers["Retry-After"] == "30"
        else:
            answer = response.json()
            assert (answer["success"], answer["face_restoration_reason"]) == (True, "restorer_busy")
            assert answer["warning_codes"] == ["restorer_failed"]


def test_photos_do_not_wait_for_a_slot(stack: Stack) -> None:
    """Nothing has been done for them yet: their client decides whether to come again."""
    stack.restorer.error = QueueFull(retry_after_s=30)
    image = base64.b64encode(encode(Picture(gradient(64, 48)), "png", 90)).decode()
    problem(stack.client.post("/restore", json={"image": image}), 429, "queue_full")


def test_without_a_generator(stoppable_stack: Stack) -> None:
    stack = stoppable_stack
    stack.stop_generator()
    response = stack.generate()
    problem(response, 503, "stage_unavailable")
    assert int(response.headers["Retry-After"]) >= 1
    problem(stack.generate(model="demo"), 503, "stage_unavailable")
    stack.start_generator()
    eventually(lambda: stack.generate().status_code == 200)


def test_a_name_cannot_be_checked_while_the_generator_is_loading(stack: Stack) -> None:
    stack.generator.status = {"ready": False, "model_set": "", "device": ""}
    response = stack.generate(model="demo")
    problem(response, 503, "stage_not_ready")
    assert int(response.headers["Retry-After"]) >= 1


def test_a_detector_cannot_be_checked_while_the_restorer_is_loading(stack: Stack) -> None:
    stack.restorer.status, stack.restorer.networks = {"ready": False, "model_set": ""}, {}
    answer = stack.generate(det_model="retinaface_resnet50").json()
    assert answer["success"] is True and answer["warning_codes"] == ["not_checked"]


def test_a_model_set_without_a_detector_does_not_have_the_requested_one(stack: Stack) -> None:
    stack.restorer.networks = {}
    error = problem(stack.generate(det_model="retinaface_resnet50"), 422, "invalid_request")
    assert named_fields(error) == ["det_model"]


@pytest.fixture(scope="module")
def hurried_stack() -> Iterator[Stack]:
    with Stack(deadline_seconds=1.5) as stack:
        yield stack


def test_one_deadline_for_everything(hurried_stack: Stack) -> None:
    stack = hurried_stack
    stack.generator.hold = True
    problem(stack.generate(), 504, "deadline_exceeded")
    eventually(lambda: stack.generator.cancelled == 1)
    stack.generator.hold, stack.restorer.hold = False, True
    problem(stack.generate(on_restore_failure="fail"), 504, "deadline_exceeded")
    answer = stack.generate().json()
    assert (answer["success"], answer["face_restoration_reason"]) == (True, "restorer_unavailable")
    eventually(lambda: stack.restorer.cancelled == 2)


def test_the_deadline_includes_the_body(hurried_stack: Stack) -> None:
    with socket.create_connection(("127.0.0.1", hurried_stack.port), timeout=20) as connection:
        connection.sendall(b"POST /generate HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{")
        assert connection.recv(100).startswith(b"HTTP/1.1 504 ")


@pytest.mark.parametrize("service", ["generator", "restorer"])
def test_a_client_that_disconnects_stops_the_work(
    stack: Stack, service: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    script = getattr(stack, service)
    script.hold = True
    body = json.dumps(SMALL).encode()
    with socket.create_connection(("127.0.0.1", stack.port), timeout=20) as connection:
        connection.sendall(
            b"POST /generate HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)
        )
        eventually(lambda: script.running == 1)
    eventually(lambda: script.cancelled == 1 and script.running == 0)
    eventually(lambda: any(getattr(record, "code", None) == "499" for record in caplog.records))
    script.hold = False
    assert stack.generate().status_code == 200, "the next request is unharmed"


def test_a_client_that_disconnects_within_its_body_is_not_our_fault(
    stack: Stack, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    with socket.create_connection(("127.0.0.1", stack.port), timeout=20) as connection:
        connection.sendall(b"POST /generate HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{")
    eventually(lambda: any(getattr(record, "code", None) == "499" for record in caplog.records))
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


def test_a_generator_that_returns_no_image_is_our_fault_and_nothing_else_is_disclosed(stack: Stack) -> None:
    stack.generator.no_image = True
    problem(stack.generate(), 500, "internal")
    problem(stack.generate(use_face_restoration=False), 500, "internal")
