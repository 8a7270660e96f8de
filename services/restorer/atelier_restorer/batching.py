"""One queue of aligned faces for all requests: those that are waiting go through the network together.

Nothing waits for a batch to fill. Faces accumulate while the device is busy; when it is free, the next batch
takes those that are there, of each caller in turn. A face that fails, is canceled or expires never affects
the others.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from atelier_runtime import log as runtime_log
from atelier_runtime import metrics, tracing
from atelier_runtime.caller import caller
from atelier_runtime.device import is_out_of_memory
from atelier_runtime.device_job import Job
from atelier_runtime.device_worker import DeviceWorker
from atelier_runtime.errors import AtelierError, DeadlineExceeded, InternalError
from atelier_runtime.fair_queue import FairQueue
from atelier_runtime.images import RgbArray
from atelier_runtime.metrics import StageReport, StageTimer
from atelier_runtime.outcomes import SkipReason

if TYPE_CHECKING:
    from atelier_runtime.tracing_otlp import OpenSpan

logger = logging.getLogger(__name__)

STAGE = "restore"

RestoredCrop = RgbArray | SkipReason
"""A restored face, uint8 RGB (512, 512, 3), or why there is none."""


class FaceNetwork(Protocol):
    """Restores a batch; see `FaceRestorer` and `SingleRestorer`."""

    def restore(
        self, crops: RgbArray, decodes: Sequence[tuple[int, float]], *, max_batch: int
    ) -> list[RestoredCrop]:
        """Encode each crop (N, 512, 512, 3) once; return a face for each (index of the crop, fidelity).

        Padding must not exceed `max_batch` faces.
        """


@dataclass(frozen=True)
class RestoredFace:
    """The results for one face, one per requested fidelity, and the cost of the batch that it ran in."""

    crops: tuple[RestoredCrop, ...]
    batch: StageReport


@dataclass(eq=False)
class _QueuedFace:
    crop: RgbArray
    fidelities: tuple[float, ...]
    deadline: float | None
    future: asyncio.Future[RestoredFace]
    request_id: str | None = field(default_factory=runtime_log.request_id.get)
    caller: str = field(default_factory=caller.get)
    span: OpenSpan | None = field(default_factory=tracing.current)
    queued: float = field(default_factory=time.monotonic)


class FaceBatcher:
    """Runs one network on the faces of all requests, in batches of at most `max_batch` decoded faces.

    If the device runs out of memory, a batch is halved, and later ones stay that small. A single face's
    fidelities stay together, however many there are, for a single encoding; they are halved only if needed.
    """

    def __init__(
        self,
        worker: DeviceWorker,
        network: FaceNetwork,
        *,
        max_batch: int,
        new_timer: Callable[[], StageTimer] = StageTimer,
        free_memory: Callable[[], None] = lambda: None,
    ) -> None:
        """`new_timer` times a batch; `free_memory` is called after a batch has failed."""
        self.max_batch = max_batch
        self._worker = worker
        self._network = network
        self._new_timer = new_timer
        self._free_memory = free_memory
        self._waiting: FairQueue[_QueuedFace] = FairQueue()
        self._lock = threading.Lock()
        self._scheduled: set[str] = set()  # callers for whose faces a job waits for the device

    async def restore(
        self,
        crops: Sequence[RgbArray],
        fidelities: Sequence[Sequence[float]],
        deadline: float | None = None,
    ) -> list[RestoredFace]:
        """Restore aligned faces (512, 512, 3), each at one or several fidelities.

        The caller has a slot (`DeviceWorker.reserve_slot`). If it is canceled, its faces leave the queue.
        Raises `DeadlineExceeded` (`deadline` is on the clock of `time.monotonic`) or `Cancelled`.
        """
        loop = asyncio.get_running_loop()
        faces = [
            _QueuedFace(crop, tuple(several), deadline, loop.create_future())
            for crop, several in zip(crops, fidelities, strict=True)
        ]
        with self._lock:
            for face in faces:
                self._waiting.append(face.caller, face)
        self._schedule()
        try:
            return await asyncio.gather(*(face.future for face in faces))
        finally:
            self._withdraw(faces)

    def _schedule(self) -> None:
        """Queue a job for each caller whose faces wait, behind its own jobs; on the event loop.

        Whichever comes first takes faces of all callers; those for whom it leaves none do nothing.
        """
        with self._lock:
            waiting = dict.fromkeys(face.caller for face in self._waiting)
            names = [name for name in waiting if name not in self._scheduled]
            self._scheduled.update(names)
        loop = asyncio.get_running_loop()
        for name in names:
            # Of the context only the caller: a batch belongs to several requests.
            job = contextvars.Context().run(self._submit, name, loop)
            watch = loop.create_task(self._watch(job))
            watch.add_done_callback(lambda done: done.exception())

    def _submit(self, name: str, loop: asyncio.AbstractEventLoop) -> Job[None]:
        caller.set(name)
        return self._worker.submit(lambda job: self._run(job, loop), has_slot=True)

    async def _watch(self, job: Job[None]) -> None:
        """Fail the queued faces if the worker stops without having run their batch."""
        try:
            await job.result()
        except (AtelierError, asyncio.CancelledError) as error:
            with self._lock:
                self._scheduled.clear()
                remaining, self._waiting = list(self._waiting), FairQueue()
            for face in remaining:
                if not face.future.done():
                    face.future.set_exception(error)

    def _withdraw(self, faces: Sequence[_QueuedFace]) -> None:
        with self._lock:
            for face in faces:
                self._waiting.remove(face)
        for face in faces:
            if not face.future.cancel():
                face.future.exception()  # retrieved, or asyncio would log that it never was

    # --- on the device thread ---

    def _run(self, job: Job[None], loop: asyncio.AbstractEventLoop) -> None:
        faces = self._take(job.caller)
        _post(loop, self._schedule)
        now = time.monotonic()
        for face in (f for f in faces if f.deadline is not None and now >= f.deadline):
            _post(loop, _fail, face.future, DeadlineExceeded())
        faces = [face for face in faces if face.deadline is None or now < face.deadline]
        if not faces:
            return
        for span, queued in {face.span: face.queued for face in faces if face.span is not None}.items():
            tracing.past_span("queue", now - queued, of=span)
        try:
            with tracing.shared_span("batch", [face.span for face in faces]):
                timer = self._new_timer()
                with timer.stage(STAGE):
                    results = self._restore(faces)
        except Exception:  # a bug in our code, not a failure of the network: no caller may be left waiting
            logger.exception("a batch of faces was lost", extra={"faces": len(faces)})
            for face in faces:
                _post(loop, _fail, face.future, InternalError())
            return
        for face, crops in zip(faces, results, strict=True):
            _post(loop, _succeed, face.future, RestoredFace(crops, timer.reports[0]))

    def _take(self, scheduled: str) -> list[_QueuedFace]:
        """Take the next batch off the queue: as many faces as fit, at least one.

        `scheduled`: the caller whose job this is.
        """
        with self._lock:
            self._scheduled.discard(scheduled)
            faces: list[_QueuedFace] = []

            def fits(face: _QueuedFace) -> bool:
                taken = sum(len(each.fidelities) for each in faces)
                return not faces or taken + len(face.fidelities) <= self.max_batch

            while face := self._waiting.take(fits):
                faces.append(face)
        return faces

    def _restore(self, faces: list[_QueuedFace]) -> list[tuple[RestoredCrop, ...]]:
        decodes = [(number, w) for number, face in enumerate(faces) for w in face.fidelities]
        crops = np.stack([face.crop for face in faces])
        try:
            results = iter(self._network.restore(crops, decodes, max_batch=self.max_batch))
        except Exception as error:  # whatever a network raises is this batch's failure, not the service's
            out_of_memory = is_out_of_memory(error)
            logger.exception("restoring a batch of faces failed", extra={"faces": len(faces)})
        else:
            metrics.BATCH_SIZE.observe(len(faces))
            return [tuple(next(results) for _ in face.fidelities) for face in faces]
        self._free_memory()  # outside the handler, whose traceback keeps the tensors alive
        if out_of_memory and len(decodes) > 1:
            self.max_batch = max(1, min(self.max_batch, len(decodes) // 2))
            if len(faces) == 1:
                return [self._restore_halves(faces[0])]
            middle = len(faces) // 2
            return self._restore(faces[:middle]) + self._restore(faces[middle:])
        if len(faces) == 1:
            reason = SkipReason.OUT_OF_MEMORY if out_of_memory else SkipReason.FAILED
            logger.error(
                "a face could not be restored", extra={"reason": reason, "request_id": faces[0].request_id}
            )
            return [(reason,) * len(faces[0].fidelities)]
        # A single face may have failed the whole batch: retry each by itself.
        return [result for face in faces for result in self._restore([face])]

    def _restore_halves(self, face: _QueuedFace) -> tuple[RestoredCrop, ...]:
        middle = len(face.fidelities) // 2
        halves = (face.fidelities[:middle], face.fidelities[middle:])
        return tuple(crop for half in halves for crop in self._restore([replace(face, fidelities=half)])[0])


def _post(loop: asyncio.AbstractEventLoop, function: Callable[..., Any], *arguments: Any) -> None:
    with contextlib.suppress(RuntimeError):  # the loop is closed: nobody is waiting any longer
        loop.call_soon_threadsafe(function, *arguments)


def _succeed(future: asyncio.Future[RestoredFace], face: RestoredFace) -> None:
    if not future.done():
        future.set_result(face)


def _fail(future: asyncio.Future[RestoredFace], error: AtelierError) -> None:
    if not future.done():
        future.set_exception(error)
