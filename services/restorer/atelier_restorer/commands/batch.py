"""The images of `restore`: a few at a time, each reported when it is done."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Awaitable
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from atelier_restorer.client import Restored
from atelier_restorer.commands import options
from atelier_restorer.commands.console import Console
from atelier_restorer.commands.files import Plan, Task
from atelier_restorer.commands.paths import PlanError, reason, shown
from atelier_restorer.commands.record import Entry, Record
from atelier_restorer.commands.writing import read_image, write_whole
from atelier_restorer.request import RestoreRequest
from atelier_runtime.errors import AtelierError, InvalidRequest, ServiceUnavailable

_DISK_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EROFS}
"""After these, no other image could be written either."""

_OF_EVERY_IMAGE = {"identity", "min_similarity"}
"""Fields whose refusal depends on what the restorer has loaded, so that it holds for every image."""


_DONE_BEFORE = "was restored by an earlier run"


class Restorer(Protocol):
    """Restores images: a `Client` or a `JobClient`."""

    async def restore(self, data: bytes, request: RestoreRequest) -> Restored:
        """Restore the faces of an image file. Raises `AtelierError`."""


class Batch:
    """The images of a plan, and what became of them."""

    def __init__(
        self,
        plan: Plan,
        request: RestoreRequest,
        console: Console,
        concurrency: int,
        record: Record,
    ) -> None:
        """`record`: where it is written what is done; what it says of earlier runs is skipped."""
        self._plan = plan
        self._request = request
        self._console = console
        self._concurrency = min(concurrency, len(plan.tasks))
        self._record = record
        self._results: dict[int, dict[str, Any]] = {}
        self._done_before: set[int] = set()
        self._failed = 0
        self._stopped: str | None = None
        self._warned: set[str] = set()
        self._waiting = enumerate(plan.tasks)
        self._workers: set[asyncio.Task[None]] = set()
        self._writing: set[asyncio.Task[None]] = set()
        self.started = False

    async def run(self, client: Restorer) -> None:
        """Restore all images. A failed one is reported; a lost restorer or a full disk ends the batch.

        If canceled, what is being written is written and reported first.
        """
        self.started = True
        self._record.begin()
        with self._console.progress(len(self._plan.tasks)):
            self._workers = {asyncio.create_task(self._work(client)) for _ in range(self._concurrency)}
            try:
                done, _ = await asyncio.wait(self._workers, return_when=asyncio.FIRST_EXCEPTION)
            finally:
                for worker in self._workers:
                    worker.cancel()
                await asyncio.gather(*self._workers, *self._writing, return_exceptions=True)
        for worker in done:
            if not worker.cancelled():
                worker.result()

    def stop(self, why: str) -> None:
        """Attempt no further image; `why` goes into the report."""
        if self._stopped is None:
            self._stopped = why
            for worker in self._workers - {_current_task()}:
                worker.cancel()

    @property
    def stopped(self) -> str | None:
        """Why not all images were attempted."""
        return self._stopped

    def left(self) -> list[Task]:
        """Return the images that were not attempted, or not to the end."""
        known = self._results.keys() | self._done_before
        return [task for number, task in enumerate(self._plan.tasks) if number not in known]

    def report(self) -> dict[str, Any]:
        """Return the report of the image, or for a folder of all its images, sorted by name."""
        results = [self._results[number] for number in sorted(self._results)]
        left = [str(task.source) for task in self.left()]
        if not self._plan.is_folder:
            return results[0] if results else {"input": left[0], "output": None, "error": self._why_left()}
        reasons = {str(path): skip.reason for path, skip in self._plan.skipped.items()}
        done = [str(self._plan.tasks[number].source) for number in sorted(self._done_before)]
        reasons |= dict.fromkeys(done, _DONE_BEFORE) | dict.fromkeys(left, self._why_left())
        return {
            "pictures": results,
            "skipped": [{"input": path, "reason": why} for path, why in reasons.items()],
        }

    def finish(self, *, named: int | None) -> int:
        """Print a summary and at most `named` of the images that were not attempted; return the exit code."""
        total, tried, before = len(self._plan.tasks), len(self._results), len(self._done_before)
        untried = total - tried - before
        for task in self.left()[:named]:
            self._console.message(f"{shown(task.source)}: {self._why_left()}")
        skipped = len(self._plan.skipped)
        if total > 1 or untried or skipped:
            summary = f"{tried - self._failed} of {total} images written, {self._failed} failed"
            summary += f", {before} restored before" if before else ""
            summary += f", {untried} not attempted" if untried else ""
            self._console.message(summary + (f", {skipped} skipped" if skipped else ""))
        missed = any(skip.is_failure for skip in self._plan.skipped.values())
        return int(self._failed > 0 or untried > 0 or missed or self._console.has_lost_results)

    def _why_left(self) -> str:
        return f"not attempted: {self._stopped or 'the run ended'}"

    async def _work(self, client: Restorer) -> None:
        for number, task in self._waiting:
            await self._attempt(number, task, self._restore(client, number, task))
            if self._stopped is not None:
                return

    async def _restore(self, client: Restorer, number: int, task: Task) -> None:
        data = await asyncio.to_thread(read_image, task.source)
        entry = await asyncio.to_thread(self._record.entry, task, data)
        if self._record.has(entry):
            self._done_before.add(number)
            self._console.done(f"{shown(task.source)}: {_DONE_BEFORE}")
            return
        restored = await client.restore(data, replace(self._request, output_format=task.format))
        writing = asyncio.create_task(self._attempt(number, task, self._write(number, task, restored, entry)))
        self._writing.add(writing)
        await asyncio.shield(writing)  # once begun, it ends: what is written is reported
        self._writing.discard(writing)

    async def _attempt(self, number: int, task: Task, step: Awaitable[None]) -> None:
        """Carry out a step; if it fails, that is the image's result."""
        try:
            await step
        except (AtelierError, OSError, PlanError) as error:
            self._failed += 1
            text = _explain(error, task)
            self._results[number] = _paths(task) | {"output": None, "error": text}
            self._console.result(self._results[number])
            self._console.done(f"{shown(task.source)}: {text}", is_failure=True)
            if isinstance(error, InvalidRequest) and _OF_EVERY_IMAGE & {v.field for v in error.fields}:
                self.stop("the restorer cannot tell what is asked of likeness")
            elif isinstance(error, ServiceUnavailable):
                self.stop("the restorer is not available")
            elif isinstance(error, OSError) and error.errno in _DISK_FULL:
                self.stop(reason(error))

    async def _write(self, number: int, task: Task, restored: Restored, entry: Entry) -> None:
        report = await asyncio.to_thread(self._write_files, task, restored, entry)
        for warning in report["warnings"]:
            if warning not in self._warned:  # once is enough for a folder of JPEGs
                self._warned.add(warning)
                self._console.message(f"{shown(task.source)}: {warning}")
        self._results[number] = _paths(task) | report
        self._console.result(self._results[number])
        done = sum(face["restored"] for face in report["faces"])
        why = f" ({report['face_restoration_reason']})" if report["face_restoration_reason"] else ""
        count = len(report["faces"])
        self._console.done(f"{shown(task.source)}: {done} of {count} faces restored{why}")

    def _write_files(self, task: Task, restored: Restored, entry: Entry) -> dict[str, Any]:
        """Write everything of an image, itself last; return its report."""
        report = restored.report
        files = [task.target]
        self._plan.mark_results()
        if task.mask is not None and restored.mask is not None:
            write_whole(task.mask, restored.mask)
            files.append(task.mask)
            report = {"mask": str(task.mask)} | report
        if task.crops is not None:
            crops = []
            for index, before, after in restored.crops:
                paths = {when: task.crops.path(index, when) for when in ("before", "after")}
                write_whole(Path(paths["before"]), task.crops.signed(before))
                write_whole(Path(paths["after"]), task.crops.signed(after))
                crops.append({"face": index, **paths})
                files += map(Path, paths.values())
            report = report | {"crops": crops}
        write_whole(task.target, restored.picture)
        self._record.add(entry, files)
        return report


def _paths(task: Task) -> dict[str, Any]:
    return {"input": str(task.source), "output": str(task.target)}


def _explain(error: AtelierError | OSError | PlanError, task: Task) -> str:
    if isinstance(error, AtelierError):
        return options.explain(error)
    if isinstance(error, PlanError) or error.filename is None:
        return str(error)
    if error.filename == str(task.source):
        return f"cannot be read: {reason(error)}"
    return f"{shown(error.filename)} cannot be written: {reason(error)}"


def _current_task() -> asyncio.Task[Any] | None:
    try:
        return asyncio.current_task()
    except RuntimeError:  # outside the loop: interrupted while it was not running
        return None
