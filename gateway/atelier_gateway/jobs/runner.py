"""Carries out jobs: takes them from the store, a few at a time, until this gateway ends.

While a job runs, its lease is renewed and its progress written, and it is looked whether somebody wants it
canceled. Whoever finds that the job is no longer theirs lets go of it without a word.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from atelier_gateway.access.caller import caller_of_owner
from atelier_gateway.core.generate import WORTH_WAITING_FOR
from atelier_gateway.jobs import outcomes
from atelier_gateway.jobs.blobs import BlobMissing, BlobStore
from atelier_gateway.jobs.drawings import PREFIX, StoredDrawings
from atelier_gateway.jobs.store import JobStore, LeaseLost, Release
from atelier_gateway.jobs.values import (
    LONGEST_WAIT_MS,
    MAX_ATTEMPTS,
    Claim,
    Job,
    JobProgress,
    JobStatus,
    JobType,
    Json,
    Output,
    now_ms,
)
from atelier_gateway.jobs.work import Accepted, JobWork, Result, Surroundings
from atelier_runtime import metrics, tracing
from atelier_runtime.caller import caller
from atelier_runtime.errors import (
    DEFAULT_RETRY_AFTER_S,
    AtelierError,
    ErrorReason,
    InternalError,
    InvalidRequest,
    ServiceUnavailable,
)
from atelier_runtime.images import EncodedImage
from atelier_runtime.log import request_id
from atelier_runtime.recipes.whole import whole_text

logger = logging.getLogger(__name__)
T = TypeVar("T")

_IDLE_S = 0.5
"""After which it is looked again whether there is a job, in case nobody has said so."""
_AWAY_S = 2.0
"""The same, where the database could not be reached."""
_WRITE_S = 0.25
"""Progress is written at most so often."""
_LOOK_S = 1.0
"""A lease is renewed, and it is seen whether the job is to be canceled, at least so often."""
_MAX_PUT_OFF_S = 30.0
_PERSISTENCE_S = 60.0

_TRIED_AGAIN = frozenset({ErrorReason.INTERNAL, ErrorReason.BAD_IMAGE, ErrorReason.OUT_OF_MEMORY})
"""The services' fault: another attempt may help."""


@dataclass(frozen=True)
class RunnerLimits:
    """What bounds a runner.

    `deadline_s`: of one attempt. `patience_s`: for how long a job waits for services that are full or away.
    """

    at_once: int
    deadline_s: float
    patience_s: float
    lease_s: float
    max_pixels: int
    max_result_bytes: int


@dataclass
class _Running:
    """A job that is being carried out here."""

    claim: Claim
    task: asyncio.Task[None]
    progress: JobProgress | None = None
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    cancelled: bool = False
    is_lost: bool = False
    """Another runner has it, or may have it."""


class JobRunner:
    """Carries out up to `at_once` jobs at a time. `name`: of this process, unlike that of any other."""

    def __init__(
        self,
        store: JobStore,
        blobs: BlobStore,
        works: Mapping[JobType, JobWork],
        limits: RunnerLimits,
        *,
        name: str,
    ) -> None:
        self._store = store
        self._blobs = blobs
        self._works = works
        self._limits = limits
        self._name = name
        self._running: dict[str, _Running] = {}
        self._wake = asyncio.Event()
        self._draining = False
        for job_type in JobType:  # so that the first one is an increase
            metrics.JOB_RETRIES.labels(job_type)
        outcomes.announce()

    def wake(self) -> None:
        """Say that there may be a job."""
        self._wake.set()

    def cancel(self, job_id: str) -> None:
        """Stop a job if it runs here; its row says already that it is to be canceled."""
        if running := self._running.get(job_id):
            running.cancelled = True
            running.task.cancel()

    def drain(self) -> None:
        """Begin no more jobs."""
        self._draining = True

    async def run(self) -> None:
        """Carry out jobs until the task is canceled; then hand back what is not done."""
        try:
            while True:
                is_full = self._draining or len(self._running) >= self._limits.at_once
                if is_full or not await self._begin_one():
                    await self._wait(_IDLE_S)
        finally:
            tasks = [running.task for running in self._running.values()]
            for task in tasks:
                task.cancel()
            if tasks:
                await asyncio.wait(tasks)

    async def _wait(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._wake.wait(), seconds)
        self._wake.clear()

    async def _begin_one(self) -> bool:
        try:
            claim = await self._store.claim(self._name)
        except ServiceUnavailable as error:  # the jobs in it are not lost
            logger.error("jobs cannot be read", extra=error.for_log())
            await asyncio.sleep(_AWAY_S)
            return False
        except Exception:  # whatever it is, the next jobs may be readable, and nobody else begins them
            logger.exception("jobs cannot be read")
            await asyncio.sleep(_AWAY_S)
            return False
        if claim is None:
            return False
        if (former := self._running.get(claim.job.id)) is not None:  # this process stood still for long
            former.is_lost = True
            former.task.cancel()
            await asyncio.wait({former.task})
        if claim.fence == 1:
            metrics.JOB_WAIT.labels(claim.job.type).observe((now_ms() - claim.job.created_at) / 1000)
        if claim.was_lost:
            metrics.JOB_RETRIES.labels(claim.job.type).inc()
        task = asyncio.create_task(self._carry_out(claim), name=claim.job.id)
        running = _Running(claim, task)
        self._running[claim.job.id] = running
        task.add_done_callback(lambda _: self._ended(running))
        return True

    def _ended(self, running: _Running) -> None:
        job_id = running.claim.job.id
        if self._running.get(job_id) is running:
            del self._running[job_id]
        self._wake.set()

    async def _carry_out(self, claim: Claim) -> None:
        """Carry out an attempt, in a trace of its own: the request that asked for the job is over."""
        request_id.set(claim.job.id)
        caller.set(caller_of_owner(claim.job.owner))
        submitted = claim.job.input.get(tracing.TRACEPARENT)
        facts: tracing.Attributes = {"atelier.request_id": claim.job.id, "atelier.job.claim": claim.fence}
        links = [submitted] if submitted else []
        with tracing.linked_span(f"job {claim.job.type}", links, facts):
            await self._attempt(claim)

    async def _attempt(self, claim: Claim) -> None:
        running = self._running[claim.job.id]
        heart = asyncio.create_task(self._report(running))
        try:
            try:
                if claim.job.cancel_requested:
                    raise asyncio.CancelledError
                result = await self._work(running)
                outputs = await self._store_images(claim, result)
            except asyncio.CancelledError:
                await asyncio.shield(self._hand_back(running))
                return
            except LeaseLost:
                raise
            except AtelierError as error:
                await self._failed(claim, error)
                return
            except Exception:  # a bug: the job says so, as a synchronous response would
                logger.exception("a job failed")
                await self._failed(claim, InternalError())
                return
            await _even_if_canceled(self._end(lambda: self._store.complete(claim, result.report, outputs)))
        except LeaseLost:
            running.is_lost = True
        except ServiceUnavailable as error:  # its lease has ended by now, and another attempt is made
            logger.error("a job's end cannot be written", extra=error.for_log())
        finally:
            heart.cancel()
            if running.is_lost:
                metrics.JOB_LEASES_LOST.inc()
                logger.warning("a job's lease was lost")

    async def _work(self, running: _Running) -> Result:
        job = running.claim.job

        def on_progress(progress: JobProgress) -> None:
            running.progress = progress
            running.changed.set()

        try:
            files = {name: await self._blobs.get(blob) for name, blob in job.input["files"].items()}
        except BlobMissing as error:
            raise InternalError(f"The job's input {error} is missing.") from None
        surroundings = Surroundings(
            time.monotonic() + self._limits.deadline_s,
            on_progress,
            StoredDrawings(self._store, self._blobs, running.claim, max_pixels=self._limits.max_pixels),
            can_wait=self._can_wait(job),
            preview_interval_steps=job.input.get("preview_interval_steps"),
        )
        return await self._works[job.type].run(Accepted(job.input["fields"], files), surroundings)

    def _can_wait(self, job: Job) -> bool:
        if not job.input.get("can_wait", True):  # an older gateway has accepted it
            return False
        since = job.created_at if job.started_at is None else job.started_at
        return now_ms() - since < 1000 * self._limits.patience_s

    async def _report(self, running: _Running) -> None:
        """Renew the lease and write the progress, until the job has ended or is no longer ours."""
        while True:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(running.changed.wait(), min(_LOOK_S, self._limits.lease_s / 6))
            progress = running.progress if running.changed.is_set() else None
            running.changed.clear()
            try:
                if await self._store.report(running.claim, progress):
                    self.cancel(running.claim.job.id)
                    return
            except LeaseLost:
                running.is_lost = True
                running.task.cancel()
                return
            except ServiceUnavailable as error:
                logger.warning("a job's progress cannot be written", extra=error.for_log())
            except Exception:  # a lease that is no longer renewed would have the work done twice
                logger.exception("a job's progress cannot be written")
            await asyncio.sleep(_WRITE_S)

    async def _hand_back(self, running: _Running) -> None:
        """End a job that was canceled, or let another gateway have it."""
        if running.is_lost:
            return
        with contextlib.suppress(LeaseLost, ServiceUnavailable):
            if running.cancelled or running.claim.job.cancel_requested:
                await self._end(lambda: self._store.cancelled(running.claim))
            else:
                await self._store.release(running.claim)

    async def _failed(self, claim: Claim, error: AtelierError) -> None:
        tracing.note_error(error.reason)
        if self._is_waited_for(claim.job, error):
            asked_for = DEFAULT_RETRY_AFTER_S if error.retry_after_s is None else error.retry_after_s
            delay_s = max(asked_for, min(_MAX_PUT_OFF_S, 0.5 * 2.0 ** min(claim.job.waits, 10)))
            logger.info("a job waits for a service", extra={**error.for_log(), "seconds": delay_s})
            after_ms = min(int(1000 * delay_s), LONGEST_WAIT_MS)
            await _persistently(lambda: self._store.release(claim, after_ms=after_ms, why=Release.WAITS))
        elif error.reason in _TRIED_AGAIN and claim.job.attempts < MAX_ATTEMPTS:
            logger.warning("a job's attempt failed", extra=error.for_log())
            metrics.JOB_RETRIES.labels(claim.job.type).inc()
            after_ms = 1000 * claim.job.attempts
            await _persistently(lambda: self._store.release(claim, after_ms=after_ms, why=Release.FAILED))
        else:
            await self._end(lambda: self._store.fail(claim, error_report(error)))

    def _is_waited_for(self, job: Job, error: AtelierError) -> bool:
        if error.reason is ErrorReason.DEADLINE_UNMEETABLE and error.retry_after_s is None:
            return False  # not for the queue's sake: it would never be met
        return error.reason in WORTH_WAITING_FOR and self._can_wait(job)

    async def _end(self, write: Callable[[], Awaitable[Job]]) -> None:
        job = await _persistently(write)
        await self._forget_inputs(job)
        outcomes.count_ended(job)
        if job.started_at is not None and job.completed_at is not None:
            seconds = (job.completed_at - job.started_at) / 1000
            metrics.JOB_RUN.labels(job.type, job.status).observe(seconds, tracing.exemplar())
        if job.status is JobStatus.FAILED:
            logger.error("a job has failed", extra=_for_log(job))

    async def _forget_inputs(self, job: Job) -> None:
        """Delete what a job came with. What is missed here is deleted with its outputs."""
        try:
            await self._blobs.delete_inputs(job)
        except ServiceUnavailable as error:
            logger.warning("a job's inputs cannot be deleted", extra=error.for_log())

    async def _store_images(self, claim: Claim, result: Result) -> list[Output]:
        kept = await self._store.get(claim.job.id)
        outputs = [] if kept is None else [each for each in kept.outputs if each.name.startswith(PREFIX)]
        inputs = [Output(**each) for each in claim.job.input.get("kept", ())]
        size = sum(len(image.data) for _, image in result.images)
        size += sum(each.size_bytes for each in (*outputs, *inputs))
        if size > self._limits.max_result_bytes:
            message = f"have {size} bytes together, the limit is {self._limits.max_result_bytes}"
            raise InvalidRequest.of("outputs", message)
        for name, image in result.images:
            outputs.append(await put_image(self._blobs, claim, name, image))
        return outputs + inputs


async def _persistently(write: Callable[[], Awaitable[T]]) -> T:
    """Repeat what the database must be there for, for a while."""
    end = time.monotonic() + _PERSISTENCE_S
    while True:
        try:
            return await write()
        except ServiceUnavailable:
            if time.monotonic() > end:
                raise
            await asyncio.sleep(_AWAY_S / 2)


def _for_log(job: Job) -> dict[str, object]:
    """Return what a log may show of a job's error; messages of refused fields show their values."""
    error = job.error or {}
    if fields := error.get("fields"):
        return {"reason": error["code"], "fields": [each["field"] for each in fields]}
    return {"reason": error.get("code"), "error": error.get("message")}


async def _even_if_canceled(writing: Coroutine[Any, Any, None]) -> None:
    """Await what must not be left half done: all that is missing is to say that it is done."""
    task = asyncio.ensure_future(writing)
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        await task


async def put_image(blobs: BlobStore, claim: Claim, name: str, image: EncodedImage) -> Output:
    """Keep an image of a job, and return what is known of it.

    Each claim has its own files: a runner that was given up writes into none that anybody reads.
    """
    blob = f"{claim.job.id}/{claim.fence}_{name}.{image.format}"
    await blobs.put(blob, image.data)
    return Output(name, blob, f"image/{image.format}", len(image.data), image.width, image.height)


def error_report(error: AtelierError) -> Json:
    """Return an error as the synchronous routes report it."""
    violations = error.fields if isinstance(error, InvalidRequest) else ()
    return {
        "code": error.reason,
        "message": whole_text(error.message),
        "fields": [
            {"field": whole_text(each.field), "message": whole_text(each.message)} for each in violations
        ],
        **({} if error.retry_after_s is None else {"retry_after_s": error.retry_after_s}),
    }
