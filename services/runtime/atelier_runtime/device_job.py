"""Jobs for the device thread: what is to be done, and how whoever waits for it hears of it."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import threading
import time
from collections.abc import AsyncIterator, Callable, Hashable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from atelier_runtime.caller import caller
from atelier_runtime.cost_model import Cost
from atelier_runtime.device import is_out_of_memory
from atelier_runtime.errors import AtelierError, Cancelled, DeadlineExceeded, InternalError, OutOfMemory
from atelier_runtime.places import Place

T = TypeVar("T")


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
        expected: Sequence[Cost] = (),
    ) -> None:
        """`deadline`: on the clock of `time.monotonic`.

        `expected`: the costs of a call that does it alone, of one for two such jobs, ...; empty: unknown.
        """
        self.deadline = deadline
        self.expected = expected
        self.caller = caller.get()
        self.place: Place | None = None  # of a request of this job alone; None if its request has a slot
        self.work: Callable[[Job[T]], T] | Together[T] | None = work
        self.item: Any = work.item if isinstance(work, Together) else None
        self.context = contextvars.copy_context()
        self._loop = asyncio.get_running_loop()
        self._events: asyncio.Queue[Any] = asyncio.Queue()
        self._future: Future[T] = Future()
        self._cancelled = threading.Event()
        self.submitted = time.monotonic()
        self.withdraw: Callable[[Job[T]], None] = lambda job: None
        self.leave: Callable[[Job[T], bool], None] = lambda job, succeeded: None

    # --- on the event loop ---

    def cancel(self) -> None:
        """Remove the job from the queue, or make its next `check` raise. Safe to repeat."""
        self._cancelled.set()
        self.withdraw(self)

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
        self.leave(self, True)
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
        self.leave(self, False)
        self.work = self.item = None
        self._future.set_exception(error)
        self.emit(_END)

    @property
    def ended(self) -> bool:
        """Whether the job has succeeded or failed."""
        return self._future.done()

    @property
    def succeeded(self) -> bool:
        """Whether the job has ended with a result."""
        return self.ended and self._future.exception() is None


_END = object()
