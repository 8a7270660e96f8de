"""What the tests of OpenAI's interface have in common: requests, the real SDK, events."""

from __future__ import annotations

import base64
import json
from typing import Any

import httpx
import openai
from PIL.ImageFile import ImageFile

from atelier.generator.v1 import generator_service_pb2 as pb
from tests.contract.script import file_of, gradient, opened
from tests.contract.stack import Stack

GENERATIONS = "/v1/images/generations"
EDITS = "/v1/images/edits"
IMAGE = file_of(gradient(256, 256))
MASK = file_of(gradient(256, 256), "webp")
SMALL: dict[str, Any] = {"prompt": "a red apple", "size": "256x256"}


def sdk(url: str, **options: Any) -> openai.OpenAI:
    """The real client, which repeats nothing unless told to."""
    return openai.OpenAI(**{"api_key": "any", "base_url": f"{url}/v1", "max_retries": 0, **options})


def generate(stack: Stack, headers: dict[str, str] | None = None, **body: Any) -> httpx.Response:
    """POST a small request; `body` adds to it."""
    return stack.client.post(GENERATIONS, json={**SMALL, **body}, headers=headers)


def answer(response: httpx.Response) -> Any:
    """The JSON of a successful response."""
    assert response.status_code == 200, response.text
    return response.json()


def refused(response: httpx.Response, status: int = 400) -> tuple[str | None, str]:
    """The field and the code of an error in OpenAI's shape."""
    assert response.status_code == status, response.text
    assert response.headers["x-request-id"]
    [(name, error)] = response.json().items()
    assert name == "error" and set(error) == {"message", "type", "param", "code"}
    assert error["type"] == "invalid_request_error" and error["message"]
    return error["param"], error["code"]


def drawn(stack: Stack) -> pb.GenerateImageRequest:
    """The last request that the generator was asked to draw."""
    requests = [each for each in stack.generator.requests if isinstance(each, pb.GenerateImageRequest)]
    return requests[-1]


def picture(text: str) -> ImageFile:
    """The image of some base64."""
    return opened(base64.b64decode(text, validate=True))


def events_in(response: httpx.Response) -> list[tuple[str, Any]]:
    """Name and data of each event; that of the last one is a text."""
    events = []
    for block in response.text.split("\n\n"):
        lines = dict(line.split(": ", 1) for line in block.splitlines() if not line.startswith(":"))
        if lines:
            data = lines["data"]
            events.append((lines.get("event", ""), data if data == "[DONE]" else json.loads(data)))
    return events
