"""The one thread that works on the device.

Networks never run on the event loop: a servicer submits a function to the `DeviceWorker`, which runs one at
a time, first come, first served. The queue is bounded; what cannot be done in time is refused at once.
A request that needs several jobs reserves a slot in the queue first (`DeviceWorker.reserve_slot`).

Jobs that may run together (`Together`) are run in one call, as many as wait when the first of them is next.
Nothing waits for a batch to fill, and nothing else is overtaken for longer than the batch takes.

How long a new request would wait is the sum of what those before it are expected to take: each says so
when it is submitted, or counts as the mean of past ones (`queue_time`).
"""

from __future__ import annotations

import contextlib
import contextvars
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

from atelier_runtime import metrics, tracing
from atelier_runtime.cost_model import FRESH_S, Cost
from atelier_runtime.device_job import Job, Together
from atelier_runtime.errors import (
    AtelierError,
    Cancelled,
    DeadlineUnmeetable,
    InternalError,
    QueueFull,
    ServiceDraining,
)
from atelier_runtime.queue_time import Wait, cost_of_call, expected_wait

T = TypeVar("T")

_EWMA_WEIGHT = 0.3  # of the newest job in the running mean of job times


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
        self._slots = 0  # requests that have reserved one
        self._undecided = 0  # of unknown cost, see `hold_slot`
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

    def expected_wait(self, together: Together[Any] | None = None) -> Wait:
        """Return how long a new request would wait; `together`: that of one that may join others."""
        with self._state:
            return expected_wait(
                [job for job in self._running if not job.has_slot],
                self._batch,
                time.monotonic() - self._started,
                [job for job in self._waiting if not job.has_slot],
                self._slots,
                self._undecided,
                self._mean_seconds or 0.0,
                together,
            )

    def check_slot(
        self,
        deadline: float | None = None,
        expected: Sequence[Cost] = (),
        together: Together[Any] | None = None,
    ) -> None:
        """Raise what `submit` and `reserve_slot` would raise now."""
        with self._state:
            wait = self.expected_wait(together)
            retry_after = max(1.0, math.ceil(wait.seconds))
            if self._draining:
                raise ServiceDraining(retry_after_s=retry_after)
            # The device takes one request, or those that run together.
            if self._requests - max(1, self.running) >= self.capacity:
                raise QueueFull(
                    f"The queue is full ({self.depth} waiting, capacity {self.capacity}).",
                    retry_after_s=retry_after,
                )
            if deadline is None:
                return
            seconds_left = deadline - time.monotonic()
            if wait.low_s >= seconds_left:
                message = f"The work would start in about {wait.seconds:.1f} s, after the deadline."
                raise DeadlineUnmeetable(message, retry_after_s=retry_after)
            own = cost_of_call(expected, wait.call, 0.0)
            if own.proven and wait.low_s + own.low_s >= seconds_left:
                seconds = wait.seconds + own.seconds
                message = f"The work would end in about {seconds:.1f} s, after the deadline."
                # Without a queue it would not fit either: not until what is known of it is out of date.
                late = wait.low_s + own.low_s - seconds_left if own.low_s < seconds_left else FRESH_S
                raise DeadlineUnmeetable(message, retry_after_s=max(1.0, math.ceil(late)))

    @contextlib.contextmanager
    def hold_slot(self) -> Iterator[None]:
        """Hold a slot in the queue while the image of a request is decoded, which is then submitted.

        What is submitted next, before the event loop goes on, gets the slot. Whether a deadline can be met is
        checked then: before, its cost is unknown. Raises `ServiceDraining` or `QueueFull` at once.
        """
        with self._state:
            self.check_slot()
            self._count(+1)
            self._undecided += 1
        try:
            yield
        finally:
            with self._state:
                self._count(-1)
                self._undecided -= 1

    @contextlib.contextmanager
    def reserve_slot(self, deadline: float | None = None) -> Iterator[Callable[[], None]]:
        """Hold a slot in the queue for a request of several jobs, from before its decoding to its last job.

        Inside, submit with `has_slot=True`. Yields a function to call when the work is done, if the slot is
        held longer, so that the mean time of a request does not include the rest. Raises `ServiceDraining`,
        `QueueFull` or `DeadlineUnmeetable` at once.
        """
        with self._state:
            self.check_slot(deadline)
            ahead = self._requests
            self._count(+1)
            self._slots += 1
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
                self._count(-1)
                self._slots -= 1

    def submit(
        self,
        work: Callable[[Job[T]], T] | Together[T],
        *,
        deadline: float | None = None,
        has_slot: bool = False,
        expected: Sequence[Cost] = (),
    ) -> Job[T]:
        """Queue a function, or a share in one that runs jobs together; call on the event loop.

        `expected`: what it is expected to take, for the wait of those behind it, see `Job`. A job whose
        request has a slot is always accepted. Any other is a request of its own: raises `ServiceDraining`,
        `QueueFull` or `DeadlineUnmeetable` at once.
        """
        job = Job(work, deadline, has_slot=has_slot, expected=expected)
        with self._state:
            if not has_slot:
                self.check_slot(deadline, expected, work if isinstance(work, Together) else None)
                self._count(+1)
            # Closures over the job would keep it, and its image, alive.
            job.withdraw, job.leave = self._withdraw, self._leave
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
                self._update_mean((time.monotonic() - self._started) / self._batch)
            self._count(0 if job.has_slot else -1)

    def _count(self, requests: int) -> None:
        self._requests += requests
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
            job.context.run(_note_wait, self._started - job.submitted)
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
        context = contextvars.Context() if others else first.context
        try:
            if isinstance(work, Together):
                context.run(_run_together, work, jobs)
            else:
                first.succeed(context.run(work, first))
        except BaseException as error:
            for job in jobs:
                if not job.ended:
                    job.fail(error)
        for job in jobs:
            if not job.ended:
                job.fail(InternalError())
        expected = cost_of_call(first.expected, len(jobs), 0.0).seconds
        if expected > 0 and all(job.succeeded for job in jobs):
            metrics.EXPECTED_RATIO.observe((time.monotonic() - self._started) / expected)


def _note_wait(seconds: float) -> None:
    """Note how long a job has waited; in its context."""
    metrics.QUEUE_WAIT.observe(seconds, tracing.exemplar())
    tracing.past_span("queue", seconds)


def _run_together(work: Together[Any], jobs: Sequence[Job[Any]]) -> None:
    with tracing.shared_span("batch", [tracing.span_of(job.context) for job in jobs]):
        work.function(jobs)
