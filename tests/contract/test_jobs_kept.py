"""`keep_files`: what a job came with stays among its outputs, for other jobs."""

from __future__ import annotations

import base64
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from atelier_runtime.errors import InvalidRequest
from tests.contract.job_client import PROMPT, done, finished, output_names, output_of, submit
from tests.contract.script import file_of, gradient
from tests.contract.services import eventually
from tests.contract.stack import Stack

PHOTO = file_of(gradient(64, 48))
ORIENTATION = 0x0112


def as_data(file: bytes) -> str:
    return base64.b64encode(file).decode()


def photo_on_its_side(folder: Path) -> bytes:
    """A JPEG of 64 x 48 pixels that is shown as 48 x 64."""
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    path = folder / "photo.jpg"
    Image.fromarray(gradient(64, 48)).save(path, exif=exif)
    return path.read_bytes()


def kept_blobs(stack: Stack, job: Any) -> list[str]:
    return sorted(path.name for path in Path(stack.folder, "files", job["id"]).glob("*"))


def test_a_photo_is_uploaded_once_and_used_by_other_jobs(stack: Stack, tmp_path: Path) -> None:
    photo = photo_on_its_side(tmp_path)
    response = stack.client.post(
        "/v1/jobs",
        data={"type": "detect", "input": "{}", "keep_files": "true"},
        files={"image": ("photo.jpg", photo)},
        headers={"Prefer": "wait=20"},
    )
    assert response.status_code == 200, response.text
    job = response.json()
    [output] = job["outputs"]
    shown = stack.client.get(output["url"])
    assert shown.content == photo and shown.headers["content-type"] == "image/jpeg"
    url = output.pop("url")
    assert output == {
        "name": "input_image",
        "content_type": "image/jpeg",
        "size_bytes": len(photo),
        "width": 48,
        "height": 64,
    }
    assert stack.client.get(url, headers={"Range": "bytes=0-3"}).content == photo[:4]
    image = {"job": job["id"], "output": "input_image"}
    for kind, fields in (("compare", {"fidelities": [0.2, 0.8]}), ("restore", {"fidelity": 0.4})):
        again = done(stack, type=kind, input={"image": image, **fields})
        assert again["status"] == "completed", again["error"]
        sent = stack.restorer.requests[-1]
        assert (sent.restore if kind == "compare" else sent).image.data == photo
        assert "input_image" not in output_names(again)
    kept = done(stack, type="restore", input={"image": image}, keep_files=True)
    assert output_names(kept) == ["image", "input_image"] and output_of(stack, kept, "input_image") == photo


def test_there_is_no_second_copy(stack: Stack) -> None:
    job = done(stack, type="restore", input={"image": as_data(PHOTO)}, keep_files=True)
    assert kept_blobs(stack, job) == ["1_image.png", "input_image"]
    time.sleep(0.3)  # what deletes inputs runs after the job's end was written
    assert output_of(stack, job, "input_image") == PHOTO


def test_an_image_and_a_mask_that_are_drawn_over(stack: Stack) -> None:
    mask = file_of(gradient(256, 256))
    body = {**PROMPT, "image": as_data(PHOTO), "mask": as_data(mask)}
    job = done(stack, input=body, keep_files=True)
    assert job["status"] == "completed", job["error"]
    assert set(output_names(job)) >= {"image", "input_image", "input_mask"}
    assert output_of(stack, job, "input_image") == PHOTO and output_of(stack, job, "input_mask") == mask
    without_files = done(stack, keep_files=True)
    assert output_names(without_files) == ["drawn", "image"]


def test_files_of_jobs_that_fail_or_are_canceled_are_deleted(stack: Stack) -> None:
    body = {"image": as_data(PHOTO)}
    stack.restorer.error = InvalidRequest.of("image", "is not to the restorer's liking")
    failed = done(stack, type="restore", input=body, keep_files=True)
    assert failed["status"] == "failed" and failed["outputs"] == []
    eventually(lambda: kept_blobs(stack, failed) == [])
    stack.restorer.error = None
    stack.restorer.hold = True
    running = submit(stack, type="restore", input=body, keep_files=True)
    eventually(lambda: stack.restorer.running == 1)
    assert stack.client.post(running["urls"]["cancel"]).json()["outputs"] == []
    stack.restorer.hold = False
    assert finished(stack, running)["status"] == "cancelled"
    eventually(lambda: kept_blobs(stack, running) == [])


def test_they_are_deleted_unless_they_are_to_be_kept(stack: Stack) -> None:
    job = done(stack, type="detect", input={"image": as_data(PHOTO)}, keep_files=False)
    assert job["outputs"] == []
    eventually(lambda: kept_blobs(stack, job) == [])


def test_the_same_key_with_and_without_it_are_two_requests(stack: Stack) -> None:
    headers = {"Idempotency-Key": f"key-{time.time_ns()}"}
    body = {"type": "detect", "input": {"image": as_data(PHOTO)}, "keep_files": True}
    first = submit(stack, headers, **body)
    assert submit(stack, headers, **body)["id"] == first["id"]
    conflict = stack.client.post("/v1/jobs", json={**body, "keep_files": False}, headers=headers)
    assert conflict.status_code == 422 and "Idempotency-Key" in conflict.json()["error"]["message"]


@pytest.mark.parametrize(
    ("file", "message"),
    [
        (b"GIF89a" + bytes(100), "is a GIF, not a PNG, JPEG or WebP file"),
        (b"never an image", "is not a PNG, JPEG or WebP file"),
        (PHOTO[:20], "corrupt or truncated within its header"),
    ],
)
def test_what_cannot_be_shown_is_refused_at_once(stack: Stack, file: bytes, message: str) -> None:
    body = {"type": "detect", "input": {"image": as_data(file)}, "keep_files": True}
    response = stack.client.post("/v1/jobs", json=body)
    assert response.status_code == 422, response.text
    [field] = response.json()["error"]["fields"]
    assert field["field"] == "input.image" and message in field["message"]


@pytest.mark.parametrize("given", ["maybe", 2, []])
def test_keep_files_is_true_or_false(stack: Stack, given: object) -> None:
    body = {"type": "detect", "input": {"image": as_data(PHOTO)}, "keep_files": given}
    response = stack.client.post("/v1/jobs", json=body)
    assert response.status_code == 422 and response.json()["error"]["fields"][0]["field"] == "keep_files"


def test_they_count_among_a_job_s_outputs() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (700, 700, 3), np.uint8)
    large = file_of(noise)  # 1.5 MB
    half = file_of(noise[:500, :450])  # 0.7 MB, and restored as much again
    with Stack(jobs_max_result_bytes=2**20) as stack:
        body = {"type": "detect", "input": {"image": as_data(large)}, "keep_files": True}
        response = stack.client.post("/v1/jobs", json=body)
        [field] = response.json()["error"]["fields"]
        assert response.status_code == 422 and field["field"] == "keep_files"
        assert f"{len(large)} bytes together, the limit is 1048576" in field["message"]
        assert list(Path(stack.folder, "files").glob("job_*/*")) == []
        body = {"type": "restore", "input": {"image": as_data(half)}}
        assert done(stack, **body)["status"] == "completed"
        failed = done(stack, **body, keep_files=True)
        assert failed["status"] == "failed" and "the limit is 1048576" in failed["error"]["message"]
