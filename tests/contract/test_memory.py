"""A failed request is freed at once, not by the next full garbage collection: it may hold a large image."""

from __future__ import annotations

import base64
import gc
from collections.abc import Callable, Iterator

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
from tests.contract.stack import Stack, eventually

IMAGE = base64.b64encode(encode(Picture(gradient(64, 48)), "png", 90)).decode()

BAD_REQUESTS: dict[str, Callable[[httpx.Client], httpx.Response]] = {
    "a value out of range": lambda client: client.post("/restore", json={"image": IMAGE, "fidelity": 7}),
    "not JSON": lambda client: client.post("/generate", content=b'{"prompt": '),
    "not base64": lambda client: client.post("/detect", json={"image": "?"}),
    "a bad form": lambda client: client.post(
        "/compare", files={"image": ("a", b"a")}, data={"fidelities": "[9]"}
    ),
    "no prompt": lambda client: client.post("/generate", json={}),
    "an unknown path": lambda client: client.post("/unknown", json={"image": IMAGE}),
}
ERRORS = [
    InvalidRequest.of("image", "is refused"),
    QueueFull(retry_after_s=1),
    ServiceDraining(retry_after_s=1),
    OutOfMemory(),
    InternalError("a bug"),
]


@pytest.fixture(autouse=True)
def no_collector() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def remaining() -> list[object]:
    """Return our exceptions that still hold frames."""
    found = [o for o in gc.get_objects() if issubclass(type(o), AtelierError)]
    return [error for error in found if error.__traceback__ is not None]


@pytest.mark.parametrize("name", BAD_REQUESTS)
def test_a_refused_request(stack: Stack, name: str) -> None:
    assert BAD_REQUESTS[name](stack.client).status_code >= 400
    eventually(lambda: remaining() == [])


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: error.reason)
@pytest.mark.parametrize("path", ["/restore", "/detect", "/compare"])
def test_a_request_that_fails_in_the_restorer(stack: Stack, path: str, error: AtelierError) -> None:
    stack.restorer.error = error
    fields = {"fidelities": [0.5]} if path == "/compare" else {}
    assert stack.client.post(path, json={"image": IMAGE, **fields}).status_code >= 400
    stack.restorer.error = None
    error.__traceback__ = None  # raised by the script itself
    eventually(lambda: remaining() == [])


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: error.reason)
def test_a_request_that_fails_in_the_generator(stack: Stack, error: AtelierError) -> None:
    stack.generator.error = error
    assert stack.generate().status_code >= 400
    stack.generator.error = None
    error.__traceback__ = None
    eventually(lambda: remaining() == [])


def test_a_client_that_disconnects(stack: Stack) -> None:
    stack.generator.hold = True
    with pytest.raises(httpx.ReadTimeout):
        stack.client.post("/generate", json={"prompt": "x"}, timeout=0.5)
    stack.generator.hold = False
    eventually(lambda: stack.generator.running == 0 and remaining() == [])
