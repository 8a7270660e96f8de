"""A gateway without a generator: what it refuses, once and for all, and what it reports of the restorer."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from atelier_gateway.settings import NO_GENERATOR
from atelier_runtime.service_status import NetworkRole
from tests.contract.problem_body import problem
from tests.contract.services import eventually
from tests.contract.stack import Stack

RESTORER = {"model_set": "photo", "device": "cuda:0", "device_name": "RTX 3090 Ti"}
MEMORY = {"vram_free_bytes": 20 * 2**30, "vram_total_bytes": 24 * 2**30}


@pytest.fixture(scope="module")
def module_stack() -> Iterator[Stack]:
    with Stack(generator=NO_GENERATOR, status_timeout_seconds=0.5) as stack:
        yield stack


@pytest.fixture
def alone(module_stack: Stack) -> Stack:
    module_stack.reset()
    module_stack.restorer.status = {**RESTORER, **MEMORY}
    module_stack.restorer.networks[NetworkRole.UPSCALER] = "demo_x2"
    return module_stack


def counted(stack: Stack, name: str) -> float:
    [value] = re.findall(
        rf'^{name}{{reason="not_served"}} (\S+)$', stack.client.get("/metrics").text, re.MULTILINE
    ) or ["0"]
    return float(value)


@pytest.mark.parametrize("path", ["/generate", "/txt2img", "/api/generate"])
@pytest.mark.parametrize(
    "body",
    [
        b'{"prompt": "a face"}',
        b'{"prompt": "a face", "dry_run": true}',
        b'{"prompt": "a face", "model": "photo"}',
        b'{"width": 7}',
        b"no JSON",
        b"x" * 300_000,
    ],
    ids=["plain", "dry run", "named set", "bad field", "no JSON", "too large"],
)
def test_nothing_is_generated_and_a_retry_would_not_help(alone: Stack, path: str, body: bytes) -> None:
    errors, refusals = (counted(alone, f"atelier_{name}_total") for name in ("errors", "refusals"))
    response = alone.client.post(path, content=body)
    message = problem(response, 501, "not_served")["message"]
    assert "Retry-After" not in response.headers
    assert "ATELIER_GATEWAY_GENERATOR is none" in message and "model set 'photo'" in message
    for served in ("/detect", "/restore", "/compare"):
        assert served in message
    assert counted(alone, "atelier_errors_total") == errors + 1
    assert counted(alone, "atelier_refusals_total") == refusals, "those tell of load, which this is not"


def test_the_answer_is_the_same_while_the_restorer_is_away() -> None:
    with Stack(generator=NO_GENERATOR, status_timeout_seconds=0.3, backend_wait_seconds=0) as stack:
        stack.stop_restorer()
        response = stack.generate()
        problem(response, 501, "not_served")
        assert "Retry-After" not in response.headers
        assert stack.client.get("/").json()["restores_only"] is True
        health = stack.client.get("/health")
        assert (health.status_code, health.json()["status"]) == (503, "unhealthy")
        assert (health.json()["restores_only"], health.json()["restorer_load"]) == (True, None)
        ready = stack.client.get("/readyz")
        problem(ready, 503, "stage_unavailable")
        assert int(ready.headers["Retry-After"]) >= 1, "the restorer may come back"
        stack.start_restorer()
        eventually(lambda: stack.client.get("/readyz").status_code == 200)


def test_health_tells_of_the_restorer_what_it_otherwise_tells_of_the_generator(alone: Stack) -> None:
    response = alone.client.get("/health")
    body = response.json()
    assert (response.status_code, body["status"], body["restores_only"]) == (200, "healthy", True)
    assert (body["model_loaded"], body["models_loaded"]) == (False, True)
    assert body["codeformer_available"] and body["realesrgan_available"] and body["cuda_available"]
    assert body["model"] == "photo" and {each["service"] for each in body["networks"]} == {"restorer"}
    assert (body["device"], body["gpu_info"]) == ("cuda:0", "RTX 3090 Ti")
    assert body["vram_available"] == "20.0GB / 24.0GB"
    assert body["generator_load"] is None and body["restorer_load"]["queue_capacity"] == 8
    del alone.restorer.networks[NetworkRole.FACE_DETECTOR], alone.restorer.networks[NetworkRole.UPSCALER]
    body = alone.client.get("/health").json()
    assert (body["status"], body["models_loaded"], body["realesrgan_available"]) == (
        "unhealthy",
        False,
        False,
    )


def test_the_root_says_what_is_served_and_by_which_set(alone: Stack) -> None:
    root = alone.client.get("/").json()
    assert root == {
        "name": "Atelier",
        "version": root["version"],
        "model": "photo",
        "device": "cuda:0",
        "restores_only": True,
    }


def test_the_openapi_document_says_so(alone: Stack) -> None:
    paths = alone.client.get("/openapi.json").json()["paths"]
    assert "restores_only" in paths["/generate"]["post"]["responses"]["501"]["description"]
    assert "501" not in paths["/restore"]["post"]["responses"]
