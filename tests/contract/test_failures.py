"""What goes wrong behind the gateway: the right status, our body, and the next request unharmed."""

from __future__ import annotations

import json
import logging
import socket

import pytest

from atelier_gateway.problems import RETRYABLE, HTTP_STATUS
from atelier_runtime.errors import (ERROR_CLASSES, ErrorReason, FieldViolation, make_error)
from atelier_runtime.outcomes import SkipReason
from tests.contract.problem_body import problem
from tests.contract.scripted_stages import House, eventually
from tests.contract.scripted_stages import reason as on_the_wire

SMALL = {"prompt": "a red apple", "width": 256, "height": 256}

STATUS_OF_CONTRACT = {
    "malformed_body": 400,
    "invalid_request": 422,
    "body_too_large": 413,
    "unsupported_media_type": 415,
    "queue_full": 429,
    "deadline_unmeetable": 503,
    "stage_not_ready": 503,
    "stage_draining": 503,
    "stage_unavailable": 503,
    "deadline_exceeded": 504,
    "out_of_memory": 503,
    "internal": 500,
    "bad_picture": 500,
    "cancelled": 499,
    "not_found": 404,
}


def test_the_tables_are_total_and_the_contracts() -> None:
    assert {reason.value: status for reason, status in HTTP_STATUS.items()} == STATUS_OF_CONTRACT
    assert set(HTTP_STATUS) == set(ErrorReason) == set(ERROR_CLASSES)


@pytest.mark.parametrize("reason", list(ErrorReason))
def test_every_error_of_the_generator(house: House, reason: ErrorReason) -> None:
    fields = [FieldViolation("width_px", "is too large for this model set")]
    house.generator.error = make_error(reason, "said by the stage", fields=fields, retry_after_s=6.2)
    expected = {
        # a stage never sends these of itself; if gRPC does, the fault is ours or the stage is gone
        ErrorReason.BODY_TOO_LARGE: ErrorReason.INTERNAL,
        ErrorReason.CANCELLED: ErrorReason.SERVICE_UNAVAILABLE,
    }.get(reason, reason)
    response = house.generate()
    error = problem(response, HTTP_STATUS[expected], expected.value)
    retry_after = response.headers.get("Retry-After")
    if expected not in RETRYABLE:
        assert retry_after is None
    elif expected is ErrorReason.SERVICE_UNAVAILABLE:
        assert int(retry_after) >= 1
    else:
        assert retry_after == "7", "the stage's own word, rounded up"
    named = ["width"] if reason is ErrorReason.INVALID_REQUEST else []
    assert [field["field"] for field in error["fields"]] == named, "the client's name, not the stage's"
    if expected is ErrorReason.INTERNAL:
        assert "said by the stage" not in response.text and response.json()["request_id"] in error["message"]
    house.generator.error = None
    assert house.generate().status_code == 200, "the next request is unharmed"


RESTORER_WITH_FAIL = {
    ErrorReason.INTERNAL: (503, "stage_unavailable"),
    ErrorReason.BAD_IMAGE: (503, "stage_unavailable"),
    ErrorReason.BODY_TOO_LARGE: (503, "stage_unavailable"),
    ErrorReason.CANCELLED: (503, "stage_unavailable"),
}


@pytest.mark.parametrize("reason", list(ErrorReason))
def test_every_error_of_the_restorer_where_the_client_wants_to_fail(
    house: House, reason: ErrorReason
) -> None:
    house.restorer.error = make_error(reason, "said by the stage", retry_after_s=2)
    status, code = RESTORER_WITH_FAIL.get(reason, (HTTP_STATUS[reason], reason.value))
    if reason is ErrorReason.INVALID_REQUEST:  # without fields it is no refusal of the client's words
        status, code = 503, "stage_unavailable"
    response = house.generate(on_restore_failure="fail")
    problem(response, status, code)
    assert ("Retry-After" in response.headers) == (status in (429, 503) and code != "out_of_memory")


@pytest.mark.parametrize("reason", ["failed", "not_finite", "out_of_memory", "not_loaded"])
def test_a_restorer_that_could_restore_no_face_at_all(house: House, reason: str) -> None:
    why = SkipReason(reason)
    house.restorer.faces = [(0.9, False, why)]
    house.restorer.answer = {"reason": on_the_wire(why)}
    answer = house.generate().json()
    assert (answer["face_restoration_applied"], answer["face_restoration_reason"]) == (False, reason)
    code = "out_of_memory" if reason == "out_of_memory" else "stage_unavailable"
    problem(house.generate(on_restore_failure="fail"), 503, code)


def test_a_restorer_that_is_away_leaves_the_drawn_picture() -> None:
    house = House()
    try:
        house.stop_restorer()
        answer = house.generate(upscale=2, det_model="retinaface_resnet50", output_format="jpeg").json()
        assert answer["success"] is True
        assert (answer["face_restoration_applied"], answer["face_restoration_reason"]) == (
            False,
            "restorer_unavailable",
        )
        assert (answer["upscale_applied"], answer["final_resolution"]) == (1, "256x256")
        assert answer["image"].startswith("data:image/jpeg;base64,") and answer["faces"] == []
        unchecked, undone = answer["warnings"]
        assert "det_model" in unchecked
        assert "faces were not restored" in undone and "not enlarged x2" in undone
        assert [stage["stage"] for stage in answer["stages"]] == ["base", "encode"]
        enlarged = house.generate(upscale=2, use_face_restoration=False).json()
        assert (enlarged["face_restoration_reason"], enlarged["upscale_applied"]) == (None, 1)
        assert "enlarged x2" in enlarged["warnings"][0] and "faces" not in enlarged["warnings"][0]
        refused = house.generate(on_restore_failure="fail")
        problem(refused, 503, "stage_unavailable")
        assert int(refused.headers["Retry-After"]) >= 1
        house.start_restorer()
        eventually(lambda: house.generate().json()["face_restoration_applied"])
    finally:
        house.close()


def test_a_restorer_address_that_swallows_everything_is_given_up_before_the_deadline() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:  # accepts, and never says a word
        house = House(restorer=f"127.0.0.1:{silent.getsockname()[1]}")
        try:
            answer = house.generate().json()
            assert answer["face_restoration_reason"] == "restorer_unavailable"
            assert answer["generation_time_seconds"] < 150, "half of the deadline"
        finally:
            house.close()


@pytest.mark.parametrize(
    ("reason", "told"),
    [
        (ErrorReason.QUEUE_FULL, "restorer_unavailable"),
        (ErrorReason.SERVICE_DRAINING, "restorer_unavailable"),
        (ErrorReason.SERVICE_NOT_READY, "restorer_unavailable"),
        (ErrorReason.DEADLINE_UNMEETABLE, "restorer_unavailable"),
        (ErrorReason.OUT_OF_MEMORY, "out_of_memory"),
        (ErrorReason.INTERNAL, "failed"),
        (ErrorReason.BAD_IMAGE, "failed"),
    ],
)
def test_a_restorer_that_fails_leaves_the_drawn_picture(house: House, reason: ErrorReason, told: str) -> None:
    house.restorer.error = make_error(reason, "said by the stage", retry_after_s=1)
    answer = house.generate().json()
    assert (answer["success"], answer["face_restoration_reason"]) == (True, told)
    assert told in answer["warnings"][0] and "said by the stage" not in answer["warnings"][0]


def test_a_generator_that_is_away() -> None:
    house = House()
    try:
        house.stop_generator()
        response = house.generate()
        problem(response, 503, "stage_unavailable")
        assert int(response.headers["Retry-After"]) >= 1
        problem(house.generate(model="demo"), 503, "stage_unavailable")
    finally:
        house.close()


def test_a_name_cannot_be_judged_while_the_generator_loads(house: House) -> None:
    house.generator.status = {"ready": False, "model_set": "", "device": ""}
    response = house.generate(model="demo")
    problem(response, 503, "stage_not_ready")
    assert int(response.headers["Retry-After"]) >= 1


def test_a_detector_cannot_be_judged_while_the_restorer_loads(house: House) -> None:
    house.restorer.status, house.restorer.networks = {"ready": False, "model_set": ""}, {}
    answer = house.generate(det_model="retinaface_resnet50").json()
    assert answer["success"] is True and "det_model was not checked" in answer["warnings"][0]


def test_a_set_without_a_detector_has_none_by_that_name(house: House) -> None:
    house.restorer.networks = {}
    error = problem(house.generate(det_model="retinaface_resnet50"), 422, "invalid_request")
    assert [field["field"] for field in error["fields"]] == ["det_model"]


def test_one_deadline_for_all() -> None:
    house = House(deadline_seconds=2)
    try:
        house.generator.hold = True
        problem(house.generate(), 504, "deadline_exceeded")
        eventually(lambda: house.generator.cancelled == 1)
        house.generator.hold, house.restorer.hold = False, True
        problem(house.generate(on_restore_failure="fail"), 504, "deadline_exceeded")
        answer = house.generate().json()
        assert (answer["success"], answer["face_restoration_reason"]) == (True, "restorer_unavailable")
        eventually(lambda: house.restorer.cancelled == 2)
    finally:
        house.close()


@pytest.mark.parametrize("stage", ["generator", "restorer"])
def test_a_client_that_hangs_up_stops_the_work(
    house: House, stage: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    script = getattr(house, stage)
    script.hold = True
    body = json.dumps(SMALL).encode()
    with socket.create_connection(("127.0.0.1", house.port), timeout=20) as connection:
        connection.sendall(
            b"POST /generate HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)
        )
        eventually(lambda: script.running == 1)
    eventually(lambda: script.cancelled == 1 and script.running == 0)
    eventually(lambda: any(getattr(record, "code", None) == "499" for record in caplog.records))
    script.hold = False
    assert house.generate().status_code == 200, "the next request is unharmed"


def test_a_client_that_hangs_up_in_its_body_is_no_fault_of_ours(
    house: House, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    with socket.create_connection(("127.0.0.1", house.port), timeout=20) as connection:
        connection.sendall(b"POST /generate HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{")
    eventually(lambda: any(getattr(record, "code", None) == "499" for record in caplog.records))
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


def test_a_stage_that_answers_nonsense_is_our_fault_and_no_more_is_said(house: House) -> None:
    house.generator.answer = {"image": None}
    problem(house.generate(), 500, "internal")
    house.generator.answer = {"image": None, "upscaler": ""}
    problem(house.generate(use_face_restoration=False), 500, "internal")
