"""Jobs as the dialects see them: accept, look up, follow, cancel, read outputs; and what goes on behind."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import logging
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Self

from atelier_gateway.jobs.blobs import BlobMissing, BlobStore
from atelier_gateway.jobs.database import Database
from atelier_gateway.jobs.migrations import upgrade
from atelier_gateway.jobs.runner import JobRunner
from atelier_gateway.jobs.store import IdempotencyConflict, JobStore, TooManyJobs
from atelier_gateway.jobs.values import Job, JobType, Json, NewJob, Output, new_id
from atelier_gateway.jobs.watcher import Watcher
from atelier_gateway.jobs.work import JobWork
from atelier_runtime.errors import InvalidRequest, NotFound, QueueFull

logger = logging.getLogger(__name__)

_TIDY_S = 15.0
_ORPHAN_AGE = timedelta(hours=1)
_LOOK_FOR_ORPHANS_S = 3600.0
_FULL_RETRY_AFTER_S = 10.0


@dataclass(frozen=True)
class Submission:
    """A request for a job. `ttl_s`: for how long its outputs are kept after it has ended."""

    type: JobType
    body: Mapping[str, Any]
    owner: str = ""
    priority: int = 0
    ttl_s: float = 3600.0
    webhook: Json | None = None
    idempotency_key: str | None = None


class Jobs:
    """The room. Enter it in the event loop that will use it."""

    def __init__(
        self,
        database: Database,
        store: JobStore,
        blobs: BlobStore,
        works: Mapping[JobType, JobWork],
        runner: JobRunner,
    ) -> None:
        self._database = database
        self._store = store
        self._blobs = blobs
        self._works = works
        self._runner = runner
        self._watcher = Watcher(store)
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        """Bring the database up to date and begin to carry out jobs."""
        await upgrade(self._database)
        self._stack.push_async_callback(self._database.close)
        for work in (self._runner.run(), self._watcher.run(), self._tidy()):
            self._stack.push_async_callback(_end, asyncio.create_task(work))
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        """Hand back the jobs that are not done."""
        await self._stack.aclose()

    async def submit(self, submission: Submission) -> tuple[Job, bool]:
        """Accept a job; return it and whether it is new. Once this returns, it will be carried out.

        Raises what the synchronous route would raise of the request, `QueueFull`, and `InvalidRequest` for a
        key that was used with another request.
        """
        body = await self._with_outputs_of_others(submission)
        accepted = await self._works[submission.type].accept(body)
        job_id = new_id()
        blobs = {name: f"{job_id}/input_{name}" for name in accepted.files}
        fingerprint = await asyncio.to_thread(_fingerprint, submission, body, accepted.files)
        new = NewJob(
            id=job_id,
            type=submission.type,
            input={"fields": dict(accepted.fields), "files": blobs},
            owner=submission.owner,
            priority=submission.priority,
            ttl_ms=int(1000 * submission.ttl_s),
            webhook=submission.webhook,
            idempotency_key=submission.idempotency_key,
            fingerprint=fingerprint,
        )
        is_accepted = False
        try:
            for name, blob in blobs.items():
                await self._blobs.put(blob, accepted.files[name])
            job, is_accepted = await self._store.submit(new)
        except IdempotencyConflict:
            message = "was used within the last 24 hours for another request"
            raise InvalidRequest.of("Idempotency-Key", message) from None
        except TooManyJobs as error:
            whose = "of this key" if error.of_owner else "of all keys"
            message = f"{error.limit} jobs {whose} are waiting, the limit."
            raise QueueFull(message, retry_after_s=_FULL_RETRY_AFTER_S) from None
        finally:
            if not is_accepted and blobs:
                await self._blobs.delete_of(job_id)
        self._runner.wake()
        return job, is_accepted

    async def _with_outputs_of_others(self, submission: Submission) -> Mapping[str, Any]:
        """Replace `{"job": ID, "output": name}` in place of an image by that output's file."""
        body = dict(submission.body)
        for name, value in body.items():
            if isinstance(value, dict) and set(value) == {"job", "output"}:
                body[name] = await self._output_of_another(name, value, submission.owner)
        return body

    async def _output_of_another(self, field: str, given: Json, owner: str) -> bytes:
        job = await self._store.get(str(given["job"]))
        if job is None or job.owner != owner:
            raise InvalidRequest.of(f"{field}.job", "there is no job of this ID")
        output = job.output(str(given["output"]))
        if output is None:
            names = ", ".join(each.name for each in job.outputs) or "none"
            raise InvalidRequest.of(f"{field}.output", f"the job has no such output; it has: {names}")
        try:
            return await self._blobs.get(output.blob)
        except BlobMissing:
            raise InvalidRequest.of(f"{field}.job", "its outputs have expired") from None

    async def get(self, job_id: str, owner: str) -> Job:
        """Return a job. Raises `NotFound`, also for another owner's."""
        job = await self._store.get(job_id)
        if job is None or job.owner != owner:
            raise NotFound("There is no job of this ID.")
        return job

    async def list_of(self, owner: str, *, before: str | None, limit: int) -> Sequence[Job]:
        """Return an owner's jobs, newest first."""
        return await self._store.list_of(owner, before=before, limit=limit)

    async def position(self, job: Job) -> int:
        """Return how many of the owner's jobs come before one that waits."""
        return await self._store.waiting_before(job)

    async def cancel(self, job_id: str, owner: str) -> Job:
        """Cancel a job; one that has ended stays as it is. Raises `NotFound`."""
        await self.get(job_id, owner)
        job = await self._store.cancel(job_id)
        if job is None:
            raise NotFound("There is no job of this ID.")
        if job.cancel_requested:
            self._runner.cancel(job_id)
        return job

    @contextlib.asynccontextmanager
    async def follow(self, job_id: str) -> AsyncIterator[Any]:
        """A queue of the job's changes; see `Watcher.follow`."""
        async with self._watcher.follow(job_id) as changes:
            yield changes

    async def wait(self, job: Job, seconds: float) -> Job:
        """Return the job as it is when it ends, or after some seconds."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds), self._watcher.follow(job.id) as changes:
                while not job.status.is_final:
                    job = (await changes.get()).job
        return job

    def read(self, output: Output, start: int, end: int) -> AsyncIterator[bytes]:
        """Yield a part of an output's bytes. Raises `BlobMissing`."""
        return self._blobs.stream(output.blob, start, end)

    async def _tidy(self) -> None:
        """Delete what has expired, end what was lost, until the task is canceled."""
        loop = asyncio.get_running_loop()
        next_search = loop.time()
        while True:
            try:
                await self._store.fail_lost()
                while due := await self._store.due():
                    for job in due:
                        await self._blobs.delete_of(job.id)
                    await self._store.expire([job.id for job in due])
                await self._store.delete_old()
                if loop.time() >= next_search:
                    next_search = loop.time() + _LOOK_FOR_ORPHANS_S
                    await self._delete_orphans()
            except Exception:
                logger.exception("expired jobs cannot be deleted")
            await asyncio.sleep(_TIDY_S)

    async def _delete_orphans(self) -> None:
        """Delete blobs without a job: of requests that were not accepted because the gateway ended."""
        ids = sorted(await self._blobs.job_ids(datetime.now(UTC) - _ORPHAN_AGE))
        for start in range(0, len(ids), 500):
            some = ids[start : start + 500]
            for job_id in set(some) - await self._store.existing(some):
                await self._blobs.delete_of(job_id)


def _fingerprint(submission: Submission, body: Mapping[str, Any], files: Mapping[str, bytes]) -> str:
    """Return a digest of a request: equal if and only if what it asks for is."""
    fields = {name: value for name, value in body.items() if name not in files and _is_plain(value)}
    digests = {name: hashlib.sha256(file).hexdigest() for name, file in files.items()}
    whole = [submission.type, fields, digests, submission.priority, submission.ttl_s, submission.webhook]
    return hashlib.sha256(json.dumps(whole, sort_keys=True).encode()).hexdigest()


def _is_plain(value: object) -> bool:
    return isinstance(value, str | int | float | bool | list | dict | None)


async def _end(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.wait({task})
