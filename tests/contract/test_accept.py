"""The Accept header: JSON, or the image file with the report in a header."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from atelier_runtime import wire
from atelier_runtime.outcomes import ResponseWarning, WarningCode
from tests.contract.script import file_of, gradient, opened
from tests.contract.stack import Stack

IMAGE = base64.b64encode(file_of(gradient(64, 48), "jpeg")).decode()


@pytest.mark.parametrize(
    ("accept", "body", "kind"),
    [
        ("image/*", {}, "png"),
        ("image/webp", {}, "webp"),
        ("image/jpeg", {}, "jpeg"),
        ("image/png", {"output_format": "jpeg"}, "jpeg"),
        ("application/json;q=0.4, image/webp;q=0.8, image/png;q=0.5", {}, "webp"),
        ("image/avif,image/webp,image/*,*/*;q=0.8", {}, "webp"),
    ],
)
def test_an_image_type_gets_the_generated_file_and_the_report(
    stack: Stack, accept: str, body: dict[str, Any], kind: str
) -> None:
    response = stack.generate(headers={"Accept": accept}, **body)
    assert response.headers["content-type"] == f"image/{kind}"
    image = opened(response.content)
    assert (str(image.format).lower(), image.size) == (kind, (256, 256))
    report = json.loads(response.headers["X-Atelier-Report"])
    in_json = stack.generate(**body).json()
    assert set(report) == set(in_json) - {"image", "prompt"}
    assert report["faces"] == in_json["faces"] and report["final_resolution"] == "256x256"


@pytest.mark.parametrize(
    "accept", ["*/*", "application/json", "image/png;q=0.2, */*", "image/*;q=0", "text/html, */*"]
)
def test_anything_else_gets_json(stack: Stack, accept: str) -> None:
    response = stack.generate(headers={"Accept": accept})
    assert response.headers["content-type"] == "application/json"
    assert response.json()["success"] is True


def test_a_report_that_is_too_long_is_cut_and_says_so(stack: Stack) -> None:
    stack.restorer.faces = [(0.9, True, None)] * 100
    warnings = [
        ResponseWarning(WarningCode.PROMPT_TRUNCATED, "über " * 400),
        ResponseWarning(WarningCode.MEMORY_FALLBACK, "characters: \x7f\n\u2028"),
    ]
    stack.generator.result = {"warnings": wire.warnings_to_proto(warnings)}
    response = stack.generate(headers={"Accept": "image/png"})
    header = response.headers["X-Atelier-Report"]
    assert header.isascii() and len(header) <= 6 * 1024
    report = json.loads(header)
    assert len(report["faces"]) + report["left_out"]["faces"] == 100 and report["left_out"]["faces"] > 0
    assert len(report["warnings"][0]) == 200 and report["warnings"][1] == "characters: \x7f\n\u2028"
    assert report["warning_codes"] == ["prompt_truncated", "memory_fallback"]
    assert report["face_restoration_applied"] is True


def test_errors_are_json_anyway(stack: Stack) -> None:
    response = stack.generate(headers={"Accept": "image/png"}, width=255)
    assert (response.status_code, response.headers["content-type"]) == (422, "application/json")


@pytest.mark.parametrize("path", ["/detect", "/compare"])
def test_responses_that_a_single_file_cannot_hold_are_json_whatever_is_accepted(
    stack: Stack, path: str
) -> None:
    fields = {"fidelities": [0.5]} if path == "/compare" else {}
    request = {"image": IMAGE, **fields}
    response = stack.client.post(path, json=request, headers={"Accept": "image/png"})
    assert (response.status_code, response.headers["content-type"]) == (200, "application/json")


@pytest.mark.parametrize(
    ("accept", "body", "kind"),
    [
        ("image/*", {}, "jpeg"),
        ("image/webp", {}, "webp"),
        ("image/png", {"output_format": "webp"}, "webp"),
        ("image/avif,image/webp,image/*,*/*;q=0.8", {}, "webp"),
    ],
)
def test_an_image_type_gets_the_restored_file_and_the_report(
    stack: Stack, accept: str, body: dict[str, Any], kind: str
) -> None:
    request = {"image": IMAGE, **body}
    response = stack.client.post("/restore", json=request, headers={"Accept": accept})
    assert response.headers["content-type"] == f"image/{kind}"
    image = opened(response.content)
    assert (str(image.format).lower(), image.size) == (kind, (64, 48))
    report = json.loads(response.headers["X-Atelier-Report"])
    in_body = stack.client.post("/restore", json=request).json()
    assert set(report) == set(in_body) - {"image", "mask"}
    [face] = in_body["faces"]
    assert report["faces"] == [{key: face[key] for key in face if not key.startswith("crop")}]


def test_a_report_of_many_faces_is_cut_and_says_so(stack: Stack) -> None:
    stack.restorer.faces = [(0.9, True, None)] * 100
    response = stack.client.post("/restore", json={"image": IMAGE}, headers={"Accept": "image/png"})
    header = response.headers["X-Atelier-Report"]
    report = json.loads(header)
    assert len(header) <= 6 * 1024
    assert len(report["faces"]) + report["left_out"]["faces"] == 100 and report["left_out"]["faces"] > 0
