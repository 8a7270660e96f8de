"""A failed request is freed at once, not by the next full garbage collection: it may hold a large image."""

from __future__ import annotations

import base64
import gc
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from atelier_runtime.errors import (
    AtelierError,
    InternalError,
    InvalidRequest,
    OutOfMemory,
    QueueFull,
    ServiceDraining,
)
from atelier_runtime.images import Picture, encode
from tests.contract.script import gradient
from tests.contract.services import eventually
from tests.contract.stack import Stack

IMAGE = base64.b64encode(encode(Picture(gradient(64, 48)), "png", 90)).decode()

BAD_REQUESTS: dict[str, Callable[[httpx.Client], httpx.Response]] = {
    "a value out of range": lambda client: client.post("/restore", json={"image": IMAGE, "fidelity": 7}),
    "not JSON": lambda client: client.post("/generate", content=b'{"prompt": '),
    "not base64": lambda client: client.post("/detect", json={"image": "?"}),
    "a bad form": lambda client: client.post(
        "/compare", files={"image": ("a", b"a")}, data={"fidelities": "[9]"}
    ),
    "no prompt": lambda client: client.post("/generate", json={}),
    "no size": lambda client: client.post("/v1/images/generations", json={"prompt": "x", "size": "1x1"}),
    "no model": lambda client: client.get("/v1/models/x"),
    "not base64 in an edit": lambda client: client.post(
        "/v1/images/edits", json={"prompt": "x", "image": "?"}
    ),
    "an unknown path": lambda client: client.post("/unknown", json={"image": IMAGE}),
}
ERRORS = [
    InvalidRequest.of("image", "is refused"),
    QueueFull(retry_after_s=1),
    ServiceDraining(retry_after_s=1),
    OutOfMemory(),
    InternalError("a bug"),
]


@pytest.fixture
def remaining() -> Iterator[Callable[[], list[object]]]:
    """Return our new exceptions that still hold frames; nothing is collected meanwhile."""
    gc.collect()
    gc.disable()
    before = _errors()

    def find() -> list[object]:
        known = set(map(id, before))
        return [error for error in _errors() if error.__traceback__ is not None and id(error) not in known]

    yield find
    gc.enable()


def _errors() -> list[BaseException]:
    return [found for found in gc.get_objects() if issubclass(type(found), AtelierError)]


def test_refused_requests(stack: Stack, remaining: Callable[[], list[object]]) -> None:
    for send in BAD_REQUESTS.values():
        assert send(stack.client).status_code >= 400
    eventually(lambda: remaining() == [])


@pytest.mark.parametrize("path", ["/restore", "/detect", "/compare", "/generate"])
def test_requests_that_fail_in_a_service(
    stack: Stack, remaining: Callable[[], list[object]], path: str
) -> None:
    service = stack.generator if path == "/generate" else stack.restorer
    fields = {"prompt": "x"} if path == "/generate" else {"image": IMAGE}
    more = {"fidelities": [0.5]} if path == "/compare" else {}
    for error in ERRORS:
        service.error = error
        assert stack.client.post(path, json={**fields, **more}).status_code >= 400
        service.error = None
        error.__traceback__ = None  # raised by the script itself
    eventually(lambda: remaining() == [])


@pytest.mark.parametrize("failing", ["generator", "second image", "restorer"])
def test_several_images_of_which_one_fails(
    stack: Stack, remaining: Callable[[], list[object]], failing: str
) -> None:
    error = InternalError("a bug")
    if failing == "second image":
        stack.generator.error_at = 1
    else:
        service = stack.generator if failing == "generator" else stack.restorer
        service.error = error
    assert stack.generate(num_images=4, on_restore_failure="fail").status_code >= 500
    stack.generator.error = stack.restorer.error = error.__traceback__ = None
    eventually(lambda: remaining() == [])


def test_a_client_that_disconnects(stack: Stack, remaining: Callable[[], list[object]]) -> None:
    stack.generator.hold = True
    with pytest.raises(httpx.ReadTimeout):
        stack.client.post("/generate", json={"prompt": "x"}, timeout=0.5)
    stack.generator.hold = False
    eventually(lambda: stack.generator.running == 0 and remaining() == [])


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"stream": True},
        {"stream": True, "partial_images": 1},
        {"response_format": "url"},
        {"quality": "low"},
    ],
    ids=lambda body: ", ".join(body) or "plain",
)
def test_requests_of_openais_interface_that_fail(
    stack: Stack, remaining: Callable[[], list[object]], body: dict[str, Any]
) -> None:
    request = {"prompt": "x", "image": IMAGE, "size": "256x256", "on_restore_failure": "fail", **body}
    for service in (stack.generator, stack.restorer):
        errors = [InvalidRequest.of("width_px", "is refused"), OutOfMemory(), InternalError("a bug")]
        for error in errors[:1] if "response_format" in body else errors:  # jobs try again, and take longer
            service.error = error
            response = stack.client.post("/v1/images/edits", json=request)
            assert response.status_code >= 400 or "event: error" in response.text
            service.error = None
            error.__traceback__ = None
    eventually(lambda: remaining() == [])


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_of_openais_interface_that_disconnects(
    stack: Stack, remaining: Callable[[], list[object]], stream: bool
) -> None:
    stack.generator.hold = True
    body = {"prompt": "x", "size": "256x256", "stream": stream, "partial_images": 1}
    with pytest.raises(httpx.ReadTimeout):
        stack.client.post("/v1/images/generations", json=body, timeout=0.5)
    stack.generator.hold = False
    eventually(lambda: stack.generator.running == 0 and remaining() == [])
