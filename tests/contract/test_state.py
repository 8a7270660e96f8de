"""/health, /livez, /readyz, /, /metrics and /docs: what the gateway says of itself and of the stages."""

from __future__ import annotations

import re
import threading
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from atelier_runtime.errors import ServiceNotReady
from tests.contract.scripted_stages import House, eventually

HEALTHY_ON_A_CPU = {
    "status": "healthy",
    "model_loaded": True,
    "models_loaded": True,
    "cuda_available": False,
    "codeformer_available": True,
    "realesrgan_available": True,
    "refiner_available": False,
    "vram_available": None,
    "device": "cpu",
    "gpu_info": None,
}


def test_health_on_a_cpu(house: House) -> None:
    response = house.client.get("/health")
    assert (response.status_code, response.json()) == (200, HEALTHY_ON_A_CPU)


def test_health_on_cuda(house: House) -> None:
    house.generator.status = {
        "device": "cuda:0",
        "device_name": "RTX 3090 Ti",
        "vram_free_bytes": int(12.5 * 2**30),
        "vram_total_bytes": 24 * 2**30,
    }
    house.generator.networks["refiner"] = "sdxl-refiner"
    assert house.client.get("/health").json() == {
        **HEALTHY_ON_A_CPU,
        "cuda_available": True,
        "refiner_available": True,
        "vram_available": "12.5GB / 24.0GB",
        "device": "cuda:0",
        "gpu_info": "RTX 3090 Ti",
    }


def test_health_follows_what_is_loaded(house: House) -> None:
    house.generator.networks = {"base": "demo-sdxl"}
    house.restorer.networks = {"detector": "retinaface_mobile0.25"}
    answer = house.client.get("/health").json()
    assert (answer["status"], answer["realesrgan_available"]) == ("degraded", False)
    assert (answer["codeformer_available"], answer["model_loaded"], answer["models_loaded"]) == (
        False,
        True,
        False,
    )


def test_health_while_the_restorer_loads(house: House) -> None:
    house.restorer.status = {"ready": False}
    response = house.client.get("/health")
    assert (response.status_code, response.json()["status"]) == (200, "degraded")
    assert response.json()["codeformer_available"] is False


def test_health_while_the_generator_loads(house: House) -> None:
    house.generator.status = {"ready": False, "model_set": "", "device": "", "device_name": ""}
    house.generator.networks = {}
    response = house.client.get("/health")
    assert (response.status_code, response.json()["status"]) == (503, "unhealthy")
    assert (response.json()["model_loaded"], response.json()["device"]) == (False, None)
    root = house.client.get("/").json()
    assert (root["model"], root["device"]) == (None, None)
    ready = house.client.get("/readyz")
    assert (ready.status_code, ready.json()["error"]["code"]) == (503, "stage_not_ready")
    assert int(ready.headers["Retry-After"]) >= 1
    assert house.client.get("/livez").status_code == 200


def test_health_while_a_picture_is_drawn(house: House) -> None:
    house.generator.hold = True
    drawing = threading.Thread(target=house.generate)
    drawing.start()
    try:
        eventually(lambda: house.generator.running == 1)
        for _ in range(20):
            assert house.client.get("/health").json() == HEALTHY_ON_A_CPU
        assert house.generator.running == 1
    finally:
        house.generator.hold = False
        drawing.join()


def test_health_when_stages_are_away_or_silent() -> None:
    house = House(status_timeout_seconds=0.3)
    try:
        house.restorer.silent = True
        assert house.client.get("/health").json()["status"] == "degraded"
        house.restorer.silent = False
        house.stop_restorer()
        assert house.client.get("/health").json()["status"] == "degraded"
        house.stop_generator()
        response = house.client.get("/health")
        assert response.status_code == 503
        assert response.json() == {
            **dict.fromkeys(HEALTHY_ON_A_CPU, False),
            "status": "unhealthy",
            "vram_available": None,
            "device": None,
            "gpu_info": None,
        }
        ready = house.client.get("/readyz")
        assert (ready.status_code, ready.json()["error"]["code"]) == (503, "stage_unavailable")
        assert house.client.get("/livez").status_code == 200
        root = house.client.get("/").json()
        assert (root["name"], root["model"], root["device"]) == ("Atelier", None, None)
    finally:
        house.close()


def test_root_and_readyz(house: House) -> None:
    root = house.client.get("/").json()
    assert root == {"name": "Atelier", "version": root["version"], "model": "demo", "device": "cpu"}
    assert re.match(r"\d+\.\d+", root["version"])
    assert house.client.get("/readyz").json() == {"status": "ready"}


def scraped(house: House) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    response = house.client.get("/metrics")
    assert response.status_code == 200 and response.headers["content-type"].startswith("text/plain")
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(response.text)
        for sample in family.samples
    }


def test_metrics_move(house: House) -> None:
    def count(metrics: dict[Any, float], name: str, **labels: str) -> float:
        return metrics.get((name, tuple(sorted(labels.items()))), 0.0)

    before = scraped(house)
    house.generate()
    house.generate(width=1)
    house.generator.error = ServiceNotReady()
    house.generate()
    house.client.get("/some/address")
    after = scraped(house)
    for code in ("200", "422", "503"):
        labels = {"method": "POST /generate", "code": code}
        name = "atelier_request_duration_seconds_count"
        assert count(after, name, **labels) == count(before, name, **labels) + 1
    for reason in ("invalid_request", "stage_not_ready"):
        for name in ("atelier_errors_total", "atelier_refusals_total"):
            assert count(after, name, reason=reason) == count(before, name, reason=reason) + 1
    assert count(after, "atelier_request_duration_seconds_count", method="GET other", code="404") > 0
    assert not any("/some/address" in str(key) for key in after), "no address of a client is a label"
    assert count(after, "process_resident_memory_bytes") > 1e6


def test_pending_calls_are_counted_for_each_stage(house: House) -> None:
    def pending(stage: str) -> float:
        return scraped(house)["atelier_backend_pending", (("stage", stage),)]

    assert (pending("generator"), pending("restorer")) == (0, 0)
    house.generator.hold = house.restorer.hold = True
    order = threading.Thread(target=house.generate)
    order.start()
    eventually(lambda: house.generator.running == 1)
    assert (pending("generator"), pending("restorer")) == (1, 0)
    house.generator.hold = False
    eventually(lambda: house.restorer.running == 1)
    assert (pending("generator"), pending("restorer")) == (0, 1)
    house.restorer.hold = False
    order.join()
    eventually(lambda: (pending("generator"), pending("restorer")) == (0, 0))


def test_the_docs_page_needs_no_network(house: House) -> None:
    page = house.client.get("/docs").text
    assert "http://" not in page and "https://" not in page
    linked = re.findall(r"""(?:src|href)="(/[^"]+)""", page)
    assert {link.rsplit(".", 1)[1] for link in linked} == {"js", "css", "png"}
    for link in linked:
        assert house.client.get(link).status_code == 200


def test_openapi_shows_ranges_defaults_and_older_names(house: House) -> None:
    document = house.client.get("/openapi.json").json()
    operation = document["paths"]["/generate"]["post"]
    body = operation["requestBody"]["content"]["application/json"]
    fields = body["schema"]["properties"]
    assert fields["width"]["default"] == 1024
    assert fields["width"]["anyOf"][0] == {
        "type": "integer",
        "minimum": 256,
        "maximum": 2048,
        "multipleOf": 8,
    }
    assert fields["steps"]["deprecated"] is True
    assert body["schema"]["required"] == ["prompt"] and body["schema"]["additionalProperties"] is False
    assert all("description" in field for field in fields.values())
    for example in body["examples"].values():
        order = {**example["value"], "width": 256, "height": 256}
        assert house.client.post("/generate", json=order).status_code == 200
    assert set(operation["responses"]) == {"200", "400", "413", "415", "422", "429", "500", "503", "504"}
    photographs = {"/restore", "/detect", "/compare"}
    assert set(document["paths"]) == {"/generate", "/health", "/livez", "/readyz", "/", *photographs}


@pytest.mark.parametrize("path", ["/restore", "/detect", "/compare"])
def test_openapi_shows_the_routes_for_photographs(house: House, path: str) -> None:
    operation = house.client.get("/openapi.json").json()["paths"][path]["post"]
    content = operation["requestBody"]["content"]
    assert set(content) == {"application/json", "multipart/form-data"}
    in_json, in_form = (content[kind]["schema"]["properties"] for kind in content)
    assert in_json["image"]["format"] == "byte" and in_form["image"]["format"] == "binary"
    for fields in (in_json, in_form):
        assert fields["min_confidence"]["default"] == 0.8
        assert all("description" in field for field in fields.values())
    for field in in_form.values():
        assert {"type": "null"} not in field.get("anyOf", ()) and field.get("default", 0) is not None
    for example in content["application/json"]["examples"].values():
        answer = house.client.post(path, json=example["value"])
        assert answer.status_code == 200, answer.text
    assert set(operation["responses"]) == {"200", "400", "413", "415", "422", "429", "500", "503", "504"}


def test_cors_is_off_unless_set(house: House) -> None:
    response = house.client.get("/livez", headers={"Origin": "http://localhost:3000"})
    assert "access-control-allow-origin" not in response.headers


def test_cors_for_the_origins_of_the_setting() -> None:
    house = House(cors_origins="http://localhost:3000, http://127.0.0.1:5173")
    try:
        ours = {"Origin": "http://localhost:3000"}
        asked = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "content-type"}
        preflight = house.client.options("/generate", headers={**ours, **asked})
        assert preflight.status_code == 200
        assert preflight.headers["access-control-allow-origin"] == "http://localhost:3000"
        assert "content-type" in preflight.headers["access-control-allow-headers"].lower()
        failed = house.client.post("/generate", json={}, headers=ours)
        assert failed.status_code == 422, "a page can read why it failed"
        assert failed.headers["access-control-allow-origin"] == "http://localhost:3000"
        assert "X-Atelier-Report" in failed.headers["access-control-expose-headers"]
        foreign = house.client.get("/livez", headers={"Origin": "http://elsewhere.example"})
        assert "access-control-allow-origin" not in foreign.headers
    finally:
        house.close()


@pytest.mark.parametrize("path", ["/health", "/livez", "/readyz", "/", "/generate"])
def test_every_answer_has_a_request_id(house: House, path: str) -> None:
    response = house.client.get(path, headers={"X-Request-ID": "abc.DEF-1_2"})
    assert response.headers["X-Request-ID"] == "abc.DEF-1_2"
