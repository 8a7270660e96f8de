"""SIGTERM and SIGHUP end a command as Ctrl-C does: what was done is reported."""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Awaitable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TypeVar

T = TypeVar("T")

_SIGNALS = (signal.SIGTERM, signal.SIGHUP)


class Terminated(BaseException):
    """A signal asked this process to end; like `KeyboardInterrupt` it is no `Exception`."""

    def __init__(self, number: int) -> None:
        self.number = number
        super().__init__(signal.Signals(number).name)


class _Work:
    """The task that a signal cancels. Signals belong to the process, and so does this."""

    task: asyncio.Task[object] | None = None
    received: int | None = None


@contextmanager
def terminated_by_signals() -> Iterator[None]:
    """Raise `Terminated` when SIGTERM or SIGHUP arrives; one that is ignored, as under nohup, stays so.

    Further ones change nothing until the process ends: a second, which many a service manager sends, must
    disturb neither the report nor the interpreter's own cleaning up.
    Does nothing outside the main thread, where Python handles no signals.
    """
    previous = {}
    _Work.received = None
    if threading.current_thread() is threading.main_thread():
        for number in _SIGNALS:
            if signal.getsignal(number) is not signal.SIG_IGN:
                previous[number] = signal.signal(number, _receive)
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler if _Work.received is None else signal.SIG_IGN)


async def cancelled_by_signals(work: Awaitable[T]) -> T:
    """Await `work` in the current task, which the first signal cancels; further ones change nothing.

    Raises `Terminated` once the work has cleaned up.
    """
    if _Work.received is not None:  # and what ran at that moment, such as a finalizer, swallowed it
        raise Terminated(_Work.received)
    _Work.task = asyncio.current_task()
    try:
        return await work
    except asyncio.CancelledError:
        if _Work.received is not None:
            raise Terminated(_Work.received) from None
        raise
    finally:
        _Work.task = None


def _receive(number: int, frame: FrameType | None) -> None:
    if _Work.received is not None:
        return
    _Work.received = number
    if _Work.task is None:
        raise Terminated(number)
    _Work.task.get_loop().call_soon_threadsafe(_Work.task.cancel)
