"""Every way to fail over HTTP: the right status, our body, the field named, and the process alive."""

from __future__ import annotations

import http.client
import json
import logging
import socket
from typing import Any

import httpx
import pytest

from atelier_gateway.problems import COME_BACK_LATER, HTTP_STATUS
from atelier_runtime.errors import ERROR_CLASSES, ErrorReason, FieldViolation, NotDoneReason, make_error
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


def problem(response: httpx.Response, status: int, code: str) -> dict[str, Any]:
    """Check the body that every failure has, and return its error."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/json"
    body = response.json()
    assert set(body) == {"success", "error", "detail", "request_id"}
    assert body["success"] is False and body["request_id"] == response.headers["X-Request-ID"]
    error = body["error"]
    assert set(error) == {"code", "message", "fields"}
    assert error["code"] == code and error["message"] == body["detail"]
    for leak in ("Traceback", "Error(", "/usr", "site-packages", ".py", "pydantic", "grpc", "127.0.0.1"):
        assert leak not in response.text
    return error


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
        ErrorReason.CANCELLED: ErrorReason.STAGE_UNAVAILABLE,
    }.get(reason, reason)
    response = house.generate()
    error = problem(response, HTTP_STATUS[expected], expected.value)
    retry_after = response.headers.get("Retry-After")
    if expected not in COME_BACK_LATER:
        assert retry_after is None
    elif expected is ErrorReason.STAGE_UNAVAILABLE:
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
    ErrorReason.BAD_PICTURE: (503, "stage_unavailable"),
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
    why = NotDoneReason(reason)
    house.restorer.faces = [(0.9, False, why)]
    house.restorer.answer = {"reason": on_the_wire(why)}
    answer = house.generate().json()
    assert (answer["face_restoration_applied"], answer["face_restoration_reason"]) == (False, reason)
    code = "out_of_memory" if reason == "out_of_memory" else "stage_unavailable"
    problem(house.generate(on_restore_failure="fail"), 503, code)


BAD_FIELDS: list[tuple[dict[str, Any], set[str]]] = [
    ({"prompt": None}, {"prompt"}),
    ({"prompt": ""}, {"prompt"}),
    ({"prompt": "x" * 2001}, {"prompt"}),
    ({"prompt": "x" * 2**20}, {"prompt"}),
    ({"prompt": 7}, {"prompt"}),
    ({"prompt": ["a", "b"]}, {"prompt"}),
    ({"prompt": {"text": "a"}}, {"prompt"}),
    ({"negative_prompt": "x" * 2001}, {"negative_prompt"}),
    ({"width": 255}, {"width"}),
    ({"width": 248}, {"width"}),
    ({"width": 2056}, {"width"}),
    ({"width": 260}, {"width"}),
    ({"width": "1024"}, {"width"}),
    ({"width": True}, {"width"}),
    ({"width": 1e308, "height": -1}, {"width", "height"}),
    ({"height": 512.5}, {"height"}),
    ({"num_inference_steps": 0}, {"num_inference_steps"}),
    ({"steps": 151}, {"steps"}),
    ({"steps": 10**6}, {"steps"}),
    ({"steps": 20, "num_inference_steps": 20}, {"steps", "num_inference_steps"}),
    ({"cfg_scale": 7.5, "guidance_scale": 7.5}, {"cfg_scale", "guidance_scale"}),
    ({"hires_fix": False, "use_hires_fix": False}, {"hires_fix", "use_hires_fix"}),
    ({"upscale": 1, "upscale_factor": None}, {"upscale", "upscale_factor"}),
    ({"guidance_scale": -0.1}, {"guidance_scale"}),
    ({"cfg_scale": 30.1}, {"cfg_scale"}),
    ({"guidance_scale": True}, {"guidance_scale"}),
    ({"seed": -2}, {"seed"}),
    ({"seed": 2**53}, {"seed"}),
    ({"seed": 2**80}, {"seed"}),
    ({"seed": 1.5}, {"seed"}),
    ({"seed": "42"}, {"seed"}),
    ({"use_refiner": 1}, {"use_refiner"}),
    ({"use_refiner": "true"}, {"use_refiner"}),
    ({"use_hires_fix": "yes"}, {"use_hires_fix"}),
    ({"hires_fix": True, "hires_fix_simple": True}, {"hires_fix", "hires_fix_simple"}),
    ({"use_hires_fix": True, "hires_fix_simple": True}, {"use_hires_fix", "hires_fix_simple"}),
    ({"hires_scale": 0.99}, {"hires_scale"}),
    ({"hires_scale": 4.01}, {"hires_scale"}),
    ({"face_restoration_weight": 1.01}, {"face_restoration_weight"}),
    ({"face_restoration_weight": "0.6"}, {"face_restoration_weight"}),
    ({"upscale": 3}, {"upscale"}),
    ({"upscale": True}, {"upscale"}),
    ({"upscale_factor": 8}, {"upscale_factor"}),
    ({"face_size": 256}, {"face_size"}),
    ({"model": 1}, {"model"}),
    ({"model": ""}, {"model"}),
    ({"det_model": "dlib"}, {"det_model"}),
    ({"on_restore_failure": "ignore"}, {"on_restore_failure"}),
    ({"output_format": "gif"}, {"output_format"}),
    ({"output_format": "PNG"}, {"output_format"}),
    ({"quality": 0}, {"quality"}),
    ({"quality": 101}, {"quality"}),
    ({"sampler": "euler"}, {"sampler"}),
    ({"widht": 512, "steps": -1, "seed": "x", "quality": 500}, {"widht", "steps", "seed", "quality"}),
    ({"width": 2048, "height": 2048, "upscale_factor": 4}, {"width", "height", "upscale_factor"}),
    (
        {"width": 2048, "height": 2048, "hires_fix": True, "upscale": 4},
        {"width", "height", "upscale", "hires_fix"},
    ),
]


@pytest.mark.parametrize(("given", "named"), BAD_FIELDS, ids=lambda value: repr(value)[:60])
def test_bad_fields_are_all_named(house: House, given: dict[str, Any], named: set[str]) -> None:
    error = problem(house.client.post("/generate", json={**SMALL, **given}), 422, "invalid_request")
    assert {field["field"] for field in error["fields"]} == named
    assert all(field["message"] for field in error["fields"])
    assert len(json.dumps(error)) < 2000, "what was given is not echoed at length"
    assert not house.generator.requests, "nothing was drawn"


def test_a_missing_prompt(house: House) -> None:
    error = problem(house.client.post("/generate", json={}), 422, "invalid_request")
    assert [field["field"] for field in error["fields"]] == ["prompt"]
    assert "1 to 2000" in error["fields"][0]["message"]


def test_over_max_pixels_names_both_figures(house: House) -> None:
    body = {**SMALL, "width": 2048, "height": 2048, "upscale": 4}
    error = problem(house.client.post("/generate", json=body), 422, "invalid_request")
    assert "8192x8192" in error["message"] and "50000000" in error["message"]


def test_a_body_of_many_unknown_fields_gets_a_short_answer(house: House) -> None:
    body = {f"x{number}": number for number in range(50_000)}
    response = house.client.post("/generate", json=body)
    error = problem(response, 422, "invalid_request")
    assert len(error["fields"]) == 101 and "49901 more" in error["fields"][-1]["message"]


def test_a_misspelt_field_gets_a_hint(house: House) -> None:
    error = problem(house.generate(num_inference_step=3), 422, "invalid_request")
    assert "did you mean num_inference_steps?" in error["message"]


BROKEN_BODIES: list[tuple[bytes, int, str]] = [
    (b"", 400, "malformed_body"),
    (b"{", 400, "malformed_body"),
    (b'{"prompt": "x",}', 400, "malformed_body"),
    (b"prompt=x", 400, "malformed_body"),
    (b'"prompt"', 400, "malformed_body"),
    (b'[{"prompt": "x"}]', 400, "malformed_body"),
    (b"null", 400, "malformed_body"),
    (b'{"prompt": "\xff\xfe"}', 400, "malformed_body"),
    ('{"prompt": "x"}'.encode("utf-16"), 400, "malformed_body"),
    (b'{"prompt": "x", "guidance_scale": NaN}', 400, "malformed_body"),
    (b'{"prompt": "x", "guidance_scale": Infinity}', 400, "malformed_body"),
    (b'{"prompt": "x", "guidance_scale": -Infinity}', 400, "malformed_body"),
    (b'{"prompt": "x", "guidance_scale": 1e999}', 422, "invalid_request"),
    (b'{"prompt": "x", "seed": ' + b"9" * 5000 + b"}", 400, "malformed_body"),
    (b'{"prompt": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", 400, "malformed_body"),
    (b'{"prompt": "x", "prompt": "y"}', 422, "invalid_request"),
    (b'{"prompt": "half \\ud800"}', 422, "invalid_request"),
    (b'{"prompt": "x", "\\ud800": 1}', 422, "invalid_request"),
    (b'{"prompt": "x", "model": "\\udfff"}', 422, "invalid_request"),
]


@pytest.mark.parametrize(("body", "status", "code"), BROKEN_BODIES, ids=lambda value: repr(value)[:50])
def test_broken_bodies(house: House, body: bytes, status: int, code: str) -> None:
    headers = {"Content-Type": "application/json"}
    problem(house.client.post("/generate", content=body, headers=headers), status, code)
    assert house.generate().status_code == 200


def test_a_byte_order_mark_is_no_fault(house: House) -> None:
    body = b"\xef\xbb\xbf" + json.dumps(SMALL).encode()
    assert house.client.post("/generate", content=body).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"Content-Type": "application/x-www-form-urlencoded"},
        {"Content-Type": "multipart/form-data; boundary=x"},
        {"Content-Type": "image/png"},
        {"Content-Type": "application/json; charset=utf-16"},
        {"Content-Type": "application/json", "Content-Encoding": "gzip"},
    ],
    ids=str,
)
def test_other_types_are_415(house: House, headers: dict[str, str]) -> None:
    response = house.client.post("/generate", content=json.dumps(SMALL).encode(), headers=headers)
    problem(response, 415, "unsupported_media_type")


def answer_on(connection: socket.socket) -> tuple[int, dict[str, Any]]:
    response = http.client.HTTPResponse(connection)
    response.begin()
    return response.status, json.loads(response.read())


def test_a_body_announced_as_too_large_is_refused_unread(house: House) -> None:
    """Only the header is sent: whoever waits for the body never answers."""
    with socket.create_connection(("127.0.0.1", house.port), timeout=20) as connection:
        connection.sendall(
            b"POST /generate HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
            b"Content-Length: 99999999999\r\n\r\n"
        )
        status, body = answer_on(connection)
    assert (status, body["error"]["code"]) == (413, "body_too_large")


def test_a_body_that_grows_too_large_is_refused_while_it_arrives(house: House) -> None:
    """Sent in chunks without a length, and never ended."""
    with socket.create_connection(("127.0.0.1", house.port), timeout=20) as connection:
        connection.sendall(
            b"POST /generate HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
            b"Transfer-Encoding: chunked\r\n\r\n"
        )
        chunk = b"10000\r\n" + b" " * 0x10000 + b"\r\n"
        for _ in range(65):  # 64 of them are the limit of 4 MiB
            connection.sendall(chunk)
        status, body = answer_on(connection)
    assert (status, body["error"]["code"]) == (413, "body_too_large")


def test_an_ordinary_client_reads_413(house: House) -> None:
    response = httpx.post(
        house.url + "/generate", json={"prompt": "x" * 5_000_000}, trust_env=False, timeout=20
    )
    problem(response, 413, "body_too_large")


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/generate", 405),
        ("DELETE", "/health", 405),
        ("GET", "/nowhere", 404),
        ("POST", "/generate/", 404),
        ("GET", "/docs/assets/../../../../etc/passwd", 404),
        ("GET", "/%2e%2e/etc/passwd", 404),
    ],
)
def test_no_such_page_or_method(house: House, method: str, path: str, status: int) -> None:
    response = house.client.request(method, path)
    problem(response, status, "not_found")
    assert ("Allow" in response.headers) == (status == 405)


def test_an_image_type_that_cannot_be_written(house: House) -> None:
    error = problem(house.generate(headers={"Accept": "image/gif"}), 422, "invalid_request")
    assert error["fields"][0]["field"] == "Accept" and "png, jpeg, webp" in error["message"]


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
        (ErrorReason.STAGE_DRAINING, "restorer_unavailable"),
        (ErrorReason.STAGE_NOT_READY, "restorer_unavailable"),
        (ErrorReason.DEADLINE_UNMEETABLE, "restorer_unavailable"),
        (ErrorReason.OUT_OF_MEMORY, "out_of_memory"),
        (ErrorReason.INTERNAL, "failed"),
        (ErrorReason.BAD_PICTURE, "failed"),
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


def test_one_deadline_for_all() -> None:
    house = House(deadline_seconds=0.5)
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
