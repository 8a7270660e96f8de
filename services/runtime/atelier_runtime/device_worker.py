"""The one thread that works on the device.

Networks never run on the event loop: a servicer submits a function to the `DeviceWorker`, which runs one at
a time. Callers take turns; of one caller, first come, first served. The queue is bounded; what cannot be done
in time is refused at once. A request that needs several jobs reserves a slot in the queue first
(`DeviceWorker.reserve_slot`). Who may have a place in a full queue is decided by `places`.

Jobs that may run together (`Together`) are run in one call, as many as wait when the first of them is next.
Nothing waits for a batch to fill, and nothing else is overtaken for longer than the batch takes.

How long a new request would wait is the sum of what those before it are expected to take: each says so
when it is submitted, or counts as the mean of past ones (`queue_time`). See docs/decisions/fair-queues.md.
"""

from __future__ import annotations

import contextlib
import contextvars
import math
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from typing import Any, TypeVar

from atelier_runtime import metrics, tracing
from atelier_runtime.caller import caller
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
from atelier_runtime.fair_queue import FairQueue
from atelier_runtime.places import Place, Places
from atelier_runtime.queue_time import Request, Wait, cost_of_call, expected_wait, take_call
from atelier_runtime.turn import Turn

T = TypeVar("T")

_EWMA_WEIGHT = 0.3  # of the newest job in the running mean of job times


class DeviceWorker:
    """One thread for one device, behind a bounded queue."""

    def __init__(self, capacity: int, name: str = "device", *, slots: int | None = None) -> None:
        """`capacity`: requests that may wait while another runs; 0 accepts work only when idle.

        `slots`: requests of several jobs that are worked on at the same time, while others wait for their
        turn; None: half of those that there is room for.
        """
        self.capacity = capacity
        self._slots = slots or capacity // 2 + 1
        self._waiting: FairQueue[Job[Any]] = FairQueue()
        self._turns: FairQueue[Turn] = FairQueue()  # requests that wait for a slot
        self._begun = 0  # requests that have one
        self._undecided: list[Place] = []  # of unknown cost, see `hold_slot`
        self._places = Places()  # of all requests
        self._running: list[Job[Any]] = []
        self._started = 0.0
        self._batch = 1
        self._mean_seconds: float | None = None
        self._state = threading.Condition()
        self._draining = False
        self._closed = False
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)
        self._thread.start()

    @property
    def depth(self) -> int:
        """Requests in the queue."""
        return max(0, len(self._places) - self.running)

    @property
    def running(self) -> int:
        """Jobs running."""
        return len(self._running)

    def expected_wait(self, together: Together[Any] | None = None) -> Wait:
        """Return how long a new request of the current caller would wait.

        `together`: that of one that may join others.
        """
        with self._state:
            given_up = self._places.to_give_up(caller.get()) if self._is_full() else None
            return self._wait_of(caller.get(), together, given_up)

    def _wait_of(self, name: str, together: Together[Any] | None, given_up: Place | None) -> Wait:
        waiting: FairQueue[Request] = FairQueue()
        for job in self._waiting:
            if job.place is not None and job.place is not given_up:
                waiting.append(job.caller, Request(job.work, job.expected))
        for turn in self._turns:
            if turn.place is not given_up:
                waiting.append(turn.caller, Request())
        for place in self._undecided:
            waiting.append(place.caller, Request(is_certain=False))
        new = Request(together)
        waiting.append(name, new)
        return expected_wait(
            [job for job in self._running if job.place is not None],
            self._batch,
            time.monotonic() - self._started,
            self._begun,
            waiting,
            new,
            self._mean_seconds or 0.0,
        )

    def _is_full(self) -> bool:
        # The device takes one request, or those that run together.
        return len(self._places) - max(1, self.running) >= self.capacity

    def check_slot(
        self,
        deadline: float | None = None,
        expected: Sequence[Cost] = (),
        together: Together[Any] | None = None,
    ) -> None:
        """Raise what `submit` and `reserve_slot` would raise now."""
        with self._state:
            wait = self.expected_wait(together)
            retry_after = _retry_after_s(wait)
            if self._draining:
                raise ServiceDraining(retry_after_s=retry_after)
            if self._is_full() and self._places.to_give_up(caller.get()) is None:
                self._places.was_refused(caller.get(), retry_after)
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

    def _take_place(self, refuse: Callable[[AtelierError], None] | None = None) -> Place:
        """Give the current caller a place, if need be that of another; `check_slot` has raised nothing."""
        if self._is_full() and (given_up := self._places.to_give_up(caller.get())) is not None:
            assert given_up.refuse is not None, "it has not begun"
            retry_after = _retry_after_s(self._wait_of(given_up.caller, None, None))
            given_up.refuse(
                QueueFull("The queue is full; others have had less of it.", retry_after_s=retry_after)
            )
            self._places.was_refused(given_up.caller, retry_after, given_up.since)
        place = self._places.take(caller.get(), refuse)
        metrics.QUEUE_DEPTH.set(self.depth)
        return place

    def _leave_place(self, place: Place) -> None:
        self._places.leave(place)
        metrics.QUEUE_DEPTH.set(self.depth)

    @contextlib.contextmanager
    def hold_slot(self) -> Iterator[None]:
        """Hold a slot in the queue while the image of a request is decoded, which is then submitted.

        What is submitted next, before the event loop goes on, gets the slot. Whether a deadline can be met is
        checked then: before, its cost is unknown. Raises `ServiceDraining` or `QueueFull` at once.
        """
        with self._state:
            self.check_slot()
            place = self._take_place()
            self._undecided.append(place)
        try:
            yield
        finally:
            with self._state:
                self._undecided.remove(place)
                self._leave_place(place)

    @contextlib.asynccontextmanager
    async def reserve_slot(self, deadline: float | None = None) -> AsyncIterator[Callable[[], None]]:
        """Hold a slot in the queue for a request of several jobs, from before its decoding to its last job.

        Waits for its turn. Inside, submit with `has_slot=True`. Yields a function to call when the work is
        done, if the place in the queue is held longer: another's turn begins. Raises `ServiceDraining`,
        `QueueFull` or `DeadlineUnmeetable` at once, or `QueueFull` while it waits, if its place is another
        caller's by right (`Places`).
        """
        turn = Turn()
        with self._state:
            self.check_slot(deadline)
            turn.place = self._take_place(lambda error: self._refuse_turn(turn, error))
            self._turns.append(turn.caller, turn)
            self._begin_turns()
        try:
            await turn.begun
            _note_wait(time.monotonic() - turn.asked)
            beside, start = self._begun, time.monotonic()

            def work_is_done() -> None:
                if turn.has_slot:
                    self._update_mean((time.monotonic() - start) / beside)
                    self._end_turn(turn)

            yield work_is_done
            work_is_done()
        finally:
            with self._state:
                self._end_turn(turn)
                self._leave_place(turn.place)

    def _begin_turns(self) -> None:
        while self._begun < self._slots and (turn := self._turns.take()) is not None:
            self._begun += 1
            turn.has_slot, turn.place.refuse = True, None
            turn.end()

    def _refuse_turn(self, turn: Turn, error: AtelierError) -> None:
        if self._turns.remove(turn):
            self._leave_place(turn.place)
            turn.end(error)

    def _end_turn(self, turn: Turn) -> None:
        with self._state:
            self._turns.remove(turn)
            self._begun -= turn.has_slot
            turn.has_slot = False
            self._begin_turns()

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
        `QueueFull` or `DeadlineUnmeetable` at once, and fails with `QueueFull` while it waits, if its place
        is another caller's by right (`Places`).
        """
        job = Job(work, deadline, expected=expected)
        with self._state:
            if not has_slot:
                self.check_slot(deadline, expected, work if isinstance(work, Together) else None)
                job.place = self._take_place(job.fail)
            # Closures over the job would keep it, and its image, alive.
            job.withdraw, job.leave = self._withdraw, self._leave
            self._waiting.append(job.caller, job)
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
            for turn in list(self._turns):
                self._refuse_turn(turn, Cancelled())
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
            if not self._waiting.remove(job):
                self._running.remove(job)
            if (place := job.place) is None:
                return
            if succeeded:
                self._update_mean((time.monotonic() - self._started) / self._batch)
            self._leave_place(place)

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
            jobs = take_call(self._waiting)
            for place in (job.place for job in jobs):
                if place is not None:
                    place.refuse = None
            if not jobs:
                return []
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


def _retry_after_s(wait: Wait) -> float:
    return max(1.0, math.ceil(wait.seconds))


def _note_wait(seconds: float) -> None:
    """Note how long a job has waited; in its context."""
    metrics.QUEUE_WAIT.observe(seconds, tracing.exemplar())
    tracing.past_span("queue", seconds)


def _run_together(work: Together[Any], jobs: Sequence[Job[Any]]) -> None:
    with tracing.shared_span("batch", [tracing.span_of(job.context) for job in jobs]):
        work.function(jobs)
