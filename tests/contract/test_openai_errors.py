"""Errors in OpenAI's shape: statuses, types and codes, what its SDK makes of them, and what it repeats."""

from __future__ import annotations

import threading

import openai
import pytest

from atelier_gateway.api.openai.errors import ERRORS
from atelier_gateway.settings import NO_GENERATOR
from atelier_runtime.errors import ErrorReason, FieldViolation, QueueFull, make_error
from tests.contract.openai_client import EDITS, GENERATIONS, IMAGE, generate, refused, sdk
from tests.contract.services import eventually
from tests.contract.stack import Stack

STATUSES = {
    "invalid_request": 400,
    "malformed_body": 400,
    "body_too_large": 413,
    "request_timeout": 408,
    "unsupported_media_type": 415,
    "queue_full": 429,
    "deadline_unmeetable": 503,
    "deadline_exceeded": 504,
    "stage_not_ready": 503,
    "stage_draining": 503,
    "stage_unavailable": 503,
    "not_served": 501,
    "out_of_memory": 503,
    "bad_picture": 500,
    "cancelled": 499,
    "unauthenticated": 401,
    "forbidden": 403,
    "rate_limited": 429,
    "not_found": 404,
    "gone": 410,
    "internal": 500,
}
REPEATED = {"queue_full", "deadline_unmeetable", "stage_not_ready", "stage_draining", "stage_unavailable"}
REPEATED |= {"rate_limited"}
HOPELESS = {"deadline_exceeded", "out_of_memory", "not_served"}


def test_the_table_is_total_and_has_no_409() -> None:
    assert {reason.value: error.status for reason, error in ERRORS.items()} == STATUSES
    assert set(ERRORS) == set(ErrorReason)
    assert 409 not in STATUSES.values()


@pytest.mark.parametrize("reason", list(ErrorReason))
def test_every_error_of_the_generator(stack: Stack, reason: ErrorReason) -> None:
    """The services' own reasons; those of HTTP cannot come from them, and count as internal errors."""
    fields = [FieldViolation("width_px", "is too large for this model set")]
    stack.generator.error = make_error(reason, "the service's message", fields=fields, retry_after_s=6.2)
    native = stack.generate()
    response = generate(stack)
    told = ErrorReason(native.json()["error"]["code"])
    assert response.status_code == STATUSES[told.value]
    error = response.json()["error"]
    if response.status_code == 429:
        assert (error["type"], error["code"]) == ("rate_limit_error", "rate_limit_exceeded")
    elif response.status_code >= 500:
        assert error["type"] == "server_error"
    else:
        assert error["type"] == "invalid_request_error"
    assert error["param"] == ("size" if told is ErrorReason.INVALID_REQUEST else None)
    assert response.headers.get("retry-after") == native.headers.get("retry-after")
    assert ("retry-after" in response.headers) is (told.value in REPEATED)
    assert response.headers.get("x-should-retry") == ("false" if told.value in HOPELESS else None)
    assert response.headers["x-request-id"]


CLASSES = {
    ErrorReason.INVALID_REQUEST: openai.BadRequestError,
    ErrorReason.QUEUE_FULL: openai.RateLimitError,
    ErrorReason.SERVICE_DRAINING: openai.InternalServerError,
    ErrorReason.OUT_OF_MEMORY: openai.InternalServerError,
    ErrorReason.INTERNAL: openai.InternalServerError,
}


@pytest.mark.parametrize("reason", list(CLASSES))
def test_what_the_sdk_raises(stack: Stack, reason: ErrorReason) -> None:
    fields = [FieldViolation("height_px", "is too large for this model set")]
    stack.generator.error = make_error(reason, "the service's message", fields=fields, retry_after_s=1)
    with pytest.raises(CLASSES[reason]) as raised:
        sdk(stack.url).images.generate(prompt="x", size="256x256")
    error = raised.value
    assert error.request_id == error.response.headers["x-request-id"] != ""
    assert error.code == ERRORS[reason].code and error.type == ERRORS[reason].type
    assert error.param == ("size" if reason is ErrorReason.INVALID_REQUEST else None)


def test_the_sdk_waits_and_repeats_where_that_helps(stack: Stack) -> None:
    stack.generator.error = QueueFull("full", retry_after_s=1)

    def make_room() -> None:
        eventually(lambda: bool(stack.generator.requests))
        stack.generator.error = None

    thread = threading.Thread(target=make_room)
    thread.start()
    assert sdk(stack.url, max_retries=2).images.generate(prompt="x", size="256x256").data
    thread.join()
    assert len(stack.generator.requests) == 2


@pytest.mark.parametrize("reason", [ErrorReason.OUT_OF_MEMORY, ErrorReason.INVALID_REQUEST])
def test_the_sdk_does_not_repeat_what_is_hopeless(stack: Stack, reason: ErrorReason) -> None:
    fields = [FieldViolation("height_px", "is too large for this model set")]
    stack.generator.error = make_error(reason, "the service's message", fields=fields)
    with pytest.raises(openai.APIStatusError):
        sdk(stack.url, max_retries=2).images.generate(prompt="x", size="256x256")
    assert len(stack.generator.requests) == 1


def test_the_request_id_is_the_clients_if_it_has_one(stack: Stack) -> None:
    response = generate(stack, headers={"X-Request-ID": "mine-1"}, n=99)
    assert response.headers["x-request-id"] == "mine-1"


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/v1/images", 404, "unknown_url"),
        ("GET", "/v1", 404, "unknown_url"),
        ("GET", "/v1/", 404, "unknown_url"),
        ("GET", "/v1/imagesx", 404, "unknown_url"),
        ("POST", "/v1/chat/completions", 404, "unknown_url"),
        ("POST", "/v1/responses", 404, "unknown_url"),
        ("GET", "/v1/jobsx", 404, "unknown_url"),
        ("POST", "/v1/images/nothing", 404, "unknown_url"),
        ("GET", GENERATIONS, 405, "method_not_allowed"),
        ("DELETE", "/v1/models", 405, "method_not_allowed"),
        ("POST", "/v1/models/demo", 405, "method_not_allowed"),
    ],
)
def test_paths_and_methods_that_there_are_not(
    stack: Stack, method: str, path: str, status: int, code: str
) -> None:
    response = stack.client.request(method, path)
    assert refused(response, status) == (None, code)
    assert ("allow" in response.headers) is (status == 405)


def test_other_paths_have_our_own_shape(stack: Stack) -> None:
    for path in ("/v1x", "/v1/jobs/x", "/v1/jobs/x/y/z", "/v1/inspect/x"):
        assert stack.client.get(path).json()["error"]["code"] == "not_found", path
    response = stack.client.get("/v1/inspect")
    assert response.status_code == 405 and "fields" in response.json()["error"]


@pytest.mark.parametrize(
    ("content", "content_type", "status", "code"),
    [
        (b"{", "application/json", 400, "malformed_body"),
        (b"[]", "application/json", 400, "malformed_body"),
        (b'{"prompt":"x","prompt":"y"}', "application/json", 400, "invalid_value"),
        (b"prompt=x", "application/x-www-form-urlencoded", 415, "unsupported_content_type"),
        (b'{"prompt": "x", "a": [' + b"1," * 600_000 + b"1]}", "application/json", 413, "request_too_large"),
    ],
)
def test_bodies_that_cannot_be_read(
    stack: Stack, content: bytes, content_type: str, status: int, code: str
) -> None:
    for path in (GENERATIONS, EDITS):
        response = stack.client.post(path, content=content, headers={"Content-Type": content_type})
        assert refused(response, status)[1] == code


def test_variations_are_refused_in_their_shape(stack: Stack) -> None:
    with pytest.raises(openai.BadRequestError) as raised, pytest.warns(DeprecationWarning):
        sdk(stack.url).images.create_variation(image=IMAGE)
    assert raised.value.code == "unsupported_endpoint" and "/v1/images/edits" in raised.value.message


def test_without_a_generator() -> None:
    with Stack(generator=NO_GENERATOR) as stack:
        response = generate(stack)
        assert response.status_code == 501 and response.headers["x-should-retry"] == "false"
        assert response.json()["error"]["code"] == "not_served"
        assert stack.client.get("/v1/models").json() == {"object": "list", "data": []}


def test_models(stack: Stack) -> None:
    client = sdk(stack.url)
    [model] = client.models.list()
    assert (model.id, model.object, model.owned_by) == ("demo", "model", "atelier")
    assert client.models.retrieve("demo") == model
    with pytest.raises(openai.NotFoundError) as raised:
        client.models.retrieve("gpt/image 1")
    assert (raised.value.code, raised.value.param) == ("model_not_found", "model")
    stack.generator.status = {"model_set": "sdxl"}
    assert [model.id for model in client.models.list()] == ["SDXL"]


def test_models_while_the_generator_loads(stack: Stack) -> None:
    stack.generator.status = {"ready": False, "model_set": ""}
    response = stack.client.get("/v1/models")
    assert response.status_code == 503 and response.headers["retry-after"]
    assert response.json()["error"]["code"] == "service_unavailable"
    assert generate(stack, quality="low").status_code == 503  # which needs the set's steps
