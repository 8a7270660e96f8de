"""Decoding and encoding in child processes, which can be killed.

A file from outside can keep its decoder busy for minutes or fill the memory, and a thread in C code cannot be
stopped. A process can: when its caller is cancelled, when time or memory run out, or when the server ends. So
an abandoned image occupies nothing, and a decoder that crashes takes one image with it, not the service.
See docs/decisions/image-workers.md.
"""

from __future__ import annotations

import asyncio
import io
import logging
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from contextvars import copy_context
from functools import partial
from typing import Any, Literal, TypeVar, get_args

from atelier_runtime import metrics
from atelier_runtime.errors import (
    InternalError,
    InvalidRequest,
    OutOfMemory,
    make_error,
)
from atelier_runtime.images import shared
from atelier_runtime.images.codec import InputImage, decode_input
from atelier_runtime.images.picture import Picture
from atelier_runtime.images.slots import Slots, Work
from atelier_runtime.processors import usable_processors
from atelier_runtime.settings import ServiceSettings

logger = logging.getLogger(__name__)

T = TypeVar("T")

_ENCODE_SECONDS = 600.0
_GRACE_SECONDS = 5.0  # beyond the worker's own limit, which a stopped process does not notice
_MOST_WORKERS = 8
_WORKER_BYTES = 2**29
_STDERR_BYTES = 2**16
_LOGGED_BYTES = 1000
_BYTES_PER_PIXEL = 40
"""Decoding noise of 16 bits with alpha, and turning it upright, peaks at 32; most files take 3 to 17."""


class ImageWorkers:
    """Runs functions on images in child processes, at most `size` at a time; the others wait.

    Encoding goes first, and may have one more process while decoding occupies all of them. A worker starts
    when it is first needed. Use it in one event loop and `close` it.
    """

    def __init__(self, size: int, *, decode_seconds: float, max_pixels: int) -> None:
        """Remember the limits; nothing is started.

        Args:
            size: Processes.
            decode_seconds: Longest time that decoding one image may take.
            max_pixels: The largest image; memory of a worker is limited accordingly.
        """
        self.size = size
        self.running = 0
        self.waiting = 0
        self._decode_seconds = decode_seconds
        self._memory_bytes = _WORKER_BYTES + _BYTES_PER_PIXEL * max_pixels
        self._max_pixels = max_pixels
        self._slots = Slots(size)
        self._threads = ThreadPoolExecutor(size + 1, "image-worker")  # each waits for one worker
        self._idle: list[_Worker] = []
        self._workers: set[_Worker] = set()
        self._closed = False
        metrics.IMAGE_WORKERS.set(size)
        for cause in _CAUSES:
            metrics.IMAGE_WORKERS_LOST.labels(cause)

    async def decode(
        self, image: InputImage, stage: AbstractContextManager[None], field: str = "image"
    ) -> Picture:
        """Decode the image of a request, 16 bits included; see `decode_input`.

        `stage` times the work, without the wait for a worker. Raises `InvalidRequest` naming `field`, also if
        decoding takes too long or too much memory.
        """
        decode = partial(decode_input, image, max_pixels=self._max_pixels, field=field, deep=True)
        if image.format == "raw":  # nothing to decode: a view of the bytes
            with stage:
                return decode()
        try:
            return await self._run("decode", decode, self._decode_seconds, stage)
        except _WorkerLost as lost:
            if lost.cause not in ("time", "crashed"):
                raise InternalError(f"An image worker ended while decoding: {lost}.") from None
            logger.warning("an image could not be decoded", extra={"error": str(lost)})
            problem = "cannot be decoded: the decoder crashed"
            if lost.cause == "time":
                problem = f"takes more than {self._decode_seconds:g} s to decode, the limit"
        except OutOfMemory:
            problem = f"takes more than {self._memory_bytes // 2**20} MiB of memory to decode, the limit"
        raise InvalidRequest.of(field, problem)

    async def encode(self, encode: Callable[[], T], stage: AbstractContextManager[None]) -> T:
        """Run a function that encodes; it must be picklable, such as a `partial` of a module's function.

        `stage` times the work, without the wait for a worker. Raises `OutOfMemory`, or `InternalError` if the
        worker was lost.
        """
        try:
            return await self._run("encode", encode, _ENCODE_SECONDS, stage)
        except _WorkerLost as lost:
            raise InternalError(f"An image worker ended while encoding: {lost}.") from None

    def close(self) -> None:
        """End every worker; calls that are still running fail."""
        self._closed = True
        for worker in list(self._workers):
            worker.kill()
        for worker in self._idle:
            worker.wait()
        self._threads.shutdown(wait=False)

    async def _run(
        self, work: Work, function: Callable[[], T], seconds: float, stage: AbstractContextManager[None]
    ) -> T:
        self._count(waiting=+1)
        try:
            await self._slots.acquire(work)
        finally:
            self._count(waiting=-1)
        worker = self._idle.pop() if self._idle else self._new_worker()
        loop = asyncio.get_running_loop()
        context = copy_context()  # the request's ID, for log lines
        call = loop.run_in_executor(self._threads, context.run, worker.call, function, seconds, stage)
        self._count(running=+1)
        call.add_done_callback(lambda ended: self._take_back(work, worker, ended))
        try:
            async with asyncio.timeout(seconds + _GRACE_SECONDS):
                outcome = await asyncio.shield(call)
        except (asyncio.CancelledError, TimeoutError) as error:
            if not call.done():  # or the worker may be another call's already
                worker.kill()  # its thread then ends at once and frees the slot
            if isinstance(error, TimeoutError):
                raise _WorkerLost(-signal.SIGALRM) from None
            raise
        if isinstance(outcome, shared.Failure):
            if outcome.traceback:
                logger.error("an image worker failed", extra={"traceback": outcome.traceback})
            raise make_error(outcome.reason, outcome.message, fields=outcome.fields)
        result: T = outcome
        return result

    def _new_worker(self) -> _Worker:
        worker = _Worker(self._memory_bytes)
        self._workers.add(worker)
        if self._closed:
            worker.kill()
        return worker

    def _take_back(self, work: Work, worker: _Worker, ended: asyncio.Future[Any]) -> None:
        self._count(running=-1)
        self._slots.release(work)
        error = None if ended.cancelled() else ended.exception()  # retrieved: the caller may be gone
        if worker.killed or error is not None:
            cause: Cause = "cancelled"
            if not worker.killed:
                cause = error.cause if isinstance(error, _WorkerLost) else "failed"
            metrics.IMAGE_WORKERS_LOST.labels(cause).inc()
            self._workers.discard(worker)
            worker.kill()
            worker.wait()
        else:
            self._idle.append(worker)

    def _count(self, *, running: int = 0, waiting: int = 0) -> None:
        self.running += running
        self.waiting += waiting
        metrics.IMAGE_WORKERS_BUSY.set(self.running)
        metrics.IMAGE_QUEUE_DEPTH.set(self.waiting)


Cause = Literal["cancelled", "time", "crashed", "killed", "failed"]
_CAUSES: tuple[Cause, ...] = get_args(Cause)

_CRASHES = frozenset({signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGILL, signal.SIGFPE})


class _WorkerLost(Exception):
    """A worker ended during a call.

    `cause`: "time" or "crashed" if the function is to blame; "killed" by somebody else; "failed" to start.
    """

    def __init__(self, return_code: int) -> None:
        self.cause: Cause = "failed"
        if return_code < 0:
            number = -return_code
            self.cause = "time" if number == signal.SIGALRM else "crashed" if number in _CRASHES else "killed"
        super().__init__(f"exit code {return_code}")


def image_workers_of(settings: ServiceSettings) -> ImageWorkers:
    """Return the workers that the settings specify."""
    size = settings.image_workers or min(_MOST_WORKERS, usable_processors())
    return ImageWorkers(size, decode_seconds=settings.decode_seconds, max_pixels=settings.max_pixels)


class _Worker:
    """A child process; started by its first call, which like every call blocks a thread."""

    def __init__(self, memory_bytes: int) -> None:
        self.killed = False
        self._memory_bytes = memory_bytes
        self._process: subprocess.Popen[bytes] | None = None
        self._connection: socket.socket
        self._stderr: io.FileIO

    def call(
        self, function: Callable[[], object], seconds: float, stage: AbstractContextManager[None]
    ) -> Any:
        """Return what the function returns in the child, or its `Failure`. Raises `_WorkerLost`."""
        with stage:
            try:
                return self._call_once(function, seconds)
            except _WorkerLost as lost:
                if lost.cause != "killed" or self.killed:
                    raise
                # Not by us, nor by what it did: perhaps to free memory, or long before, while it was idle.
                metrics.IMAGE_WORKERS_LOST.labels(lost.cause).inc()
                self._process = None
                return self._call_once(function, seconds)

    def _call_once(self, function: Callable[[], object], seconds: float) -> Any:
        process = self._start()
        try:
            shared.send(self._connection, (function, seconds))
            outcome = shared.receive(self._connection)
        except (EOFError, OSError):
            process.kill()
            self._connection.close()
            return_code = process.wait()
            self._log_stderr()
            self._stderr.close()
            raise _WorkerLost(return_code) from None
        self._log_stderr()
        return outcome

    def kill(self) -> None:
        """End the process, in whatever state it is. Safe to repeat, from any thread."""
        self.killed = True  # before it looks for the process, which `_start` does in the reverse order
        if self._process is not None:
            self._process.kill()

    def wait(self) -> None:
        """Wait for a killed process to end. Takes about a millisecond, unless it is still running a call."""
        if self._process is not None:
            self._process.wait()
            self._connection.close()
            self._stderr.close()

    def _start(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            self._connection, theirs = socket.socketpair()
            with theirs:
                # -P: not a module from the current folder, which may be full of files from anyone
                command = [sys.executable, "-P", "-m", "atelier_runtime.images.worker"]
                command += [str(theirs.fileno()), str(self._memory_bytes)]
                # OpenBLAS, in numpy and OpenCV, reserves 90 MB for each CPU of the machine.
                environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
                self._stderr, writer = _non_blocking_pipe()
                with writer:
                    self._process = subprocess.Popen(
                        command, pass_fds=[theirs.fileno()], env=environment, stderr=writer
                    )
        if self.killed:
            self._process.kill()
        return self._process

    def _log_stderr(self) -> None:
        """Log what decoders have written to standard error, where a client could fill the log with it."""
        written = self._stderr.read(_STDERR_BYTES)
        while written and self._stderr.read(_STDERR_BYTES):
            pass
        if written:
            text = written[:_LOGGED_BYTES].decode("utf-8", "replace").strip()
            logger.warning("an image worker wrote to standard error", extra={"text": text})


def _non_blocking_pipe() -> tuple[io.FileIO, io.FileIO]:
    """Return both ends of a pipe; what no longer fits into it is lost, and nobody waits."""
    reader, writer = os.pipe()
    os.set_blocking(reader, False)
    os.set_blocking(writer, False)
    return io.FileIO(reader, "rb"), io.FileIO(writer, "wb")
