"""Jobs as the dialects see them: accept, look up, follow, cancel, read outputs; and what goes on behind."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Self

from atelier_gateway.http.validation import fields_renamed
from atelier_gateway.jobs import outcomes
from atelier_gateway.jobs.blobs import BlobMissing, BlobStore
from atelier_gateway.jobs.database import Database
from atelier_gateway.jobs.migrations import upgrade
from atelier_gateway.jobs.runner import JobRunner
from atelier_gateway.jobs.store import IdempotencyConflict, JobStore, TooManyJobs
from atelier_gateway.jobs.submission import Submission, fingerprint_of, kept_files
from atelier_gateway.jobs.upkeep import Upkeep
from atelier_gateway.jobs.values import (
    Job,
    JobStatus,
    JobType,
    Json,
    NewJob,
    Output,
    is_job_id,
    new_id,
    now_ms,
)
from atelier_gateway.jobs.watcher import Changes, Watcher
from atelier_gateway.jobs.webhooks import Webhooks
from atelier_gateway.jobs.work import JobWork
from atelier_runtime import metrics, tracing
from atelier_runtime.errors import InvalidRequest, NotFound, QueueFull, ServiceUnavailable

logger = logging.getLogger(__name__)

_TIDY_S = 15.0
_ORPHAN_AGE = timedelta(hours=1)
_LOOK_FOR_ORPHANS_S = 3600.0
_FULL_RETRY_AFTER_S = 10.0
_MAX_STUCK = 500
_STOP_S = 2.0
_OTHER_REQUEST = "was used within the last 24 hours for another request"


@dataclass(frozen=True)
class Outlook:
    """What a job still has before it: jobs of the same owner, and seconds; None: unknown, or it runs."""

    position: int | None
    seconds: float | None


NOTHING_KNOWN = Outlook(None, None)


class Jobs:
    """The room. Enter it in the event loop that will use it."""

    def __init__(
        self,
        database: Database,
        store: JobStore,
        blobs: BlobStore,
        works: Mapping[JobType, JobWork],
        runner: JobRunner,
        webhooks: Webhooks | None,
        upkeep: Upkeep,
        *,
        at_once: int,
        max_result_bytes: int,
    ) -> None:
        """`webhooks`: None if there is no secret to sign them. The numbers: of the runner."""
        self._database = database
        self._store = store
        self._blobs = blobs
        self._works = works
        self._runner = runner
        self._webhooks = webhooks
        self._upkeep = upkeep
        self._at_once = max(1, at_once)
        self._max_result_bytes = max_result_bytes
        self.draining = False
        self._watcher = Watcher(store)
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        """Bring the database up to date and begin to carry out jobs."""
        self._database.open()
        self._stack.push_async_callback(self._database.close)
        try:
            self._blobs.open()
            await upgrade(self._database)
            await self._blobs.belong_to(await self._upkeep.database_id())
            if self._database.is_sqlite:
                await self._upkeep.end_leases()
        except BaseException:
            await self._stack.aclose()
            raise
        tasks = [self._runner.run(), self._watcher.run(), self._tidy()]
        if self._webhooks is not None:
            tasks.append(self._webhooks.run())
        for work in tasks:
            self._stack.push_async_callback(_end, asyncio.create_task(work))
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        """Hand back the jobs that are not done."""
        await self._stack.aclose()

    @property
    def are_available(self) -> bool:
        """Whether the database and the store of files could be used the last time."""
        return self._database.is_usable and self._blobs.is_usable

    async def submit(self, submission: Submission) -> tuple[Job, bool]:
        """Accept a job; return it and whether it is new. Once this returns, it will be carried out.

        Raises what the synchronous route would raise of the request, `QueueFull`, and `InvalidRequest` for a
        key that was used with another request.
        """
        self._check_webhook(submission.webhook)
        fingerprint = None
        if submission.idempotency_key is not None:
            fingerprint = await asyncio.to_thread(fingerprint_of, submission)
            if (known := await self._of_key(submission, fingerprint)) is not None:
                return known, False
        with fields_renamed(lambda field: submission.field_prefix + field):
            body = await self._with_outputs_of_others(submission)
            accepted = await self._works[submission.type].accept(body)
            job_id = new_id()
            blobs = {name: f"{job_id}/input_{name}" for name in accepted.files}
            kept = await asyncio.to_thread(kept_files, accepted.files, blobs) if submission.keep_files else ()
        if (size := sum(each.size_bytes for each in kept)) > self._max_result_bytes:
            message = f"the files have {size} bytes together, the limit is {self._max_result_bytes}"
            raise InvalidRequest.of("keep_files", message)
        new = NewJob(
            id=job_id,
            type=submission.type,
            input={
                "fields": dict(accepted.fields),
                "files": blobs,
                "kept": [vars(each) for each in kept],
                "preview_interval_steps": submission.preview_interval_steps,
                "can_wait": submission.can_wait,
                **dict(tracing.headers()[:1]),  # the job's trace links to that of the request
            },
            owner=submission.owner,
            priority=submission.priority,
            ttl_ms=int(1000 * submission.ttl_s),
            webhook=submission.webhook,
            idempotency_key=submission.idempotency_key,
            fingerprint=fingerprint,
        )
        for name, blob in blobs.items():
            await self._blobs.put(blob, accepted.files[name])
        # Where this ends in any other way, as in the middle of a commit, the job may have been accepted: its
        # files stay, and are deleted as nobody's if it was not.
        try:
            job, is_new = await self._store.submit(new)
        except IdempotencyConflict:
            await self._forget(job_id)
            raise InvalidRequest.of("Idempotency-Key", _OTHER_REQUEST) from None
        except TooManyJobs as error:
            await self._forget(job_id)
            whose = "of this key" if error.of_owner else "of all keys"
            message = f"{error.limit} jobs {whose} are waiting, the limit."
            raise QueueFull(message, retry_after_s=_FULL_RETRY_AFTER_S) from None
        if not is_new:
            await self._forget(job_id)
        self._runner.wake()
        return job, is_new

    async def _of_key(self, submission: Submission, fingerprint: str) -> Job | None:
        try:
            return await self._store.of_key(submission.owner, submission.idempotency_key or "", fingerprint)
        except IdempotencyConflict:
            raise InvalidRequest.of("Idempotency-Key", _OTHER_REQUEST) from None

    async def _forget(self, job_id: str) -> None:
        """Delete the files of a job that was not accepted; what is missed is deleted later."""
        with contextlib.suppress(ServiceUnavailable):
            await self._blobs.delete_of(job_id)

    def _check_webhook(self, webhook: Json | None) -> None:
        if webhook is None:
            return
        if self._webhooks is None:
            message = "cannot be signed: ATELIER_GATEWAY_WEBHOOK_SECRETS is not set"
            raise InvalidRequest.of("webhook", message)
        if not self._webhooks.may_be_posted_to(webhook["url"]):
            message = "is not a public address (ATELIER_GATEWAY_WEBHOOK_PRIVATE_ADDRESSES is not set)"
            raise InvalidRequest.of("webhook.url", message)

    async def _with_outputs_of_others(self, submission: Submission) -> Mapping[str, Any]:
        """Replace `{"job": ID, "output": name}` in place of an image by that output's file."""
        body = dict(submission.body)
        for name, value in body.items():
            if isinstance(value, dict) and set(value) == {"job", "output"}:
                body[name] = await self._output_of_another(name, value, submission.owner)
        return body

    async def _output_of_another(self, field: str, given: Json, owner: str) -> bytes:
        job_id = given["job"]
        job = await self._store.get(job_id) if isinstance(job_id, str) and is_job_id(job_id) else None
        if job is None or job.owner != owner:
            raise InvalidRequest.of(f"{field}.job", "there is no job of this ID")
        if job.is_gone:
            raise InvalidRequest.of(f"{field}.job", "its outputs have expired")
        output = job.output(str(given["output"]))
        if output is None:
            names = ", ".join(each.name for each in job.outputs) or "none"
            raise InvalidRequest.of(f"{field}.output", f"the job has no such output; it has: {names}")
        try:
            return await self._blobs.get(output.blob)
        except BlobMissing:
            raise InvalidRequest.of(f"{field}.job", "its outputs have expired") from None

    async def get(self, job_id: str, owners: Collection[str] | None) -> Job:
        """Return a job of one of these owners, None: of any. Raises `NotFound`, also for another owner's."""
        job = await self._store.get(job_id) if is_job_id(job_id) else None
        if job is None or (owners is not None and job.owner not in owners):
            raise NotFound("There is no job of this ID.")
        return job

    async def list_of(
        self, owners: Collection[str] | None, *, before: str | None, limit: int
    ) -> Sequence[Job]:
        """Return the jobs of these owners, None: of all, newest first."""
        return await self._store.list_of(owners, before=before, limit=limit)

    async def outlook(self, job: Job) -> Outlook:
        """Return what a job that has not ended still has before it."""
        if job.status.is_final:
            return NOTHING_KNOWN
        position = await self._store.waiting_before(job) if job.status is JobStatus.QUEUED else None
        typical_ms = job.expected_ms or await self._store.typical_run_ms(job.type)
        if typical_ms is None:
            return Outlook(position, None)
        if position is not None:
            return Outlook(position, typical_ms * (1 + position // self._at_once) / 1000)
        elapsed_ms = now_ms() - (job.started_at or now_ms())
        left_ms = typical_ms * (1 - job.progress) if job.progress else typical_ms - elapsed_ms
        return Outlook(None, max(0.0, left_ms / 1000))

    async def cancel(self, job_id: str, owners: Collection[str] | None) -> Job:
        """Cancel a job; one that has ended stays as it is. Raises `NotFound`."""
        await self.get(job_id, owners)
        job = await self._store.cancel(job_id)
        if job is None:
            raise NotFound("There is no job of this ID.")
        if job.status is JobStatus.CANCELLED:
            with contextlib.suppress(ServiceUnavailable):  # they are deleted with its outputs, then
                await self._blobs.delete_inputs(job)
        if job.cancel_requested:
            self._runner.cancel(job_id)
        return job

    async def expire(self, job_id: str, owners: Collection[str] | None) -> None:
        """Delete what a job has made, now or once its work has stopped. Raises `NotFound`.

        Once the row says so it is done, whatever ends or is away: what is missed here is tidied up.
        """
        await self.get(job_id, owners)
        job = await self._store.expire(job_id)
        if job is None:
            raise NotFound("There is no job of this ID.")
        if runs := not job.status.is_final:
            self._runner.cancel(job_id)
            job = await self.wait(job, _STOP_S)
        if job.expired or not job.status.is_final:
            return
        try:
            await self._blobs.delete_of(job_id)
            if not runs:  # else a file that was being written may come after: it is deleted again
                await self._upkeep.expire([job_id])
        except ServiceUnavailable as error:
            logger.warning("a job's files cannot be deleted", extra={**error.for_log(), "job": job_id})

    def drain(self) -> None:
        """Begin no more jobs, and let those who follow jobs go to another gateway."""
        self.draining = True
        self._runner.drain()
        self._watcher.end()

    @contextlib.asynccontextmanager
    async def follow(self, job_id: str) -> AsyncIterator[Changes]:
        """A queue of the job's changes; see `Watcher.follow`."""
        async with self._watcher.follow(job_id) as changes:
            yield changes

    async def wait(self, job: Job, seconds: float) -> Job:
        """Return the job as it is when it ends, or after some seconds."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds), self._watcher.follow(job.id) as changes:
                while not job.status.is_final and (change := await changes.get()) is not None:
                    job = change.job
        return job

    async def read(self, output: Output, start: int, end: int) -> AsyncIterator[bytes]:
        """Return a part of an output's bytes, in chunks. Raises `BlobMissing`."""
        return await self._blobs.stream(output.blob, start, end)

    async def _tidy(self) -> None:
        """Delete what has expired, end what was lost, until the task is canceled."""
        loop = asyncio.get_running_loop()
        next_search = loop.time()
        while True:
            duties = [
                self._blobs.try_again,
                self._count,
                self._fail_lost,
                self._expire,
                self._upkeep.delete_old,
            ]
            if loop.time() >= next_search:
                next_search = loop.time() + _LOOK_FOR_ORPHANS_S
                duties += [self._delete_orphans, self._weigh]
            for duty in duties:  # one that fails keeps no other from being done
                try:
                    await duty()
                except ServiceUnavailable as error:
                    logger.warning("jobs cannot be tidied up", extra=error.for_log())
                except Exception:  # nobody else tidies up
                    logger.exception("jobs cannot be tidied up")
            await asyncio.sleep(_TIDY_S)

    async def _fail_lost(self) -> None:
        for job in await self._upkeep.fail_lost():
            outcomes.count_ended(job)
            logger.error("a job was lost", extra={"job": job.id})
            await self._blobs.delete_inputs(job)

    async def _expire(self) -> None:
        stuck: list[str] = []
        while due := await self._upkeep.due(stuck):
            deleted = []
            for job in due:
                try:
                    await self._blobs.delete_of(job.id)
                    deleted.append(job.id)
                except ServiceUnavailable as error:
                    logger.warning(
                        "a job's files cannot be deleted", extra={**error.for_log(), "job": job.id}
                    )
                    stuck.append(job.id)
            await self._upkeep.expire(deleted)
            if len(stuck) >= _MAX_STUCK:
                return

    async def _weigh(self) -> None:
        metrics.JOB_FILE_BYTES.set(await self._blobs.bytes_held())

    async def _count(self) -> None:
        counts = await self._upkeep.counts()
        for job_type, status in itertools.product(JobType, JobStatus):
            metrics.JOBS.labels(job_type, status).set(counts.get((job_type, status), 0))
        metrics.JOBS_OLDEST_WAITING.set(await self._upkeep.oldest_waiting_ms() / 1000)

    async def _delete_orphans(self) -> None:
        """Delete blobs without a job: of requests that were not accepted because the gateway ended."""
        ids = sorted(await self._blobs.job_ids(datetime.now(UTC) - _ORPHAN_AGE))
        for start in range(0, len(ids), 500):
            some = ids[start : start + 500]
            for job_id in set(some) - await self._upkeep.existing(some):
                await self._blobs.delete_of(job_id)


async def _end(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.wait({task})
