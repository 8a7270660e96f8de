"""`POST /v1/jobs/{id}/expire`: what a job has made is deleted now, as if its time had ended."""

from __future__ import annotations

import base64
import time
from pathlib import Path
from typing import Any

import pytest

from atelier_gateway.jobs import service
from atelier_gateway.jobs.blobs import BlobStore
from atelier_runtime.errors import ServiceUnavailable
from tests.contract.job_client import done, events_in, output_of, submit
from tests.contract.problem_body import problem
from tests.contract.script import file_of, gradient
from tests.contract.services import eventually
from tests.contract.stack import Stack

PHOTO = base64.b64encode(file_of(gradient(64, 48))).decode()


def expire(stack: Stack, job: Any) -> None:
    response = stack.client.post(f"/v1/jobs/{job['id']}/expire")
    assert (response.status_code, response.content) == (204, b"")


def blobs(stack: Stack, job: Any) -> list[Path]:
    return list(Path(stack.folder, "files", job["id"]).glob("*"))


def listed(stack: Stack) -> list[str]:
    return [job["id"] for job in stack.client.get("/v1/jobs", params={"limit": 100}).json()["data"]]


def assert_gone(stack: Stack, job: Any) -> None:
    for path in ("", "/outputs/image", "/events"):
        problem(stack.client.get(f"/v1/jobs/{job['id']}{path}"), 410, "gone")
    assert job["id"] not in listed(stack)


def test_a_job_that_has_ended_is_gone_at_once(stack: Stack) -> None:
    job, other = done(stack), done(stack)
    assert blobs(stack, job)
    expire(stack, job)
    assert_gone(stack, job)
    assert blobs(stack, job) == []
    for _ in range(2):
        expire(stack, job)
    assert other["id"] in listed(stack) and output_of(stack, other, "image")
    for method, path in (("DELETE", ""), ("POST", "/cancel")):
        assert stack.client.request(method, f"/v1/jobs/{job['id']}{path}").status_code == 410


def test_a_file_that_was_kept_is_deleted_and_no_other_job_may_use_it(stack: Stack) -> None:
    job = done(stack, type="detect", input={"image": PHOTO}, keep_files=True)
    image = {"job": job["id"], "output": "input_image"}
    using = done(stack, type="restore", input={"image": image}, keep_files=True)
    expire(stack, job)
    assert blobs(stack, job) == []
    response = stack.client.post("/v1/jobs", json={"type": "restore", "input": {"image": image}})
    [field] = problem(response, 422, "invalid_request")["fields"]
    assert field == {"field": "input.image.job", "message": "its outputs have expired"}
    assert output_of(stack, using, "input_image") == base64.b64decode(PHOTO), "it has a copy of its own"


def test_a_job_that_runs_is_stopped(stack: Stack) -> None:
    stack.generator.hold = True
    job = submit(stack)
    eventually(lambda: stack.generator.running == 1)
    with stack.client.stream("GET", job["urls"]["events"]) as response:
        events = events_in(response)
        next(events)
        expire(stack, job)
        assert [data["status"] for name, _, data in events if name == "status"][-1] == "cancelled"
    assert_gone(stack, job)
    eventually(lambda: stack.generator.running == 0 and stack.generator.cancelled == 1)
    assert blobs(stack, job) == []
    expire(stack, job)


def test_a_job_that_waits_is_never_begun() -> None:
    with Stack(jobs_at_once=0) as stack:
        job = submit(stack, type="restore", input={"image": PHOTO})
        assert [path.name for path in blobs(stack, job)] == ["input_image"]
        expire(stack, job)
        assert_gone(stack, job)
        assert blobs(stack, job) == []


def test_a_key_of_a_job_that_is_gone_gives_no_other_job(stack: Stack) -> None:
    headers = {"Idempotency-Key": f"key-{time.time_ns()}"}
    body = {"type": "detect", "input": {"image": PHOTO}}
    job = submit(stack, headers, **body)
    expire(stack, job)
    problem(stack.client.post("/v1/jobs", json=body, headers=headers), 410, "gone")


def test_there_must_be_such_a_job(stack: Stack) -> None:
    for job_id in ("job_unknown", "job_" + "0" * 44, "%00"):
        problem(stack.client.post(f"/v1/jobs/{job_id}/expire"), 404, "not_found")


def test_files_that_cannot_be_reached_are_deleted_later(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "_TIDY_S", 0.05)
    delete = BlobStore.delete_of
    away = True

    async def may_fail(self: BlobStore, job_id: str) -> None:
        if away:
            raise ServiceUnavailable("The files of jobs cannot be reached.")
        await delete(self, job_id)

    monkeypatch.setattr(BlobStore, "delete_of", may_fail)
    with Stack() as stack:
        job = done(stack)
        expire(stack, job)
        assert_gone(stack, job)
        assert blobs(stack, job)
        away = False
        eventually(lambda: blobs(stack, job) == [])
        assert_gone(stack, job)
