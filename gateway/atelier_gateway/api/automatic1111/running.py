"""The requests that run, by their callers: what `progress` reports and `interrupt` ends."""

from __future__ import annotations

import asyncio
import base64
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Any, TypeVar

from atelier_gateway.core.estimates import Estimate
from atelier_gateway.core.shares import Shares
from atelier_gateway.core.values import Progress
from atelier_runtime.errors import AtelierError, Cancelled

T = TypeVar("T")
Estimating = Callable[[], Coroutine[Any, Any, Estimate]]

_BEGUN = 0.01
"""What a request that runs has done at least: clients take 0 for none that runs."""


class Running:
    """A request that runs."""

    def __init__(self, job: str, count: int, estimate: Estimating | None) -> None:
        """`job`: what it does, such as txt2img. `count`: pictures. `estimate`: asks what it will take."""
        self.job = job
        self.count = count
        self.began = time.monotonic()
        self.timestamp = timestamp()
        self.interrupted = False
        self._finished = 0
        self._estimate = estimate
        self._shares = Shares()
        self._expected_s: float | None = None
        self._share = 0.0
        self._last: Progress | None = None
        self._previews: tuple[bytes, ...] = ()
        self._task: asyncio.Task[Any] | None = None

    def on_progress(self, progress: Progress) -> None:
        """Note a step."""
        self._last = progress
        self._previews = progress.previews or self._previews

    def on_finished(self) -> None:
        """Note that another picture is finished, in a request that has no progress of its own."""
        self._finished += 1

    async def prepare(self) -> None:
        """Find out what it will take, the first time that somebody asks how far it is."""
        estimate, self._estimate = self._estimate, None
        if estimate is None:
            return
        try:
            found = await estimate()
        except AtelierError:  # drawing it says more of that
            return
        self._shares, self._expected_s = Shares.of(found), found.cost.seconds

    def interrupt(self) -> None:
        """End it, and with it the services' work."""
        self.interrupted = True
        if self._task is not None:
            self._task.cancel()

    async def interruptible(self, work: Coroutine[Any, Any, T]) -> T | None:
        """Await work; None if it was interrupted."""
        task = asyncio.create_task(work)
        self._task = task
        if self.interrupted:  # before there was any work
            task.cancel()
        try:
            await asyncio.wait({task})
        finally:
            if not task.done():  # the client is gone, or the time is over
                task.cancel()
                await asyncio.wait({task})
        if self.interrupted and (task.cancelled() or isinstance(task.exception(), Cancelled)):
            return None
        return task.result()

    def report(self, *, with_image: bool) -> dict[str, Any]:
        """Return what `progress` answers. Encodes a preview of some kilobytes."""
        last = self._last
        done = self._shares.share(last) if last else self._finished / self.count
        self._share = max(self._share, done)
        share = max(_BEGUN, self._share)
        elapsed = time.monotonic() - self.began
        left = elapsed / self._share - elapsed if self._share else 0.0
        if self._expected_s is not None:
            left = max(0.0, (1 - share) * self._expected_s)
        image = base64.b64encode(self._previews[0]).decode() if with_image and self._previews else None
        return {
            "progress": share,
            "eta_relative": left,
            "state": {
                **_IDLE_STATE,
                "interrupted": self.interrupted,
                "job": self.job,
                "job_count": self.count,
                "job_no": self._finished,
                "job_timestamp": self.timestamp,
                "sampling_step": last.step if last else 0,
                "sampling_steps": last.total if last else 0,
            },
            "current_image": image,
            "textinfo": last.stage if last else None,
        }


_IDLE_STATE: dict[str, Any] = {
    "skipped": False,
    "interrupted": False,
    "stopping_generation": False,
    "job": "",
    "job_count": 0,
    "job_timestamp": "0",
    "job_no": 0,
    "sampling_step": 0,
    "sampling_steps": 0,
}

IDLE: dict[str, Any] = {
    "progress": 0.0,
    "eta_relative": 0.0,
    "state": _IDLE_STATE,
    "current_image": None,
    "textinfo": None,
}
"""What `progress` answers a caller that has no request running."""


class Registry:
    """All requests that run."""

    def __init__(self) -> None:
        self._running: dict[str, list[Running]] = {}

    @contextmanager
    def begun(
        self, caller: str, job: str, count: int, estimate: Estimating | None = None
    ) -> Iterator[Running]:
        """Keep a request of a caller inside."""
        running = Running(job, count, estimate)
        self._running.setdefault(caller, []).append(running)
        try:
            yield running
        finally:
            own = self._running[caller]
            own.remove(running)
            if not own:
                del self._running[caller]

    async def report(self, caller: str, *, with_image: bool) -> dict[str, Any]:
        """Return what `progress` answers a caller: of its oldest request, if there are several."""
        own = self._running.get(caller)
        if not own:
            return IDLE
        oldest = own[0]
        await oldest.prepare()
        return oldest.report(with_image=with_image)

    def interrupt(self, caller: str) -> None:
        """End all requests of a caller."""
        for running in self._running.get(caller, ()):
            running.interrupt()


def timestamp() -> str:
    """Return the local time as these clients know it, such as 20261129204300."""
    return datetime.now().strftime("%Y%m%d%H%M%S")
