"""The device and the one thread that works on it.

Networks never run on the event loop: a servicer submits a function to the `DeviceWorker`, which runs one at
a time, first come, first served. The queue is bounded; what cannot be done in time is refused at once.
A request that needs several jobs reserves a slot in the queue first (`DeviceWorker.reserve_slot`).
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import functools
import math
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import Future
from typing import Any, Generic, TypeVar

import torch

from atelier_runtime import metrics
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
from atelier_runtime.settings import StartupError

T = TypeVar("T")

_EWMA_WEIGHT = 0.3  # of the newest job in the running mean of job times


def choose_device(setting: str) -> torch.device:
    """Return the device of a setting: `auto` is the first CUDA device if there is one, else the CPU."""
    if setting == "auto":
        setting = "cuda" if torch.cuda.is_available() else "cpu"
    device = torch.device(setting)
    if device.type == "cuda":
        count = torch.cuda.device_count()
        device = torch.device("cuda", device.index or 0)
        if device.index >= count:
            raise StartupError(f"DEVICE={setting}: this machine has {count} CUDA devices")
    return device


def choose_dtype(setting: str, device: torch.device) -> torch.dtype:
    """Return the dtype of a setting.

    `auto` is bfloat16 where the device computes in it: a GPU of compute capability 8.0 (Ampere) or later, a
    CPU with AMX or AVX512-BF16. Elsewhere it is float16 on a GPU and float32 on a CPU.
    """
    if setting == "auto":
        if computes_in_bfloat16(device):
            return torch.bfloat16
        return torch.float16 if device.type == "cuda" else torch.float32
    return {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}[setting]


def computes_in_bfloat16(device: torch.device) -> bool:
    """Return whether a device has instructions for bfloat16; others emulate it, many times slower."""
    if device.type == "cuda":
        with torch.cuda.device(device):
            return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


@functools.cache  # asked for by every status call, on the event loop
def device_name(device: torch.device) -> str:
    """Return the name of the GPU or CPU."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    try:
        with open("/proc/cpuinfo", encoding="ascii", errors="replace") as file:
            for line in file:
                if line.startswith("model name"):
                    return line.split(":", 1)[1].strip()
    except OSError:
        pass  # not Linux: a generic name will do
    return "CPU"


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an exception means that the device ran out of memory."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError)


class Job(Generic[T]):
    """A function that waits for, or runs on, the device thread.

    The function gets the job itself and calls `check` often: between denoising steps, between batches.
    """

    def __init__(self, function: Callable[[Job[T]], T], deadline: float | None, *, has_slot: bool) -> None:
        """`deadline`: on the clock of `time.monotonic`. `has_slot`: its request has reserved a slot."""
        self.deadline = deadline
        self.has_slot = has_slot
        self.succeeded = False
        self._function = function
        self._context = contextvars.copy_context()
        self._loop = asyncio.get_running_loop()
        self._events: asyncio.Queue[Any] = asyncio.Queue()
        self._future: Future[T] = Future()
        self._cancelled = threading.Event()
        self._submitted = time.monotonic()
        self._remove: Callable[[Job[T]], None] = lambda job: None

    # --- on the event loop ---

    def cancel(self) -> None:
        """Remove the job from the queue, or make its next `check` raise. Safe to repeat."""
        self._cancelled.set()
        self._remove(self)

    async def events(self) -> AsyncIterator[Any]:
        """Yield what the function emits until it ends. Stopping early does not cancel; see `cancel`."""
        while (event := await self._events.get()) is not _END:
            yield event

    async def result(self) -> T:
        """Wait for the function's result or exception. If the waiting task is canceled, so is the job."""
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
        self._post(event)

    def _post(self, event: Any) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: there is no reader left
            self._loop.call_soon_threadsafe(self._events.put_nowait, event)

    def _run(self) -> Callable[[], None]:
        """Run the function and return a callable that delivers the outcome.

        The receiver may submit again at once, so the worker delivers only when it is free again.
        """
        metrics.QUEUE_WAIT.observe(time.monotonic() - self._submitted)
        try:
            self.check()
            result = self._context.run(self._function, self)
        except BaseException as error:
            if is_out_of_memory(error):
                error = OutOfMemory()
            if isinstance(error, AtelierError) and not isinstance(error, InternalError):
                # An expected error needs no traceback; its frames would keep the failed work's tensors alive.
                error.__traceback__ = error.__context__ = error.__cause__ = None
            failure = error
            return lambda: self._finish(failure)
        self.succeeded = True
        return lambda: self._succeed(result)

    def _succeed(self, result: T) -> None:
        self._future.set_result(result)
        self._post(_END)

    def _finish(self, error: BaseException) -> None:
        if not self._future.done():
            self._future.set_exception(error)
        self._post(_END)


_END = object()


class DeviceWorker:
    """One thread for one device, behind a bounded queue."""

    def __init__(self, capacity: int, name: str = "device") -> None:
        """`capacity`: requests that may wait while another runs; 0 accepts work only when idle."""
        self.capacity = capacity
        self._waiting: deque[Job[Any]] = deque()
        self._running: Job[Any] | None = None
        self._requests = 0
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
        """Jobs running: 0 or 1."""
        return int(self._running is not None)

    def estimated_wait_s(self) -> float:
        """Return the estimated wait of a new request, from the mean time of past ones; 0 if unknown."""
        return self._requests * (self._mean_seconds or 0.0)

    def check_slot(self, deadline: float | None = None) -> None:
        """Raise what `submit` and `reserve_slot` would raise now."""
        with self._state:
            wait = self.estimated_wait_s()
            retry_after = max(1.0, math.ceil(wait))
            if self._draining:
                raise ServiceDraining(retry_after_s=retry_after)
            if self._requests > self.capacity:
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

    def submit(
        self, function: Callable[[Job[T]], T], *, deadline: float | None = None, has_slot: bool = False
    ) -> Job[T]:
        """Queue a function; call on the event loop.

        A job whose request has a slot is always accepted. Any other is a request of its own: raises
        `ServiceDraining`, `QueueFull` or `DeadlineUnmeetable` at once.
        """
        job = Job(function, deadline, has_slot=has_slot)
        with self._state:
            if not has_slot:
                self.check_slot(deadline)
                self._count(+1)
            job._remove = self._withdraw  # a closure over the job would keep it, and its image, alive
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
            jobs = [*self._waiting, *([self._running] if self._running else [])]
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
            if job not in self._waiting:
                return
            self._waiting.remove(job)
            self._leave(job)
        job._finish(Cancelled())

    def _count(self, change: int) -> None:
        self._requests += change
        metrics.QUEUE_DEPTH.set(self.depth)

    def _leave(self, job: Job[Any]) -> None:
        self._count(0 if job.has_slot else -1)

    def _update_mean(self, seconds: float) -> None:
        with self._state:
            mean = self._mean_seconds
            self._mean_seconds = seconds if mean is None else mean + _EWMA_WEIGHT * (seconds - mean)

    def _work(self) -> None:
        while True:
            with self._state:
                self._state.wait_for(lambda: self._waiting or self._closed)
                if not self._waiting:
                    return
                self._running = job = self._waiting.popleft()
                metrics.QUEUE_DEPTH.set(self.depth)
            start = time.monotonic()
            deliver = job._run()
            if job.succeeded and not job.has_slot:
                self._update_mean(time.monotonic() - start)
            with self._state:
                self._running = None
                self._leave(job)
            deliver()
            del job, deliver  # or the last request's image would stay in memory until the next
