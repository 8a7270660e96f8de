"""/health, /livez, /readyz and /: what works now."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator

import pytest

from atelier_runtime.service_status import LoadedNetwork, NetworkRole
from tests.contract.services import eventually
from tests.contract.stack import Stack

IDLE = {
    "running": 0,
    "queue_depth": 0,
    "queue_capacity": 8,
    "image_workers": 2,
    "image_workers_busy": 0,
    "image_queue_depth": 0,
}


def network(service: str, role: str | None, name: str) -> dict[str, str | None]:
    return {"service": service, "role": role, "name": name}


DRAWS = [network("generator", "base", "demo-sdxl"), network("generator", "upscaler", "demo_x2")]
RESTORES = [
    network("restorer", "detector", "retinaface_mobile0.25"),
    network("restorer", "codeformer", "codeformer"),
]
HEALTHY_ON_A_CPU = {
    "status": "healthy",
    "restores_only": False,
    "model": "demo",
    "networks": [*DRAWS, *RESTORES],
    "model_loaded": True,
    "models_loaded": True,
    "cuda_available": False,
    "codeformer_available": True,
    "realesrgan_available": True,
    "refiner_available": False,
    "identity_available": False,
    "jobs_available": True,
    "vram_available": None,
    "device": "cpu",
    "gpu_info": None,
    "generator_load": IDLE,
    "restorer_load": IDLE,
}


def test_health_on_a_cpu(stack: Stack) -> None:
    response = stack.client.get("/health")
    assert (response.status_code, response.json()) == (200, HEALTHY_ON_A_CPU)


def test_health_on_cuda(stack: Stack) -> None:
    stack.generator.status = {
        "device": "cuda:0",
        "device_name": "RTX 3090 Ti",
        "vram_free_bytes": int(12.5 * 2**30),
        "vram_total_bytes": 24 * 2**30,
    }
    stack.generator.networks[NetworkRole.REFINER] = "sdxl-refiner"
    assert stack.client.get("/health").json() == {
        **HEALTHY_ON_A_CPU,
        "cuda_available": True,
        "refiner_available": True,
        "networks": [*DRAWS, network("generator", "refiner", "sdxl-refiner"), *RESTORES],
        "vram_available": "12.5GB / 24.0GB",
        "device": "cuda:0",
        "gpu_info": "RTX 3090 Ti",
    }


def test_health_tells_whether_likeness_can_be_told(stack: Stack) -> None:
    stack.restorer.networks[NetworkRole.IDENTITY] = "sface"
    assert stack.client.get("/health").json() == {
        **HEALTHY_ON_A_CPU,
        "networks": [*DRAWS, *RESTORES, network("restorer", "identity", "sface")],
        "identity_available": True,
    }


def test_health_names_what_is_loaded(stack: Stack) -> None:
    """A page can say that there is no face parser; what it does not know is shown all the same."""
    stack.restorer.networks[NetworkRole.FACE_PARSER] = "parsenet"
    shown = stack.client.get("/health").json()["networks"]
    assert network("restorer", "parser", "parsenet") in shown
    stack.restorer.status = {"networks": (LoadedNetwork(None, "of tomorrow"),)}
    shown = stack.client.get("/health").json()["networks"]
    assert shown == [*DRAWS, network("restorer", None, "of tomorrow")]


def test_health_tells_how_busy_the_services_are(stack: Stack) -> None:
    stack.restorer.status = {"running": 1, "queue_depth": 7, "image_workers_busy": 2, "image_queue_depth": 5}
    stack.generator.status = {"queue_depth": None, "image_workers": None}  # an older service
    body = stack.client.get("/health").json()
    assert body["restorer_load"] == {**IDLE, **stack.restorer.status}
    assert body["generator_load"] == {**IDLE, **stack.generator.status}


def test_health_follows_what_is_loaded(stack: Stack) -> None:
    stack.generator.networks = {NetworkRole.BASE: "demo-sdxl"}
    stack.restorer.networks = {NetworkRole.FACE_DETECTOR: "retinaface_mobile0.25"}
    assert stack.client.get("/health").json() == {
        **HEALTHY_ON_A_CPU,
        "status": "degraded",
        "networks": [DRAWS[0], RESTORES[0]],
        "models_loaded": False,
        "codeformer_available": False,
        "realesrgan_available": False,
    }


def test_health_while_the_restorer_is_loading(stack: Stack) -> None:
    stack.restorer.status = {"ready": False}
    response = stack.client.get("/health")
    assert (response.status_code, response.json()["status"]) == (200, "degraded")
    assert response.json()["codeformer_available"] is False and response.json()["networks"] == DRAWS


def test_health_while_the_generator_is_loading(stack: Stack) -> None:
    stack.generator.status = {"ready": False, "model_set": "", "device": "", "device_name": ""}
    stack.generator.networks = {}
    response = stack.client.get("/health")
    assert (response.status_code, response.json()["status"]) == (503, "unhealthy")
    assert (response.json()["model_loaded"], response.json()["device"]) == (False, None)
    assert (response.json()["model"], response.json()["networks"]) == (None, RESTORES)
    root = stack.client.get("/").json()
    assert (root["model"], root["device"]) == (None, None)
    ready = stack.client.get("/readyz")
    assert (ready.status_code, ready.json()["error"]["code"]) == (503, "stage_not_ready")
    assert int(ready.headers["Retry-After"]) >= 1
    assert stack.client.get("/livez").status_code == 200


def test_health_while_an_image_is_generated(stack: Stack) -> None:
    stack.generator.hold = True
    client = threading.Thread(target=stack.generate)
    client.start()
    try:
        eventually(lambda: stack.generator.running == 1)
        for _ in range(20):
            assert stack.client.get("/health").json() == HEALTHY_ON_A_CPU
        assert stack.generator.running == 1
    finally:
        stack.generator.hold = False
        client.join()


@pytest.fixture(scope="module")
def impatient_stack() -> Iterator[Stack]:
    with Stack(status_timeout_seconds=0.3) as stack:
        yield stack


def test_health_without_services(impatient_stack: Stack) -> None:
    stack = impatient_stack
    stack.restorer.silent = True
    assert stack.client.get("/health").json()["status"] == "degraded"
    stack.restorer.silent = False
    stack.stop_restorer()
    assert stack.client.get("/health").json()["status"] == "degraded"
    stack.stop_generator()
    response = stack.client.get("/health")
    assert response.status_code == 503
    assert response.json() == {
        **dict.fromkeys(HEALTHY_ON_A_CPU, False),
        "jobs_available": True,
        "status": "unhealthy",
        "model": None,
        "networks": [],
        "vram_available": None,
        "device": None,
        "gpu_info": None,
        "generator_load": None,
        "restorer_load": None,
    }
    ready = stack.client.get("/readyz")
    assert (ready.status_code, ready.json()["error"]["code"]) == (503, "stage_unavailable")
    assert stack.client.get("/livez").status_code == 200
    root = stack.client.get("/").json()
    assert (root["name"], root["model"], root["device"]) == ("Atelier", None, None)


def test_root_and_readyz(stack: Stack) -> None:
    root = stack.client.get("/").json()
    assert root == {
        "name": "Atelier",
        "version": root["version"],
        "model": "demo",
        "device": "cpu",
        "restores_only": False,
    }
    assert re.match(r"\d+\.\d+", root["version"])
    assert stack.client.get("/readyz").json() == {"status": "ready"}


@pytest.mark.parametrize("path", ["/health", "/livez", "/readyz", "/", "/generate"])
def test_every_response_has_a_request_id(stack: Stack, path: str) -> None:
    response = stack.client.get(path, headers={"X-Request-ID": "abc.DEF-1_2"})
    assert response.headers["X-Request-ID"] == "abc.DEF-1_2"


@pytest.mark.parametrize("path", ["/", "/health", "/livez", "/readyz", "/metrics", "/docs", "/openapi.json"])
def test_head_is_get_without_a_body(stack: Stack, path: str) -> None:
    response = stack.client.head(path)
    assert (response.status_code, response.content) == (200, b"")
    assert response.headers["Content-Type"] == stack.client.get(path).headers["Content-Type"]
