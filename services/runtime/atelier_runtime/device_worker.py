"""The one thread that works on the device.

Networks never run on the event loop: a servicer submits a function to the `DeviceWorker`, which runs one at
a time, first come, first served. The queue is bounded; what cannot be done in time is refused at once.
A request that needs several jobs reserves a slot in the queue first (`DeviceWorker.reserve_slot`).

Jobs that may run together (`Together`) are run in one call, as many as wait when the first of them is next.
Nothing waits for a batch to fill, and nothing else is overtaken for longer than the batch takes.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import math
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Hashable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from atelier_runtime import metrics
from atelier_runtime.device import is_out_of_memory
from atelier_runtime.errors import (
    AtelierError,
    Cancelled,
    DeadlineExceeded,
    DeadlineUnmeetable,
    InternalError,
    OutOfMemory,
    QueueFull,
    ServiceDraining,
)

T = TypeVar("T")

_EWMA_WEIGHT = 0.3  # of the newest job in the running mean of job times


@dataclass(frozen=True)
class Together(Generic[T]):
    """A share in a call that does several jobs: of those that wait with equal keys, up to `limit`.

    `function` gets the jobs, each with its `item`, and ends each of them, by `Job.succeed` or `Job.fail`, as
    soon as it can.
    """

    key: Hashable
    limit: int = field(compare=False)
    function: Callable[[Sequence[Job[T]]], None] = field(compare=False)
    item: Any = field(compare=False)


class Job(Generic[T]):
    """Work that waits for, or runs on, the device thread.

    Whoever does the work calls `check` often: between denoising steps, between batches.
    """

    def __init__(
        self,
        work: Callable[[Job[T]], T] | Together[T],
        deadline: float | None,
        *,
        has_slot: bool,
        weight: int = 1,
    ) -> None:
        """`deadline`: on the clock of `time.monotonic`. `has_slot`: its request has reserved a slot.

        `weight`: how many times as long as others of its kind it takes.
        """
        self.deadline = deadline
        self.has_slot = has_slot
        self.weight = weight
        self.work: Callable[[Job[T]], T] | Together[T] | None = work
        self.item: Any = work.item if isinstance(work, Together) else None
        self._context = contextvars.copy_context()
        self._loop = asyncio.get_running_loop()
        self._events: asyncio.Queue[Any] = asyncio.Queue()
        self._future: Future[T] = Future()
        self._cancelled = threading.Event()
        self._submitted = time.monotonic()
        self._remove: Callable[[Job[T]], None] = lambda job: None
        self._leave: Callable[[Job[T], bool], None] = lambda job, succeeded: None

    # --- on the event loop ---

    def cancel(self) -> None:
        """Remove the job from the queue, or make its next `check` raise. Safe to repeat."""
        self._cancelled.set()
        self._remove(self)

    async def events(self) -> AsyncIterator[Any]:
        """Yield what the work emits until it ends. Stopping early does not cancel; see `cancel`."""
        while (event := await self._events.get()) is not _END:
            yield event

    async def result(self) -> T:
        """Wait for the result or exception. If the waiting task is canceled, so is the job."""
        future = asyncio.wrap_future(self._future)
        try:
            # Shielded: canceling the wait must not mark the future as done while the thread still works.
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            self.cancel()
            future.add_done_callback(lambda done: done.exception())  # nobody is waiting for it
            raise

    # --- on the device thread ---

    def check(self) -> None:
        """Raise `Cancelled` or `DeadlineExceeded` if nobody is waiting for the result any longer."""
        if self._cancelled.is_set():
            raise Cancelled
        if self.deadline is not None and time.monotonic() >= self.deadline:
            raise DeadlineExceeded

    def emit(self, event: Any) -> None:
        """Send an event to the reader of `events`."""
        with contextlib.suppress(RuntimeError):  # the loop is closed: there is no reader left
            self._loop.call_soon_threadsafe(self._events.put_nowait, event)

    def succeed(self, result: T) -> None:
        """End the job, which then no longer counts as running, and deliver its result."""
        self._leave(self, True)
        self.work = self.item = None  # they may lead back to the job
        self._future.set_result(result)
        self.emit(_END)

    def fail(self, error: BaseException) -> None:
        """End the job with an error; out of memory is reported as `OutOfMemory`."""
        if is_out_of_memory(error):
            error = OutOfMemory()
        if isinstance(error, AtelierError) and not isinstance(error, InternalError):
            # An expected error needs no traceback; its frames would keep the failed work's tensors alive.
            error.__traceback__ = error.__context__ = error.__cause__ = None
        self._leave(self, False)
        self.work = self.item = None
        self._future.set_exception(error)
        self.emit(_END)

    @property
    def ended(self) -> bool:
        """Whether the job has succeeded or failed."""
        return self._future.done()


_END = object()


class DeviceWorker:
    """One thread for one device, behind a bounded queue."""

    def __init__(self, capacity: int, name: str = "device") -> None:
        """`capacity`: requests that may wait while another runs; 0 accepts work only when idle."""
        self.capacity = capacity
        self._waiting: deque[Job[Any]] = deque()
        self._running: list[Job[Any]] = []
        self._started = 0.0
        self._batch = 1
        self._requests = 0
        self._weight = 0  # of all requests together
        self._mean_seconds: float | None = None
        self._state = threading.Condition()
        self._draining = False
        self._closed = False
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)
        self._thread.start()

    @property
    def depth(self) -> int:
        """Requests in the queue."""
        return max(0, self._requests - self.running)

    @property
    def running(self) -> int:
        """Jobs running."""
        return len(self._running)

    def estimated_wait_s(self) -> float:
        """Return the estimated wait of a new request, from the mean time of past ones; 0 if unknown.

        The mean is of requests of weight 1.
        """
        return self._weight * (self._mean_seconds or 0.0)

    def check_slot(self, deadline: float | None = None) -> None:
        """Raise what `submit` and `reserve_slot` would raise now."""
        with self._state:
            wait = self.estimated_wait_s()
            retry_after = max(1.0, math.ceil(wait))
            if self._draining:
                raise ServiceDraining(retry_after_s=retry_after)
            # The device takes one request, or those that run together.
            if self._requests - max(1, self.running) >= self.capacity:
                raise QueueFull(
                    f"The queue is full ({self.depth} waiting, capacity {self.capacity}).",
                    retry_after_s=retry_after,
                )
            if deadline is not None and time.monotonic() + wait >= deadline:
                raise DeadlineUnmeetable(
                    f"The work would start in about {wait:.1f} s, after the deadline.",
                    retry_after_s=retry_after,
                )

    @contextlib.contextmanager
    def hold_slot(self, deadline: float | None = None) -> Iterator[None]:
        """Hold a slot in the queue while the image of a request is decoded, which is then submitted.

        What is submitted next, before the event loop goes on, gets the slot. Raises like `reserve_slot`.
        """
        with self._state:
            self.check_slot(deadline)
            self._count(+1, +1)
        try:
            yield
        finally:
            with self._state:
                self._count(-1, -1)

    @contextlib.contextmanager
    def reserve_slot(self, deadline: float | None = None) -> Iterator[Callable[[], None]]:
        """Hold a slot in the queue for a request of several jobs, from before its decoding to its last job.

        Inside, submit with `has_slot=True`. Yields a function to call when the work is done, if the slot is
        held longer, so that the mean time of a request does not include the rest. Raises `ServiceDraining`,
        `QueueFull` or `DeadlineUnmeetable` at once.
        """
        with self._state:
            self.check_slot(deadline)
            ahead = self._weight
            self._count(+1, +1)
        start = time.monotonic()
        is_measured = False

        def measure() -> None:
            nonlocal is_measured
            if not is_measured:
                is_measured = True
                self._update_mean((time.monotonic() - start) / (ahead + 1))

        try:
            yield measure
            measure()
        finally:
            with self._state:
                self._count(-1, -1)

    def submit(
        self,
        work: Callable[[Job[T]], T] | Together[T],
        *,
        deadline: float | None = None,
        has_slot: bool = False,
        weight: int = 1,
    ) -> Job[T]:
        """Queue a function, or a share in one that runs jobs together; call on the event loop.

        `weight`: how many times as long as others it will take, for the estimated wait of those behind it.
        A job whose request has a slot is always accepted. Any other is a request of its own: raises
        `ServiceDraining`, `QueueFull` or `DeadlineUnmeetable` at once.
        """
        job = Job(work, deadline, has_slot=has_slot, weight=weight)
        with self._state:
            if not has_slot:
                self.check_slot(deadline)
                self._count(+1, weight)
            # Closures over the job would keep it, and its image, alive.
            job._remove, job._leave = self._withdraw, self._leave
            self._waiting.append(job)
            self._state.notify_all()
        return job

    def forget_job_times(self) -> None:
        """Reset the mean of job times: loading says nothing about how long a request takes."""
        with self._state:
            self._mean_seconds = None

    def stop_accepting(self) -> None:
        """Refuse new jobs from now on; accepted ones continue."""
        with self._state:
            self._draining = True

    def cancel_all(self) -> None:
        """Cancel every job, waiting or running."""
        with self._state:
            jobs = [*self._waiting, *self._running]
        for job in jobs:
            job.cancel()

    def close(self) -> None:
        """Cancel everything and stop the thread."""
        self.stop_accepting()
        self.cancel_all()
        with self._state:
            self._closed = True
            self._state.notify_all()
        self._thread.join(timeout=30)

    def _withdraw(self, job: Job[Any]) -> None:
        with self._state:
            if job in self._waiting:
                job.fail(Cancelled())

    def _leave(self, job: Job[Any], succeeded: bool) -> None:
        """Take a job off the queue or the device, before its outcome is delivered.

        In that order, since the receiver may submit again at once.
        """
        with self._state:
            if job in self._waiting:
                self._waiting.remove(job)
            else:
                self._running.remove(job)
            if succeeded and not job.has_slot:
                self._update_mean((time.monotonic() - self._started) / self._batch / job.weight)
            if job.has_slot:
                self._count(0, 0)
            else:
                self._count(-1, -job.weight)

    def _count(self, requests: int, weight: int) -> None:
        self._requests += requests
        self._weight += weight
        metrics.QUEUE_DEPTH.set(self.depth)

    def _update_mean(self, seconds: float) -> None:
        with self._state:
            mean = self._mean_seconds
            self._mean_seconds = seconds if mean is None else mean + _EWMA_WEIGHT * (seconds - mean)

    def _work(self) -> None:
        while jobs := self._take():
            self._run(jobs)
            del jobs  # or the last request's image would stay in memory until the next

    def _take(self) -> list[Job[Any]]:
        """Wait for the next job and take it, with those that run together with it; none once closed."""
        with self._state:
            self._state.wait_for(lambda: self._waiting or self._closed)
            if not self._waiting:
                return []
            jobs = [self._waiting[0]]
            if isinstance(together := jobs[0].work, Together):
                others = [job for job in self._waiting if job.work == together]
                jobs = others[: together.limit]
            for job in jobs:
                self._waiting.remove(job)
            self._running = list(jobs)
            self._batch = len(jobs)
            self._started = time.monotonic()
            metrics.QUEUE_DEPTH.set(self.depth)
        return jobs

    def _run(self, jobs: list[Job[Any]]) -> None:
        for job in list(jobs):
            metrics.QUEUE_WAIT.observe(self._started - job._submitted)
            try:
                job.check()
            except AtelierError as error:
                job.fail(error)
                jobs.remove(job)
        if not jobs:
            return
        [first, *others] = jobs
        work = first.work
        assert work is not None, "these have not ended"
        # What belongs to several requests is logged under the ID of none.
        context = contextvars.Context() if others else first._context
        try:
            if isinstance(work, Together):
                context.run(work.function, jobs)
            else:
                first.succeed(context.run(work, first))
        except BaseException as error:
            for job in jobs:
                if not job.ended:
                    job.fail(error)
        for job in jobs:
            if not job.ended:
                job.fail(InternalError())
