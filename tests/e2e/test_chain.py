"""The whole chain through three real processes: an existing client's JSON in, a picture with faces out."""

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
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image

from tests.e2e.conftest import Atelier, free_port, process, program, ready, wait_for

PORTRAIT = "portrait of a smiling woman with long brown hair, blue background"


def picture(answer: dict) -> Image.Image:
    head, _, data = answer["image"].partition(",")
    assert head == "data:image/png;base64"
    return Image.open(io.BytesIO(base64.b64decode(data)))


@pytest.fixture(scope="module")
def portrait(atelier: Atelier) -> dict:
    """The answer to an older client's order whose picture shows a face that was restored."""
    for seed in range(1, 25):
        answer = atelier.post(prompt=PORTRAIT, width=512, height=512, steps=20, cfg_scale=5, seed=seed)
        assert answer.status_code == 200, answer.text
        if answer.json()["face_restoration_applied"]:
            return answer.json()
    pytest.fail("no face was found in 24 portraits")


def test_an_existing_client_gets_a_portrait_with_a_restored_face(portrait: dict) -> None:
    image = picture(portrait)
    assert image.size == (512, 512)
    assert portrait["final_resolution"] == "512x512"
    assert portrait["image_base64"] == portrait["image"].partition(",")[2]
    assert portrait["success"] is True and portrait["model"] == "demo"
    restored = [face for face in portrait["faces"] if face["restored"]]
    assert restored and all(face["reason"] is None for face in restored)
    x1, y1, x2, y2 = restored[0]["box"]
    assert 0 < x2 - x1 <= 512 and 0 < y2 - y1 <= 512
    work = {"base", "refiner", "detect", "restore", "paste", "encode"}
    assert work <= {s["stage"] for s in portrait["stages"]} and portrait["refiner_applied"] is True
    assert any("longest side" in warning for warning in portrait["warnings"])  # the set's max_side, told


def test_the_same_seed_gives_the_same_picture_and_restoration_changes_only_faces(
    atelier: Atelier, portrait: dict
) -> None:
    order = {
        "prompt": PORTRAIT,
        "width": 512,
        "height": 512,
        "steps": 20,
        "cfg_scale": 5,
        "seed": portrait["seed"],
    }
    again = atelier.post(**order).json()
    assert again["image"] == portrait["image"]
    plain = atelier.post(**order, use_face_restoration=False).json()
    assert plain["face_restoration_applied"] is False and plain["face_restoration_reason"] is None
    with_faces, without = np.asarray(picture(portrait)).astype(int), np.asarray(picture(plain)).astype(int)
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


def test_hires_answers_one_and_a_half_times_the_asked_size(atelier: Atelier) -> None:
    answer = atelier.post(
        prompt=PORTRAIT, width=512, height=512, num_inference_steps=6, seed=1, hires_fix=True
    ).json()
    assert answer["hires_fix_applied"] is True
    assert picture(answer).size == (768, 768) and answer["final_resolution"] == "768x768"


def test_a_landscape_has_no_face_and_is_a_success(atelier: Atelier) -> None:
    for seed in range(1, 6):
        answer = atelier.post(
            prompt="sunset over mountains", width=512, height=256, num_inference_steps=20, seed=seed
        ).json()
        assert answer["success"] is True
        if not answer["faces"]:
            break
    assert answer["face_restoration_applied"] is False
    assert answer["face_restoration_reason"] == "no_face"


def test_a_picture_can_be_asked_for_as_a_file(atelier: Atelier) -> None:
    answer = httpx.post(
        f"{atelier.url}/generate",
        json={"prompt": "red apple", "width": 256, "height": 256, "num_inference_steps": 2, "seed": 3},
        headers={"Accept": "image/webp"},
        timeout=300,
    )
    assert answer.headers["content-type"] == "image/webp"
    assert Image.open(io.BytesIO(answer.content)).format == "WEBP"
    assert json.loads(answer.headers["x-atelier-report"])["seed"] == 3


def test_a_client_that_hangs_up_stops_the_work_and_the_next_is_unharmed(atelier: Atelier) -> None:
    order = {"prompt": PORTRAIT, "num_inference_steps": 150, "seed": 1, "use_refiner": False}
    body = json.dumps(order).encode()
    before = atelier.metric("atelier_cancelled_steps_total", atelier.generator_metrics)
    host, _, port = atelier.url.removeprefix("http://").partition(":")
    with socket.create_connection((host, int(port))) as client:
        client.sendall(
            b"POST /generate HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
            + f"Content-Length: {len(body)}\r\n\r\n".encode()
            + body
        )
        wait_for(
            lambda: atelier.metric("atelier_backend_pending", atelier.url.removeprefix("http://")) >= 1, 30
        )
        time.sleep(0.5)  # a few steps of the 150
    wait_for(lambda: atelier.metric("atelier_cancelled_steps_total", atelier.generator_metrics) > before, 30)
    not_taken = atelier.metric("atelier_cancelled_steps_total", atelier.generator_metrics) - before
    assert 100 <= not_taken <= 150
    wait_for(lambda: atelier.metric("atelier_requests_in_progress", atelier.generator_metrics) == 0, 30)
    answer = atelier.post(prompt="red apple", width=256, height=256, num_inference_steps=2, seed=3)
    assert answer.status_code == 200


def test_health_answers_while_a_picture_is_drawn(atelier: Atelier) -> None:
    with ThreadPoolExecutor() as pool:
        drawing = pool.submit(atelier.post, prompt=PORTRAIT, width=256, height=256, num_inference_steps=60)
        answers = 0
        while not drawing.done():
            health = httpx.get(f"{atelier.url}/health", timeout=10)
            assert health.status_code == 200
            answers += 1
        assert drawing.result().status_code == 200
    assert answers > 3
    told = health.json()
    assert told["cuda_available"] is False and told["vram_available"] is None
    assert told["codeformer_available"] is True and told["model_loaded"] is True


def test_a_restorer_that_is_away_is_told_or_fails_as_the_client_chose(
    atelier: Atelier, tmp_path: Path
) -> None:
    door = free_port()
    with process(
        "gateway",
        tmp_path / "gateway.log",
        PORT=door,
        GENERATOR=atelier.generator,
        RESTORER=f"127.0.0.1:{free_port()}",
    ):
        url = f"http://127.0.0.1:{door}"
        wait_for(lambda: b"version" in _get(f"{url}/"), 60)
        order = {"prompt": "red apple", "width": 256, "height": 256, "num_inference_steps": 2, "seed": 3}
        answer = httpx.post(f"{url}/generate", json=order, timeout=120)
        assert answer.status_code == 200
        assert answer.json()["face_restoration_applied"] is False
        assert answer.json()["face_restoration_reason"] == "restorer_unavailable"
        assert picture(answer.json()).size == (256, 256)
        refused = httpx.post(f"{url}/generate", json=order | {"on_restore_failure": "fail"}, timeout=120)
        assert refused.status_code == 503 and "retry-after" in refused.headers
        assert refused.json()["success"] is False
        health = httpx.get(f"{url}/health", timeout=10)
        assert health.status_code == 200 and health.json()["status"] == "degraded"


def _get(url: str) -> bytes:
    try:
        return httpx.get(url, timeout=5).content
    except httpx.HTTPError:
        return b""


def test_one_request_id_runs_through_all_three_logs(atelier: Atelier) -> None:
    answer = httpx.post(
        f"{atelier.url}/generate",
        json={"prompt": "red apple", "width": 256, "height": 256, "num_inference_steps": 1},
        headers={"X-Request-ID": "order-4711"},
        timeout=120,
    )
    assert answer.json()["request_id"] == "order-4711" == answer.headers["x-request-id"]
    for name in ("gateway", "generator", "restorer"):
        wait_for(lambda name=name: '"request_id": "order-4711"' in atelier.log(name), 10)
        for line in atelier.log(name).splitlines():
            json.loads(line)
        assert "red apple" not in atelier.log(name), "prompts do not belong in logs"


def test_sigterm_finishes_what_was_accepted_and_exits_with_zero(tmp_path: Path) -> None:
    door, generator, restorer, numbers = (free_port() for _ in range(4))
    with (
        process("generator", tmp_path / "g.log", PORT=generator, METRICS_PORT=numbers) as g,
        process("restorer", tmp_path / "r.log", PORT=restorer, METRICS_PORT=0) as r,
        process(
            "gateway",
            tmp_path / "w.log",
            PORT=door,
            GENERATOR=f"127.0.0.1:{generator}",
            RESTORER=f"127.0.0.1:{restorer}",
        ) as w,
        ThreadPoolExecutor() as pool,
    ):
        url = f"http://127.0.0.1:{door}"
        wait_for(lambda: ready(url))
        order = {"prompt": "red apple", "width": 256, "height": 256, "num_inference_steps": 30, "seed": 1}
        order["use_face_restoration"] = False
        begun = _begun(numbers)
        accepted = pool.submit(httpx.post, f"{url}/generate", json=order, timeout=120)
        # What the gateway has sent may still be on its way: only what the generator has is accepted.
        wait_for(lambda: _begun(numbers) > begun, 30)
        for child in (w, g, r):
            child.send_signal(signal.SIGTERM)
        assert accepted.result().status_code == 200
        assert [child.wait(60) for child in (w, g, r)] == [0, 0, 0]


def _begun(metrics_port: int) -> float:
    """Jobs that a stage's device has begun."""
    found = re.search(
        rb"atelier_queue_wait_seconds_count (\S+)", _get(f"http://127.0.0.1:{metrics_port}/metrics")
    )
    assert found
    return float(found.group(1))


def test_prometheus_sees_the_portrait_in_every_process(
    atelier: Atelier, portrait: dict, tmp_path: Path
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
        answer = httpx.get(f"http://127.0.0.1:{port}/api/v1/query", params={"query": query}, timeout=5)
        result = answer.json()["data"]["result"]
        return float(result[0]["value"][1]) if result else 0.0

    try:
        wait_for(lambda: b"Ready" in _get(f"http://127.0.0.1:{port}/-/ready"), 60)
        wait_for(lambda: value("sum(up)") == 3, 60)
        for query, at_start in {  # the warm-up picture has a base pass; loading and warm-up are queued
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
            wait_for(lambda query=query, at_start=at_start: value(query) > at_start, 20)
        assert value("count(atelier_vram_bytes)") == 0  # absent on a CPU, not zero
    finally:
        server.terminate()
        server.wait(30)
