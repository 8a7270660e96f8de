"""Requests for photos, in JSON and as forms, and the images in their responses."""

from __future__ import annotations

import base64
import json
import re
from typing import Any

import httpx
import pytest

from atelier_runtime.outcomes import SkipReason
from tests.contract.script import file_of, gradient, opened
from tests.contract.stack import Stack

PNG = file_of(gradient(64, 48))
DATA_URI = re.compile(r"data:image/(png|jpeg|webp);base64,(.*)", re.DOTALL)
TWO_FACES = [(0.99, True, None), (0.7, False, SkipReason.LOW_CONFIDENCE)]


def base64_of(data: bytes) -> str:
    return base64.b64encode(data).decode()


def in_json(stack: Stack, path: str, headers: dict[str, str] | None = None, **fields: Any) -> httpx.Response:
    body = {"image": "data:image/png;base64," + base64_of(PNG), **fields}
    return stack.client.post(path, json=body, headers=headers)


def in_form(stack: Stack, path: str, headers: dict[str, str] | None = None, **fields: Any) -> httpx.Response:
    as_text = {
        name: value if isinstance(value, str) else json.dumps(value)
        for name, value in fields.items()
        if value is not None
    }
    return stack.client.post(path, files={"image": ("a.png", PNG)}, data=as_text, headers=headers)


AS_JSON_AND_FORM = pytest.mark.parametrize("post", [in_json, in_form])


def decoded(data_uri: str) -> Any:
    match = DATA_URI.fullmatch(data_uri)
    assert match is not None
    image = opened(base64.b64decode(match[2]))
    assert str(image.format).lower() == match[1]
    return image
