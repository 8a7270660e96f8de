"""Carries out jobs: takes them from the store, a few at a time, until this gateway ends.

While a job runs, its lease is renewed and its progress written, and it is looked whether somebody wants it
canceled. Whoever finds that the job is no longer theirs lets go of it without a word.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from atelier_gateway.core.values import Progress
from atelier_gateway.jobs.blobs import BlobStore
from atelier_gateway.jobs.drawings import PREFIX, StoredDrawings
from atelier_gateway.jobs.store import JobStore, LeaseLost
from atelier_gateway.jobs.values import MAX_ATTEMPTS, Claim, Job, JobType, Json, Output
from atelier_gateway.jobs.work import Accepted, JobWork, Result, Surroundings
from atelier_runtime.errors import (
    DEFAULT_RETRY_AFTER_S,
    AtelierError,
    ErrorReason,
    InternalError,
    InvalidRequest,
)
from atelier_runtime.images import EncodedImage
from atelier_runtime.log import request_id

logger = logging.getLogger(__name__)

_IDLE_S = 0.5
"""After which it is looked again whether there is a job, in case nobody has said so."""
_WRITE_S = 0.25
"""Progress is written at most so often."""
_RENEW_S = 5.0
"""A lease is renewed at least so often."""

_WAITED_FOR = frozenset(
    {
        ErrorReason.QUEUE_FULL,
        ErrorReason.SERVICE_NOT_READY,
        ErrorReason.SERVICE_DRAINING,
        ErrorReason.SERVICE_UNAVAILABLE,
        ErrorReason.DEADLINE_UNMEETABLE,
    }
)
"""A service is full or away: the job waits, and this was no attempt."""

_TRIED_AGAIN = frozenset({ErrorReason.INTERNAL, ErrorReason.BAD_IMAGE, ErrorReason.OUT_OF_MEMORY})
"""The services' fault: another attempt may help."""


@dataclass
class _Running:
    """A job that is being carried out here."""

    claim: Claim
    task: asyncio.Task[None]
    progress: Progress | None = None
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    cancelled: bool = False


class JobRunner:
    """Carries out up to `at_once` jobs at a time."""

    def __init__(
        self,
        store: JobStore,
        blobs: BlobStore,
        works: Mapping[JobType, JobWork],
        *,
        name: str,
        at_once: int,
        deadline_s: float,
        max_pixels: int,
        on_end: Callable[[Job], None] = lambda job: None,
    ) -> None:
        """`name`: of this process, unlike that of any other. `deadline_s`: for one attempt."""
        self._store = store
        self._blobs = blobs
        self._works = works
        self._name = name
        self._at_once = at_once
        self._deadline_s = deadline_s
        self._max_pixels = max_pixels
        self._on_end = on_end
        self._running: dict[str, _Running] = {}
        self._wake = asyncio.Event()
        self._stopping = False

    def wake(self) -> None:
        """Say that there may be a job."""
        self._wake.set()

    def cancel(self, job_id: str) -> None:
        """Stop a job if it runs here; its row says already that it is to be canceled."""
        if running := self._running.get(job_id):
            running.cancelled = True
            running.task.cancel()

    async def run(self) -> None:
        """Carry out jobs until the task is canceled; then hand back what is not done."""
        try:
            while True:
                if len(self._running) >= self._at_once or not await self._begin_one():
                    await self._wait()
        finally:
            self._stopping = True
            tasks = [running.task for running in self._running.values()]
            for task in tasks:
                task.cancel()
            if tasks:
                await asyncio.wait(tasks)

    async def _wait(self) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._wake.wait(), _IDLE_S)
        self._wake.clear()

    async def _begin_one(self) -> bool:
        try:
            claim = await self._store.claim(self._name)
        except Exception:  # the database is away: the jobs in it are not
            logger.exception("jobs cannot be read")
            return False
        if claim is None:
            return False
        task = asyncio.create_task(self._carry_out(claim), name=claim.job.id)
        self._running[claim.job.id] = _Running(claim, task)
        task.add_done_callback(lambda _: self._ended(claim.job.id))
        return True

    def _ended(self, job_id: str) -> None:
        self._running.pop(job_id, None)
        self._wake.set()

    async def _carry_out(self, claim: Claim) -> None:
        running = self._running[claim.job.id]
        request_id.set(claim.job.id)
        heart = asyncio.create_task(self._report(running))
        try:
            try:
                if claim.job.cancel_requested:
                    raise asyncio.CancelledError
                result = await self._work(running)
            except asyncio.CancelledError:
                await asyncio.shield(self._hand_back(running))
                return
            except AtelierError as error:
                await self._failed(claim, error)
                return
            except Exception:
                logger.exception("a job failed")
                await self._failed(claim, InternalError())
                return
            outputs = await self._store_images(claim, result)
            self._on_end(await self._store.complete(claim, result.report, outputs))
        except LeaseLost:
            logger.warning("a job's lease was lost", extra={"job": claim.job.id})
        finally:
            heart.cancel()

    async def _work(self, running: _Running) -> Result:
        job = running.claim.job
        files = {name: await self._blobs.get(blob) for name, blob in job.input["files"].items()}

        def on_progress(progress: Progress) -> None:
            running.progress = progress
            running.changed.set()

        drawings = StoredDrawings(
            self._store, self._blobs, running.claim, max_pixels=self._max_pixels
        )
        surroundings = Surroundings(time.monotonic() + self._deadline_s, on_progress, drawings)
        return await self._works[job.type].run(Accepted(job.input["fields"], files), surroundings)

    async def _report(self, running: _Running) -> None:
        """Renew the lease and write the progress, until the job has ended or is no longer ours."""
        while True:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(running.changed.wait(), _RENEW_S)
            running.changed.clear()
            progress = running.progress
            values = (
                {}
                if progress is None
                else {"stage": progress.stage, "step": progress.step, "steps": progress.total}
            )
            try:
                if await self._store.report(running.claim, **values):
                    self.cancel(running.claim.job.id)
                    return
            except LeaseLost:
                running.task.cancel()
                return
            except Exception:
                logger.exception("a job's progress cannot be written")
            await asyncio.sleep(_WRITE_S)

    async def _hand_back(self, running: _Running) -> None:
        with contextlib.suppress(LeaseLost):
            if running.cancelled or running.claim.job.cancel_requested:
                self._on_end(await self._store.cancelled(running.claim))
            else:
                await self._store.release(running.claim)

    async def _failed(self, claim: Claim, error: AtelierError) -> None:
        if error.reason in _WAITED_FOR:
            delay = DEFAULT_RETRY_AFTER_S if error.retry_after_s is None else error.retry_after_s
            await self._store.release(claim, after_ms=int(1000 * delay))
        elif error.reason in _TRIED_AGAIN and claim.job.attempts < MAX_ATTEMPTS:
            await self._store.release(claim, after_ms=1000 * claim.job.attempts, counts=True)
        else:
            self._on_end(await self._store.fail(claim, error_report(error)))

    async def _store_images(self, claim: Claim, result: Result) -> list[Output]:
        kept = await self._store.get(claim.job.id)
        outputs = [] if kept is None else [each for each in kept.outputs if each.name.startswith(PREFIX)]
        for name, image in result.images:
            outputs.append(await put_image(self._blobs, claim.job.id, name, image))
        return outputs


async def put_image(blobs: BlobStore, job_id: str, name: str, image: EncodedImage) -> Output:
    """Keep an image of a job, and return what is known of it."""
    blob = f"{job_id}/{name}.{image.format}"
    await blobs.put(blob, image.data)
    return Output(name, blob, f"image/{image.format}", len(image.data), image.width, image.height)


def error_report(error: AtelierError) -> Json:
    """Return an error as the synchronous routes report it."""
    violations = error.violations if isinstance(error, InvalidRequest) else ()
    return {
        "code": error.reason,
        "message": error.message,
        "fields": [{"field": each.field, "message": each.message} for each in violations],
    }

