"""Bad input over HTTP: the right status, every offending field named, nothing generated, no crash."""

from __future__ import annotations

import http.client
import json
import socket
from typing import Any

import httpx
import pytest

from atelier_runtime import images
from tests.contract.problem_body import named_fields, problem, stable
from tests.contract.stack import Stack

SMALL = {"prompt": "a red apple", "width": 256, "height": 256}

BAD_FIELDS: list[tuple[dict[str, Any], set[str]]] = [
    ({"prompt": None}, {"prompt"}),
    ({"prompt": ""}, {"prompt"}),
    ({"prompt": "x" * 2001}, {"prompt"}),
    ({"prompt": "x" * 2**15}, {"prompt"}),
    ({"prompt": 7}, {"prompt"}),
    ({"prompt": ["a", "b"]}, {"prompt"}),
    ({"prompt": {"text": "a"}}, {"prompt"}),
    ({"negative_prompt": "x" * 2001}, {"negative_prompt"}),
    ({"prompt_syntax": "compel"}, {"prompt_syntax"}),
    ({"prompt_syntax": "Weighted"}, {"prompt_syntax"}),
    ({"prompt_syntax": 2}, {"prompt_syntax"}),
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
    ({"loras": "ink"}, {"loras"}),
    ({"loras": ["ink"]}, {"loras[0]"}),
    ({"loras": [{"name": "ink"}] * 6}, {"loras"}),
    ({"loras": [{"weight": 1}]}, {"loras[0].name"}),
    ({"loras": [{"name": "", "weight": 4.1}]}, {"loras[0].name", "loras[0].weight"}),
    ({"loras": [{"name": "ink"}, {"name": "x" * 201, "unet": 1}]}, {"loras[1].name", "loras[1].unet"}),
    ({"loras": [{"name": "ink", "weight": "1"}]}, {"loras[0].weight"}),
    ({"loras": [{"name": "ink", "weight": True}]}, {"loras[0].weight"}),
    ({"sampler": 7}, {"sampler"}),
    ({"widht": 512, "steps": -1, "seed": "x", "quality": 500}, {"widht", "steps", "seed", "quality"}),
    ({"width": 2048, "height": 2048, "upscale_factor": 4}, {"width", "height", "upscale_factor"}),
    (
        {"width": 2048, "height": 2048, "hires_fix": True, "upscale": 4},
        {"width", "height", "upscale", "hires_fix"},
    ),
]


@pytest.mark.parametrize(("given", "named"), BAD_FIELDS, ids=lambda value: stable(value)[:60])
def test_bad_fields_are_all_named(stack: Stack, given: dict[str, Any], named: set[str]) -> None:
    error = problem(stack.client.post("/generate", json={**SMALL, **given}), 422, "invalid_request")
    assert set(named_fields(error)) == named
    assert all(field["message"] for field in error["fields"])
    assert len(json.dumps(error)) < 2000, "long values are not echoed"
    assert not stack.generator.requests, "nothing was generated"


def test_a_missing_prompt(stack: Stack) -> None:
    error = problem(stack.client.post("/generate", json={}), 422, "invalid_request")
    assert named_fields(error) == ["prompt"]
    assert "1 to 2000" in error["fields"][0]["message"]


def test_over_max_pixels_names_both_figures(stack: Stack) -> None:
    body = {**SMALL, "width": 2048, "height": 2048, "upscale": 4}
    error = problem(stack.client.post("/generate", json=body), 422, "invalid_request")
    assert "8192x8192" in error["message"] and "50000000" in error["message"]


def test_a_body_of_many_unknown_fields_gets_a_short_response(stack: Stack) -> None:
    body = {f"x{number}": number for number in range(4_000)}
    response = stack.client.post("/generate", json=body)
    error = problem(response, 422, "invalid_request")
    assert len(error["fields"]) == 101 and "3901 more" in error["fields"][-1]["message"]


def test_a_misspelled_field_gets_a_hint(stack: Stack) -> None:
    error = problem(stack.generate(num_inference_step=3), 422, "invalid_request")
    assert "num_inference_steps?" in error["message"]


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
    (b'{"prompt": ' + b"[" * 20_000 + b"]" * 20_000 + b"}", 400, "malformed_body"),
    (b'{"prompt": "x", "prompt": "y"}', 422, "invalid_request"),
    (b'{"prompt": "half \\ud800"}', 422, "invalid_request"),
    (b'{"prompt": "x", "\\ud800": 1}', 422, "invalid_request"),
    (b'{"prompt": "x", "model": "\\udfff"}', 422, "invalid_request"),
]


@pytest.mark.parametrize(("body", "status", "code"), BROKEN_BODIES, ids=lambda value: repr(value)[:50])
def test_broken_bodies(stack: Stack, body: bytes, status: int, code: str) -> None:
    headers = {"Content-Type": "application/json"}
    problem(stack.client.post("/generate", content=body, headers=headers), status, code)
    assert stack.generate().status_code == 200


def test_a_byte_order_mark_is_accepted(stack: Stack) -> None:
    body = b"\xef\xbb\xbf" + json.dumps(SMALL).encode()
    assert stack.client.post("/generate", content=body).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"Content-Type": "application/x-www-form-urlencoded"},
        {"Content-Type": "image/png"},
        {"Content-Type": "application/json; charset=utf-16"},
        {"Content-Type": "application/json", "Content-Encoding": "gzip"},
    ],
    ids=str,
)
def test_other_types_are_415(stack: Stack, headers: dict[str, str]) -> None:
    response = stack.client.post("/generate", content=json.dumps(SMALL).encode(), headers=headers)
    problem(response, 415, "unsupported_media_type")


def response_on(connection: socket.socket) -> tuple[int, dict[str, Any]]:
    response = http.client.HTTPResponse(connection)
    response.begin()
    return response.status, json.loads(response.read())


def test_a_body_announced_as_too_large_is_refused_unread(stack: Stack) -> None:
    """Only the header is sent: a server that waits for the body never responds."""
    with socket.create_connection(("127.0.0.1", stack.port), timeout=20) as connection:
        connection.sendall(
            b"POST /generate HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
            b"Content-Length: 99999999999\r\n\r\n"
        )
        status, body = response_on(connection)
    assert (status, body["error"]["code"]) == (413, "body_too_large")


def test_a_body_that_grows_too_large_is_refused_while_it_arrives() -> None:
    """Sent in chunks without a length, and without an end."""
    with (
        Stack(max_pixels=65_536) as small,
        socket.create_connection(("127.0.0.1", small.port), timeout=20) as connection,
    ):
        connection.sendall(
            b"POST /generate HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
            b"Transfer-Encoding: chunked\r\n\r\n"
        )
        chunk = b"10000\r\n" + b" " * 0x10000 + b"\r\n"
        image = images.message_limit_bytes(65_536) - 2 * 2**20
        for _ in range(image * 4 // 3 // 0x10000 + 4):  # in base64, and 192 KiB of the rest
            connection.sendall(chunk)
        status, body = response_on(connection)
    assert (status, body["error"]["code"]) == (413, "body_too_large")


def test_an_ordinary_client_reads_413(stack: Stack) -> None:
    """Only images may take more room than the longest prompts."""
    prompt = {"prompt": "x" * 5_000_000}
    response = httpx.post(stack.url + "/generate", json=prompt, trust_env=False, timeout=20)
    assert set(named_fields(problem(response, 422, "invalid_request"))) == {"prompt"}
    spaces = b'{"prompt":' + b" " * 5_000_000 + b'"x"}'
    response = httpx.post(stack.url + "/generate", content=spaces, trust_env=False, timeout=20)
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
def test_no_such_path_or_method(stack: Stack, method: str, path: str, status: int) -> None:
    response = stack.client.request(method, path)
    problem(response, status, "not_found")
    assert ("Allow" in response.headers) == (status == 405)


@pytest.mark.parametrize("path", ["/", "/health", "/livez", "/readyz", "/metrics", "/docs", "/detect"])
def test_the_methods_of_a_path(stack: Stack, path: str) -> None:
    allowed = {"POST"} if path == "/detect" else {"GET", "HEAD"}
    assert set(stack.client.delete(path).headers["Allow"].split(", ")) == allowed


def test_an_image_type_that_cannot_be_written(stack: Stack) -> None:
    error = problem(stack.generate(headers={"Accept": "image/gif"}), 422, "invalid_request")
    assert named_fields(error) == ["Accept"] and "image/gif" in error["message"]
