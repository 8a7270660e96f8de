"""`/v1/jobs`: work that is accepted now and handed out later, from the outside."""

from __future__ import annotations

import base64
import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from atelier_runtime.errors import DeadlineExceeded, InvalidRequest, OutOfMemory, QueueFull
from tests.contract.job_client import (
    PROMPT,
    done,
    finished,
    output_names,
    output_of,
    submit,
)
from tests.contract.script import file_of, gradient, opened
from tests.contract.scripted_generator import STEPS
from tests.contract.services import eventually
from tests.contract.stack import Stack

PHOTO = file_of(gradient(64, 48))


def as_data(file: bytes) -> str:
    return base64.b64encode(file).decode()


def test_a_job_is_accepted_carried_out_and_handed_out(stack: Stack) -> None:
    response = stack.client.post("/v1/jobs", json={"type": "generate", "input": PROMPT})
    assert response.status_code == 202 and response.headers["retry-after"] == "1"
    job = response.json()
    assert job["object"] == "job" and job["status"] == "queued" and job["attempts"] == 0
    assert response.headers["location"] == job["urls"]["self"] == f"/v1/jobs/{job['id']}"
    assert job["id"].startswith("job_") and len(job["id"]) == 4 + 12 + 32
    job = finished(stack, job)
    assert job["status"] == "completed" and job["error"] is None and job["attempts"] == 1
    assert job["progress"] == 1 and job["queue_position"] is None and job["estimated_seconds"] is None
    times = [datetime.fromisoformat(job[f"{name}_at"]) for name in ("created", "started", "completed")]
    assert times == sorted(times)
    kept = datetime.fromisoformat(job["expires_at"]) - times[2]
    assert kept.total_seconds() == pytest.approx(3600)
    assert output_names(job) == ["drawn", "image"]
    for output in job["outputs"]:
        file = output_of(stack, job, output["name"])
        image = opened(file)
        assert (output["size_bytes"], output["width"], output["height"]) == (len(file), *image.size)
        assert output["content_type"] == "image/png"


def test_the_result_is_the_synchronous_response_without_images(stack: Stack) -> None:
    job = done(stack, input={**PROMPT, "seed": 7})
    direct = stack.generate(seed=7).json()
    assert job["result"].pop("prompt_tokens") == 0  # what OpenAI's interface counts
    assert set(job["result"]) == set(direct) - {"image"}
    timed = ("request_id", "total_time_seconds", "generation_time_seconds", "stages")
    for name in set(job["result"]) - set(timed):
        assert job["result"][name] == direct[name], name
    assert output_of(stack, job, "image") == base64.b64decode(direct["image"].partition(",")[2])


@pytest.mark.parametrize("kind", ["restore", "detect", "compare"])
def test_photos(stack: Stack, kind: str) -> None:
    fields: dict[str, Any] = {"fidelities": [0.2, 0.8]} if kind == "compare" else {}
    if kind != "detect":
        fields |= {"return_mask": True, "return_crops": True}
    job = done(stack, type=kind, input={"image": as_data(PHOTO), **fields})
    assert job["status"] == "completed", job["error"]
    direct = stack.client.post(f"/{kind}", json={"image": as_data(PHOTO), **fields}).json()
    assert job["result"]["success"] is True
    faces = job["result"]["results"][1]["faces"] if kind == "compare" else job["result"]["faces"]
    direct_faces = direct["results"][1]["faces"] if kind == "compare" else direct["faces"]
    assert [face["box"] for face in faces] == [face["box"] for face in direct_faces] != []
    expected = {
        "restore": ["image", "mask", "face_0_before", "face_0_after"],
        "detect": [],
        "compare": [
            *("image_1", "mask_1", "face_0_before_1", "face_0_after_1"),
            *("image_2", "mask_2", "face_0_before_2", "face_0_after_2"),
        ],
    }
    assert output_names(job) == expected[kind]


def test_a_form_with_a_file(stack: Stack) -> None:
    response = stack.client.post(
        "/v1/jobs",
        data={"type": "restore", "input": '{"fidelity": 0.4}', "ttl_seconds": "120"},
        files={"image": ("photo.png", PHOTO)},
        headers={"Prefer": "wait=20"},
    )
    assert response.status_code == 200, response.text
    job = response.json()
    assert job["status"] == "completed" and job["result"]["faces"][0]["fidelity"] == pytest.approx(0.4)
    assert stack.restorer.requests[-1].image.data == PHOTO
    twice = stack.client.post(
        "/v1/jobs",
        data={"type": "restore", "input": '{"image": "aGk="}'},
        files={"image": ("photo.png", PHOTO)},
    )
    assert twice.status_code == 422 and "is given twice" in twice.json()["error"]["message"]


def test_prefer_wait(stack: Stack) -> None:
    body = {"type": "generate", "input": PROMPT}
    response = stack.client.post("/v1/jobs", json=body, headers={"Prefer": "wait=30"})
    assert response.status_code == 200 and response.json()["status"] == "completed"
    assert response.headers["preference-applied"] == "wait=30" and "retry-after" not in response.headers
    stack.generator.hold = True
    response = stack.client.post("/v1/jobs", json=body, headers={"Prefer": "wait=1"})
    assert response.status_code == 202 and response.json()["status"] == "in_progress"
    stack.generator.hold = False
    finished(stack, response.json())


@pytest.mark.parametrize("path", ["/generate", "/restore", "/detect", "/compare"])
def test_prefer_respond_async_makes_a_job_of_a_synchronous_request(stack: Stack, path: str) -> None:
    body: dict[str, Any] = PROMPT if path == "/generate" else {"image": as_data(PHOTO)}
    if path == "/compare":
        body = {**body, "fidelities": [0.5]}
    response = stack.client.post(path, json=body, headers={"Prefer": "respond-async"})
    assert response.status_code == 202 and response.headers["preference-applied"] == "respond-async"
    job = response.json()
    assert job["type"] == path[1:] and response.headers["location"] == job["urls"]["self"]
    assert finished(stack, job)["status"] == "completed"
    bad = stack.client.post(path, json={**body, "nonsense": 1}, headers={"Prefer": "respond-async"})
    assert bad.status_code == 422 and bad.json()["error"]["fields"][0]["field"] == "nonsense"


def test_a_drawing_is_restored_again_without_drawing(stack: Stack) -> None:
    first = done(stack, input={**PROMPT, "seed": 3})
    steps = stack.generator.steps
    image = {"job": first["id"], "output": "drawn"}
    second = done(stack, type="restore", input={"image": image, "fidelity": 0.3})
    assert second["status"] == "completed" and stack.generator.steps == steps
    assert second["result"]["faces"][0]["fidelity"] == pytest.approx(0.3)
    sent = stack.restorer.requests[-1].image.data
    assert sent == output_of(stack, first, "drawn")
    for image, field in (
        ({"job": "job_unknown", "output": "drawn"}, "input.image.job"),
        ({"job": first["id"], "output": "mask"}, "input.image.output"),
        ({"job": 3, "output": []}, "input.image.job"),
    ):
        bad = stack.client.post("/v1/jobs", json={"type": "restore", "input": {"image": image}})
        assert bad.status_code == 422 and bad.json()["error"]["fields"][0]["field"] == field


def test_outputs_are_served_in_parts_and_once(stack: Stack) -> None:
    job = done(stack)
    url = job["outputs"][1]["url"]
    whole = stack.client.get(url)
    assert whole.headers["content-type"] == "image/png" and whole.headers["accept-ranges"] == "bytes"
    assert f'filename="{job["id"]}-image.png"' in whole.headers["content-disposition"]
    etag = whole.headers["etag"]
    assert stack.client.get(url, headers={"If-None-Match": etag}).status_code == 304
    for header, expected in (
        ("bytes=0-9", whole.content[:10]),
        ("bytes=10-", whole.content[10:]),
        ("bytes=-7", whole.content[-7:]),
    ):
        part = stack.client.get(url, headers={"Range": header, "If-Range": etag})
        assert part.status_code == 206 and part.content == expected
        assert part.headers["content-range"].endswith(f"/{len(whole.content)}")
    assert stack.client.get(url, headers={"Range": "bytes=0-9", "If-Range": '"x"'}).status_code == 200
    missing = stack.client.get(url, headers={"Range": "bytes=99999999-"})
    assert missing.status_code == 416 and missing.headers["content-range"] == f"bytes */{len(whole.content)}"
    assert stack.client.get(f"{url}x").status_code == 404


def test_what_a_job_came_with_is_deleted_when_it_has_ended() -> None:
    with Stack(jobs_at_once=1) as stack:
        stack.restorer.hold = True
        body = {"image": as_data(PHOTO)}
        running, waiting = (
            submit(stack, type="restore", input=body),
            submit(stack, type="restore", input=body),
        )
        eventually(lambda: stack.restorer.running == 1)
        files = Path(stack.folder, "files")
        assert len(list(files.glob("*/input_image"))) == 2
        stack.client.post(waiting["urls"]["cancel"])
        assert [path.parent.name for path in files.glob("*/input_image")] == [running["id"]]
        stack.restorer.hold = False
        job = finished(stack, running)
        eventually(lambda: list(files.glob("*/input_image")) == [])
        assert output_of(stack, job, "image")


def test_lists_go_on_by_cursor(stack: Stack) -> None:
    jobs = [done(stack)["id"] for _ in range(3)]
    first = stack.client.get("/v1/jobs", params={"limit": 2}).json()
    assert [job["id"] for job in first["data"]] == [jobs[2], jobs[1]] and first["has_more"] is True
    rest = stack.client.get("/v1/jobs", params={"limit": 2, "before": first["next"]}).json()
    assert rest["data"][0]["id"] == jobs[0]
    for query in (
        *({"limit": "0"}, {"limit": "101"}, {"limit": "two"}, {"page": "2"}, {"before": "x\0"}),
        *({"limit": "0000000011000"}, {"limit": "1" + 30 * "9"}, {"limit": 5000 * "9"}),
    ):
        assert stack.client.get("/v1/jobs", params=query).status_code == 422


def test_the_same_key_gives_the_same_job(stack: Stack) -> None:
    headers = {"Idempotency-Key": f"key-{time.time_ns()}"}
    first = submit(stack, headers)
    assert submit(stack, headers)["id"] == first["id"]
    finished(stack, first)
    assert submit(stack, headers)["id"] == first["id"]
    other = {"type": "generate", "input": {**PROMPT, "prompt": "a green apple"}}
    conflict = stack.client.post("/v1/jobs", json=other, headers=headers)
    assert conflict.status_code == 422 and "Idempotency-Key" in conflict.json()["error"]["message"]
    for key in ("", '""', "x" * 256):
        bad = stack.client.post("/v1/jobs", json=other, headers={"Idempotency-Key": key})
        assert bad.status_code == 422, key


def test_the_same_key_at_the_same_moment_gives_one_job(stack: Stack) -> None:
    headers = {"Idempotency-Key": f"key-{time.time_ns()}"}
    barrier = threading.Barrier(8)

    def send(_: int) -> str:
        with httpx.Client(base_url=stack.url, trust_env=False, timeout=30) as client:
            barrier.wait()
            body = {"type": "restore", "input": {"image": as_data(PHOTO)}}
            response = client.post("/v1/jobs", json=body, headers=headers)
            assert response.status_code in (200, 202), response.text
            return str(response.json()["id"])

    with ThreadPoolExecutor(8) as pool:
        assert len(set(pool.map(send, range(8)))) == 1


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"type": "draw", "input": PROMPT}, "type"),
        ({"type": "generate"}, "input"),
        ({"type": "generate", "input": []}, "input"),
        ({"type": "generate", "input": {}}, "input.prompt"),
        ({"type": "generate", "input": {**PROMPT, "steps": 0}}, "input.steps"),
        ({"type": "generate", "input": {**PROMPT, "dry_run": True}}, "input.dry_run"),
        ({"type": "restore", "input": {"image": "no base64"}}, "input.image"),
        ({"type": "generate", "input": PROMPT, "priority": 101}, "priority"),
        ({"type": "generate", "input": PROMPT, "ttl_seconds": 5}, "ttl_seconds"),
        ({"type": "generate", "input": PROMPT, "preview_interval_steps": -1}, "preview_interval_steps"),
        ({"type": "generate", "input": PROMPT, "webhook": {"url": "https://example.com"}}, "webhook"),
        ({"type": "generate", "input": PROMPT, "webhook": {"url": "ftp://example.com"}}, "webhook.url"),
        ({"type": "generate", "input": PROMPT, "webhook": {"url": "http://u:p@example.com"}}, "webhook.url"),
        ({"type": "generate", "input": PROMPT, "queue": 1}, "queue"),
    ],
)
def test_what_is_wrong_is_named(stack: Stack, body: dict[str, Any], field: str) -> None:
    response = stack.client.post("/v1/jobs", json=body)
    assert response.status_code == 422, response.text
    assert field in [each["field"] for each in response.json()["error"]["fields"]]


def test_what_is_no_id_is_no_job(stack: Stack) -> None:
    for job_id in ("%00", "x" * 300, "job_" + "g" * 44, "..%2f..%2fetc"):
        assert stack.client.get(f"/v1/jobs/{job_id}").status_code == 404, job_id
    for given in ("\0", "\ud800", 3, None, "job_" + "0" * 44):
        image = {"job": given, "output": "drawn"}
        body = json.dumps({"type": "restore", "input": {"image": image}})
        response = stack.client.post("/v1/jobs", content=body, headers={"Content-Type": "application/json"})
        assert response.status_code == 422, given


def test_only_the_head_is_sent_to_who_asks_for_it(stack: Stack) -> None:
    job = done(stack)
    output = job["outputs"][0]
    head = stack.client.head(output["url"])
    assert head.status_code == 200 and head.content == b"" and head.headers["etag"]
    assert int(head.headers["content-length"]) == output["size_bytes"]
    assert stack.client.head(job["urls"]["self"]).status_code == 200


def test_preferences_in_several_headers(stack: Stack) -> None:
    headers = [("Prefer", "respond-async"), ("Prefer", "wait=30")]
    response = stack.client.post("/generate", json=PROMPT, headers=headers)
    assert response.status_code == 200 and response.json()["status"] == "completed"
    assert response.headers["preference-applied"] == "wait=30, respond-async"


def test_a_finished_job_is_at_no_stage(stack: Stack) -> None:
    job = done(stack)
    assert job["stage"] is job["step"] is job["steps"] is None and job["progress"] == 1


def test_unknown_jobs(stack: Stack) -> None:
    for method, path in (("GET", ""), ("GET", "/events"), ("GET", "/outputs/image"), ("POST", "/cancel")):
        assert stack.client.request(method, f"/v1/jobs/job_unknown{path}").status_code == 404
    assert stack.client.delete("/v1/jobs/job_unknown").status_code == 404


def test_a_full_service_is_waited_for_and_costs_no_attempt(stack: Stack) -> None:
    stack.restorer.error = QueueFull("full", retry_after_s=0.1)
    job = submit(stack)
    eventually(lambda: len(stack.restorer.requests) >= 2)
    waiting = stack.client.get(job["urls"]["self"]).json()
    assert waiting["status"] in ("queued", "in_progress") and output_names(waiting) == ["drawn"]
    assert stack.generator.steps == STEPS, "drawn once"
    stack.restorer.error = None
    job = finished(stack, job)
    assert job["status"] == "completed" and job["attempts"] == 1
    assert job["result"]["face_restoration_applied"] is True and stack.generator.steps == STEPS


def test_an_error_of_the_request_fails_at_once_and_one_of_the_service_is_tried_again(stack: Stack) -> None:
    stack.generator.error = InvalidRequest.of("width", "is not to the generator's liking")
    job = done(stack)
    assert job["status"] == "failed" and job["attempts"] == 1
    assert job["error"]["code"] == "invalid_request" and job["error"]["fields"][0]["field"] == "width"
    stack.generator.error = OutOfMemory()
    job = done(stack)
    assert job["status"] == "failed" and job["attempts"] == 3 and job["error"]["code"] == "out_of_memory"
    stack.generator.error = DeadlineExceeded()
    job = done(stack)
    assert job["status"] == "failed" and job["attempts"] == 1


def test_the_seed_is_chosen_once(stack: Stack) -> None:
    stack.restorer.error = QueueFull("full", retry_after_s=0.1)
    job = submit(stack)
    eventually(lambda: len(stack.restorer.requests) >= 2)
    stack.restorer.error = None
    sent = {request.seed for request in stack.generator.requests if hasattr(request, "seed")}
    assert len(sent) == 1 and finished(stack, job)["result"]["seed"] == sent.pop()


def test_patience_ends() -> None:
    with Stack(jobs_patience_seconds=0, deadline_seconds=3) as stack:
        stack.restorer.error = QueueFull("full", retry_after_s=0.1)
        job = done(stack)
        assert job["status"] == "completed" and job["result"]["face_restoration_applied"] is False
        job = done(stack, input={**PROMPT, "on_restore_failure": "fail"})
        assert job["status"] == "failed" and job["error"]["code"] in ("queue_full", "deadline_exceeded")


def test_limits() -> None:
    with Stack(jobs_at_once=1, jobs_waiting=2, jobs_max_result_bytes=2**20) as stack:
        stack.generator.hold = True
        first = submit(stack)
        eventually(lambda: stack.generator.running == 1)
        waiting = [submit(stack) for _ in range(2)]
        full = stack.client.post("/v1/jobs", json={"type": "generate", "input": PROMPT})
        assert full.status_code == 429 and int(full.headers["retry-after"]) >= 1
        stack.generator.hold = False
        assert all(finished(stack, job)["status"] == "completed" for job in (first, *waiting))
        photo = file_of(np.random.default_rng(0).integers(0, 256, (700, 700, 3), np.uint8))  # 1.5 MB
        large = done(stack, type="restore", input={"image": as_data(photo)})
        assert large["status"] == "failed" and "the limit is 1048576" in large["error"]["message"]


def test_without_jobs() -> None:
    with Stack(jobs_database="none") as stack:
        response = stack.client.post("/v1/jobs", json={"type": "generate", "input": PROMPT})
        assert response.status_code == 501 and response.json()["error"]["code"] == "not_served"
        assert stack.client.get("/v1/jobs").status_code == 501
        health = stack.client.get("/health").json()
        assert (health["status"], health["jobs_available"]) == ("healthy", None)
        assert stack.generate(headers={"Prefer": "respond-async"}).status_code == 200, "a preference"
