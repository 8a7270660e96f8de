"""What the tests of AUTOMATIC1111's dialect share: its requests and answers."""

from __future__ import annotations

import base64
import json
from typing import Any

import httpx

from atelier.generator.v1 import generator_service_pb2 as pb
from tests.contract.script import file_of, gradient
from tests.contract.stack import Stack

IGNORED = "X-Atelier-Ignored"
SIDE = 256
PICTURE = base64.b64encode(file_of(gradient(SIDE, SIDE))).decode()
WIDE = base64.b64encode(file_of(gradient(SIDE, SIDE // 2))).decode()


def post(stack: Stack, path: str, headers: Any = None, **body: Any) -> httpx.Response:
    """POST a small request; `body` adds to it."""
    small: dict[str, Any] = {}
    if path in ("txt2img", "img2img"):
        small = {"prompt": "a red apple", "width": SIDE, "height": SIDE}
    if path == "img2img":
        small["init_images"] = [PICTURE]
    content = json.dumps({**small, **body})  # ASCII: some tests send half of a surrogate pair
    return stack.client.post(f"/sdapi/v1/{path}", content=content, headers=headers)


def drawn(stack: Stack, path: str = "txt2img", **body: Any) -> pb.GenerateImageRequest:
    """POST a request that is served; return what the generator was asked for."""
    response = post(stack, path, **body)
    assert response.status_code == 200, response.text
    return drawings(stack)[-1]


def drawings(stack: Stack) -> list[pb.GenerateImageRequest]:
    """What the generator was asked to draw, without estimates."""
    return [request for request in stack.generator.requests if isinstance(request, pb.GenerateImageRequest)]


def told(response: httpx.Response) -> list[str]:
    """The fields that the header names."""
    assert response.status_code == 200, response.text
    return [name for name in response.headers.get(IGNORED, "").split(", ") if name]


def refusal(response: httpx.Response, status: int = 422) -> str:
    """The detail of an error, whose form is checked."""
    assert response.status_code == status, response.text
    body = response.json()
    assert set(body) == {"error", "detail", "body", "errors"}
    assert all(isinstance(value, str) for value in body.values()) and body["error"] and body["detail"]
    detail: str = body["detail"]
    return detail


def info_of(response: httpx.Response) -> dict[str, Any]:
    """`info`, which is JSON in a string."""
    assert response.status_code == 200, response.text
    text = response.json()["info"]
    assert isinstance(text, str)
    info: dict[str, Any] = json.loads(text)
    return info
