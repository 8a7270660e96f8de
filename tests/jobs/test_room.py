"""The room of jobs by itself: what is accepted is kept whatever happens then, and what expires is deleted."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from atelier_gateway.jobs import service
from atelier_gateway.jobs.assembly import create_database, create_jobs
from atelier_gateway.jobs.blobs import BlobStore
from atelier_gateway.jobs.service import Jobs
from atelier_gateway.jobs.store import JobStore
from atelier_gateway.jobs.submission import Submission
from atelier_gateway.jobs.values import Job, JobStatus, JobType, NewJob
from atelier_gateway.jobs.work import Accepted, JobWork, Result, Surroundings
from atelier_gateway.settings import GatewaySettings
from atelier_runtime.errors import ServiceUnavailable
from atelier_runtime.images import EncodedImage
from tests.jobs.rows import describe


class Echo(JobWork):
    """Returns the size of the file that it was given."""

    async def accept(self, body: Mapping[str, Any]) -> Accepted:
        return Accepted({}, {"image": bytes(body["image"])})

    async def run(self, accepted: Accepted, surroundings: Surroundings) -> Result:
        image = EncodedImage(accepted.files["image"], "png", 1, 1)
        return Result({"size": len(accepted.files["image"])}, [("image", image)])


def room(folder: Path) -> Jobs:
    settings = GatewaySettings(
        jobs_database=f"sqlite:///{folder}/jobs.db", jobs_files=f"file:{folder}/files", jobs_lease_seconds=3
    )
    jobs = create_jobs(settings, create_database(settings), {JobType.RESTORE: Echo()}, describe, list)
    assert jobs is not None
    return jobs


def submission(**values: Any) -> Submission:
    return Submission(JobType.RESTORE, {"image": b"12345"}, **values)


async def ended(jobs: Jobs, job: Job) -> Job:
    end = time.monotonic() + 20
    while not job.status.is_final:
        assert time.monotonic() < end
        await asyncio.sleep(0.02)
        job = await jobs.get(job.id, ("",))
    return job


@pytest.mark.parametrize("how", ["lost", "canceled"])
async def test_an_answer_that_was_lost_after_the_commit_loses_no_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """Nobody knows whether the database has it: its files stay, and the same key finds it."""
    commit = JobStore.submit

    async def and_then_nothing(self: JobStore, new: NewJob) -> tuple[Job, bool]:
        await commit(self, new)
        raise ServiceUnavailable("gone") if how == "lost" else asyncio.CancelledError

    async with room(tmp_path) as jobs:
        monkeypatch.setattr(JobStore, "submit", and_then_nothing)
        with pytest.raises(ServiceUnavailable if how == "lost" else asyncio.CancelledError):
            await jobs.submit(submission(idempotency_key="order 1"))
        monkeypatch.setattr(JobStore, "submit", commit)
        job, is_new = await jobs.submit(submission(idempotency_key="order 1"))
        assert not is_new
        job = await ended(jobs, job)
        assert job.status is JobStatus.COMPLETED and job.result == {"size": 5}


async def test_what_is_nobodys_is_deleted_and_what_is_no_jobs_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "_ORPHAN_AGE", timedelta(seconds=-60))
    monkeypatch.setattr(service, "_LOOK_FOR_ORPHANS_S", 0.0)
    monkeypatch.setattr(service, "_TIDY_S", 0.05)
    files = tmp_path / "files"
    photo, orphan = files / "photos/2024/wedding.jpg", files / f"job_{'0' * 44}" / "input_image"
    for path in (photo, orphan):
        path.parent.mkdir(parents=True)
        path.write_bytes(b"1")
    async with room(tmp_path) as jobs:
        job, _ = await jobs.submit(submission())
        job = await ended(jobs, job)
        while orphan.exists():
            await asyncio.sleep(0.02)
        await asyncio.sleep(0.3)
        assert photo.exists()
        [output] = job.outputs
        assert b"".join([chunk async for chunk in await jobs.read(output, 0, 5)]) == b"12345"


async def test_files_that_cannot_be_deleted_hold_up_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "_TIDY_S", 0.05)
    delete = BlobStore.delete_of
    stuck = ""

    async def may_fail(self: BlobStore, job_id: str) -> None:
        if job_id == stuck:
            raise ServiceUnavailable("read only")
        await delete(self, job_id)

    monkeypatch.setattr(BlobStore, "delete_of", may_fail)
    async with room(tmp_path) as jobs:
        first, _ = await jobs.submit(submission(ttl_s=1.0))
        stuck = first.id
        others = [(await jobs.submit(submission(ttl_s=1.0)))[0] for _ in range(3)]
        for job in (first, *others):
            await ended(jobs, job)
        end = time.monotonic() + 20
        while not all([(await jobs.get(job.id, ("",))).expired for job in others]):
            assert time.monotonic() < end
            await asyncio.sleep(0.05)
        assert not (await jobs.get(first.id, ("",))).expired
        stuck = ""
        while not (await jobs.get(first.id, ("",))).expired:
            assert time.monotonic() < end
            await asyncio.sleep(0.05)
    assert list((tmp_path / "files").glob("job_*/*")) == []
