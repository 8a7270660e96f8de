"""The whole chain through three real processes: an existing client's JSON in, an image with faces out."""

from __future__ import annotations

import base64
import io
import json
import re
import signal
import socket
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from tests.processes import Atelier, content, free_port, process, program, ready, wait_for

PORTRAIT = "portrait of a smiling woman with long brown hair, blue background"


def image_of(response: Any) -> Image.Image:
    head, _, data = response["image"].partition(",")
    assert head == "data:image/png;base64"
    return Image.open(io.BytesIO(base64.b64decode(data)))


@pytest.fixture(scope="module")
def portrait(atelier: Atelier) -> Any:
    """The response to an older client's request whose image shows a restored face."""
    for seed in range(1, 25):
        response = atelier.post(prompt=PORTRAIT, width=512, height=512, steps=20, cfg_scale=5, seed=seed)
        assert response.status_code == 200, response.text
        if response.json()["face_restoration_applied"]:
            return response.json()
    pytest.fail("no face was found in 24 portraits")


def test_an_existing_client_gets_a_portrait_with_a_restored_face(portrait: Any) -> None:
    image = image_of(portrait)
    assert image.size == (512, 512)
    assert portrait["final_resolution"] == "512x512"
    assert portrait["image_base64"] == portrait["image"].partition(",")[2]
    assert portrait["success"] is True and portrait["model"] == "demo"
    restored = [face for face in portrait["faces"] if face["restored"]]
    assert restored and all(face["reason"] is None for face in restored)
    x1, y1, x2, y2 = restored[0]["box"]
    assert 0 < x2 - x1 <= 512 and 0 < y2 - y1 <= 512
    stages = {"base", "refiner", "detect", "restore", "paste", "encode"}
    assert stages <= {stage["stage"] for stage in portrait["stages"]} and portrait["refiner_applied"] is True
    assert "size_limited" in portrait["warning_codes"], "by the model set's max_side"


def test_the_same_seed_gives_the_same_image_and_restoration_changes_only_faces(
    atelier: Atelier, portrait: Any
) -> None:
    body = {
        "prompt": PORTRAIT,
        "width": 512,
        "height": 512,
        "steps": 20,
        "cfg_scale": 5,
        "seed": portrait["seed"],
    }
    second = atelier.post(**body).json()
    assert second["image"] == portrait["image"]
    plain = atelier.post(**body, use_face_restoration=False).json()
    assert plain["face_restoration_applied"] is False and plain["face_restoration_reason"] is None
    with_faces, without = np.asarray(image_of(portrait)).astype(int), np.asarray(image_of(plain)).astype(int)
    x1, y1, x2, y2 = portrait["faces"][0]["box"]
    margin = max(x2 - x1, y2 - y1)  # the aligned square is larger than the box
    outside = np.ones((512, 512), bool)
    outside[
        max(0, int(y1 - margin)) : int(y2 + margin) + 1, max(0, int(x1 - margin)) : int(x2 + margin) + 1
    ] = False
    for face in portrait["faces"][1:]:
        a, b, c, d = (int(v) for v in face["box"])
        outside[max(0, b - (d - b)) : d + (d - b), max(0, a - (c - a)) : c + (c - a)] = False
    assert np.array_equal(with_faces[outside], without[outside])
    assert np.abs(with_faces - without).max() > 0


def test_hires_returns_one_and_a_half_times_the_requested_size(atelier: Atelier) -> None:
    response = atelier.post(
        prompt=PORTRAIT, width=512, height=512, num_inference_steps=6, seed=1, hires_fix=True
    ).json()
    assert response["hires_fix_applied"] is True
    assert image_of(response).size == (768, 768) and response["final_resolution"] == "768x768"


def test_a_landscape_has_no_face_and_is_a_success(atelier: Atelier) -> None:
    for seed in range(1, 6):
        response = atelier.post(
            prompt="sunset over mountains", width=512, height=256, num_inference_steps=20, seed=seed
        ).json()
        assert response["success"] is True
        if not response["faces"]:
            break
    assert response["face_restoration_applied"] is False
    assert response["face_restoration_reason"] == "no_face"


def test_several_images_are_those_of_their_seeds(atelier: Atelier) -> None:
    body: dict[str, Any] = {"prompt": PORTRAIT, "width": 256, "height": 256, "num_inference_steps": 4}
    several = atelier.post(**body, seed=1, num_images=3).json()
    assert [image["seed"] for image in several["images"]] == [1, 2, 3]
    assert several["image"] == several["images"][0]["image"]
    for image in several["images"]:
        assert {"text", "base", "refiner", "detect", "encode"} <= {
            stage["stage"] for stage in image["stages"]
        }
    last = several["images"][2]
    alone = atelier.post(**body, seed=3, use_face_restoration=False).json()
    together = atelier.post(**body, seed=2, num_images=2, use_face_restoration=False).json()["images"][1]
    pixels = [np.asarray(image_of(image)).astype(int) for image in (last, alone, together)]
    assert pixels[0].shape == (256, 256, 3)
    # bfloat16 may round differently in a batch: far less than another seed differs
    assert np.abs(pixels[1] - pixels[2]).mean() < 0.5


def test_the_image_can_be_requested_as_a_file(atelier: Atelier) -> None:
    response = httpx.post(
        f"{atelier.url}/generate",
        json={"prompt": "red apple", "width": 256, "height": 256, "num_inference_steps": 2, "seed": 3},
        headers={"Accept": "image/webp"},
        timeout=300,
    )
    assert response.headers["content-type"] == "image/webp"
    assert Image.open(io.BytesIO(response.content)).format == "WEBP"
    assert json.loads(response.headers["x-atelier-report"])["seed"] == 3


def test_a_client_that_disconnects_stops_the_work_and_the_next_is_unharmed(atelier: Atelier) -> None:
    request = {"prompt": PORTRAIT, "num_inference_steps": 150, "seed": 1, "use_refiner": False}
    body = json.dumps(request).encode()
    before = atelier.metric("atelier_cancelled_steps_total", atelier.generator_metrics)
    host, _, port = atelier.url.removeprefix("http://").partition(":")
    with socket.create_connection((host, int(port))) as client:
        client.sendall(
            b"POST /generate HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            + f"Content-Length: {len(body)}\r\n\r\n".encode()
            + body
        )
        wait_for(
            lambda: atelier.metric("atelier_backend_pending", atelier.url.removeprefix("http://")) >= 1, 30
        )
        time.sleep(0.5)  # a few steps of the 150
    wait_for(lambda: atelier.metric("atelier_cancelled_steps_total", atelier.generator_metrics) > before, 30)
    cancelled = atelier.metric("atelier_cancelled_steps_total", atelier.generator_metrics) - before
    assert 100 <= cancelled <= 150
    wait_for(lambda: atelier.metric("atelier_requests_in_progress", atelier.generator_metrics) == 0, 30)
    response = atelier.post(prompt="red apple", width=256, height=256, num_inference_steps=2, seed=3)
    assert response.status_code == 200


def test_health_responds_while_an_image_is_generated(atelier: Atelier) -> None:
    with ThreadPoolExecutor() as pool:
        generation = pool.submit(atelier.post, prompt=PORTRAIT, width=256, height=256, num_inference_steps=15)
        responses = 0
        while not generation.done():
            health = httpx.get(f"{atelier.url}/health", timeout=10)
            assert health.status_code == 200
            responses += 1
        assert generation.result().status_code == 200
    assert responses > 3
    report = health.json()
    assert report["cuda_available"] is False and report["vram_available"] is None
    assert report["codeformer_available"] is True and report["model_loaded"] is True


def test_an_unavailable_restorer_is_reported_or_fails_the_request_as_the_client_chose(
    atelier: Atelier, tmp_path: Path
) -> None:
    gateway = free_port()
    with process(
        "gateway",
        tmp_path / "gateway.log",
        PORT=gateway,
        GENERATOR=atelier.generator,
        RESTORER=f"127.0.0.1:{free_port()}",
    ):
        url = f"http://127.0.0.1:{gateway}"
        wait_for(lambda: b"version" in content(f"{url}/"), 60)
        body = {"prompt": "red apple", "width": 256, "height": 256, "num_inference_steps": 2, "seed": 3}
        response = httpx.post(f"{url}/generate", json=body, timeout=120)
        assert response.status_code == 200
        assert response.json()["face_restoration_applied"] is False
        assert response.json()["face_restoration_reason"] == "restorer_unavailable"
        assert image_of(response.json()).size == (256, 256)
        refused = httpx.post(f"{url}/generate", json=body | {"on_restore_failure": "fail"}, timeout=120)
        assert refused.status_code == 503 and "retry-after" in refused.headers
        assert refused.json()["success"] is False
        health = httpx.get(f"{url}/health", timeout=10)
        assert health.status_code == 200 and health.json()["status"] == "degraded"


def test_one_request_id_runs_through_all_three_logs(atelier: Atelier) -> None:
    response = httpx.post(
        f"{atelier.url}/generate",
        json={"prompt": "red apple", "width": 256, "height": 256, "num_inference_steps": 1},
        headers={"X-Request-ID": "client-4711"},
        timeout=120,
    )
    assert response.json()["request_id"] == "client-4711" == response.headers["x-request-id"]
    for name in ("gateway", "generator", "restorer"):
        wait_for(partial(_logged, atelier, name, '"request_id": "client-4711"'), 10)
        for line in atelier.log(name).splitlines():
            json.loads(line)
        assert "red apple" not in atelier.log(name), "prompts do not belong in logs"


def _logged(atelier: Atelier, name: str, text: str) -> bool:
    return text in atelier.log(name)


def test_sigterm_finishes_what_was_accepted_and_exits_with_zero(tmp_path: Path) -> None:
    gateway, generator, restorer, metrics = (free_port() for _ in range(4))
    with (
        process("generator", tmp_path / "g.log", PORT=generator, METRICS_PORT=metrics) as g,
        process("restorer", tmp_path / "r.log", PORT=restorer, METRICS_PORT=0) as r,
        process(
            "gateway",
            tmp_path / "w.log",
            PORT=gateway,
            GENERATOR=f"127.0.0.1:{generator}",
            RESTORER=f"127.0.0.1:{restorer}",
        ) as w,
        ThreadPoolExecutor() as pool,
    ):
        url = f"http://127.0.0.1:{gateway}"
        wait_for(lambda: ready(url))
        body = {"prompt": "red apple", "width": 256, "height": 256, "num_inference_steps": 15, "seed": 1}
        body["use_face_restoration"] = False
        begun = _begun(metrics)
        accepted = pool.submit(httpx.post, f"{url}/generate", json=body, timeout=120)
        # What the gateway has sent may still be in transit: only what the generator has begun is accepted.
        wait_for(lambda: _begun(metrics) > begun, 30)
        for child in (w, g, r):
            child.send_signal(signal.SIGTERM)
        assert accepted.result().status_code == 200
        assert [child.wait(60) for child in (w, g, r)] == [0, 0, 0]


def _begun(metrics_port: int) -> float:
    """Jobs that a service's device has begun."""
    text = content(f"http://127.0.0.1:{metrics_port}/metrics")
    found = re.search(rb"atelier_queue_wait_seconds_count (\S+)", text)
    assert found
    return float(found.group(1))


def test_prometheus_sees_the_portrait_in_every_process(
    atelier: Atelier, portrait: Any, tmp_path: Path
) -> None:
    prometheus, promtool = program("prometheus"), program("promtool")
    targets = {
        "gateway": atelier.url.removeprefix("http://"),
        "generator": atelier.generator_metrics,
        "restorer": atelier.restorer_metrics,
    }
    for address in targets.values():
        text = httpx.get(f"http://{address}/metrics").content
        check = subprocess.run([promtool, "check", "metrics"], input=text, capture_output=True, timeout=30)
        assert check.returncode == 0, check.stdout + check.stderr
    jobs = "".join(
        f"  - job_name: {name}\n    static_configs: [{{targets: ['{address}']}}]\n"
        for name, address in targets.items()
    )
    config = tmp_path / "prometheus.yml"
    config.write_text(f"global: {{scrape_interval: 1s, scrape_timeout: 1s}}\nscrape_configs:\n{jobs}")
    port = free_port()
    server = subprocess.Popen(
        [
            prometheus,
            f"--config.file={config}",
            f"--storage.tsdb.path={tmp_path / 'data'}",
            f"--web.listen-address=127.0.0.1:{port}",
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )

    def value(query: str) -> float:
        response = httpx.get(f"http://127.0.0.1:{port}/api/v1/query", params={"query": query}, timeout=5)
        result = response.json()["data"]["result"]
        return float(result[0]["value"][1]) if result else 0.0

    def exceeds(query: str, least: float) -> bool:
        return value(query) > least

    try:
        wait_for(lambda: b"Ready" in content(f"http://127.0.0.1:{port}/-/ready"), 60)
        wait_for(lambda: value("sum(up)") == 3, 60)
        for query, at_start in {  # the warm-up image has a base pass; loading and warm-up are queued
            'sum(atelier_request_duration_seconds_count{job="gateway",method="POST /generate"})': 0,
            'sum(atelier_stage_duration_seconds_count{job="generator",stage="base"})': 1,
            'sum(atelier_stage_duration_seconds_count{job="restorer",stage="restore"})': 0,
            'sum(atelier_queue_wait_seconds_count{job="generator"})': 2,
            'sum(atelier_queue_wait_seconds_count{job="restorer"})': 2,
            'sum(atelier_batch_size_count{job="restorer"})': 0,
            'sum(atelier_faces_total{job="restorer",outcome="restored"})': 0,
            'sum(atelier_model_load_seconds{job="generator"})': 0,
            'sum(process_resident_memory_bytes{job="generator"})': 0,
            'sum(process_resident_memory_bytes{job="restorer"})': 0,
            'sum(atelier_build_info{job="gateway"})': 0,
        }.items():
            wait_for(partial(exceeds, query, at_start), 20)
        assert value("count(atelier_vram_bytes)") == 0  # absent on a CPU, not zero
    finally:
        server.terminate()
        server.wait(30)
