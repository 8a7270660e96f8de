"""`atelier-restorer restore`: restore the faces of a picture, or of a folder of pictures.

One JSON object a picture goes to standard output as soon as the picture is written; everything else that is
said goes to standard error.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from atelier_restorer.client import Client, Restored
from atelier_restorer.commands import options
from atelier_restorer.commands.asking import ask
from atelier_restorer.commands.files import Plan, PlanError, Task, check_writable, make_plan, write_whole
from atelier_restorer.request import MaskKind, RestoreRequest
from atelier_runtime.errors import AtelierError, ServiceUnavailable

_AT_ONCE_HERE = 2  # while the networks work on one picture, another is decoded or encoded
_AT_ONCE_AT_A_SERVER = 4


def run(chosen: argparse.Namespace) -> int:
    """Restore what was asked for; return the exit code, which is 0 if every picture was written."""
    options.check_where(chosen)
    request = options.restore_request(chosen)
    plan = make_plan(chosen.source, chosen.target, chosen.save_mask, chosen.format)
    if chosen.report is not None:
        _check_report(chosen.report, plan)
    for path in plan.skipped:
        print(f"{path}: skipped, it is no PNG, JPEG or WebP file", file=sys.stderr)
    if not plan.tasks:
        print(f"{chosen.source}: no PNG, JPEG or WebP file is in it", file=sys.stderr)
        return 1
    roles, required = networks(request)
    if plan.is_folder and request.faces:
        raise PlanError("--faces names the faces of one picture, and IN is a folder")
    work = _Work(
        plan, request, chosen.save_crops, _AT_ONCE_HERE if chosen.server is None else _AT_ONCE_AT_A_SERVER
    )
    try:
        ask(chosen, work.do, roles=roles, required=required)
    finally:
        if chosen.report is not None and work.started:
            write_whole(chosen.report, f"{json.dumps(work.report(), indent=1)}\n".encode())
    return work.finish()


class _Work:
    """The pictures on their way: a few at once, each told of when it is done."""

    def __init__(self, plan: Plan, request: RestoreRequest, crops: Path | None, at_once: int) -> None:
        """`crops`: the folder for crops, if they are wanted."""
        self._plan = plan
        self._request = request
        self._crops = crops
        self._at_once = min(at_once, len(plan.tasks))
        self._results: dict[int, dict[str, Any]] = {}
        self._failed = 0
        self._unreachable = False
        self._warned: set[str] = set()
        self._waiting = enumerate(plan.tasks)
        self._on_terminal = sys.stderr.isatty()
        self.started = False

    async def do(self, client: Client) -> None:
        """Restore all pictures. A broken one is told and passed over; a restorer that is away ends it."""
        self.started = True
        await asyncio.gather(*(self._take_turns(client) for _ in range(self._at_once)))

    def report(self) -> dict[str, Any]:
        """Return the report: of the picture, or for a folder of its pictures in the order of their names."""
        results = [self._results[number] for number in sorted(self._results)]
        if not self._plan.is_folder and results:
            return results[0]
        return {"pictures": results, "skipped": [str(path) for path in self._plan.skipped]}

    def finish(self) -> int:
        """Say how it went; return the exit code."""
        total, tried = len(self._plan.tasks), len(self._results)
        if self._on_terminal:
            print(file=sys.stderr)
        if total > 1:
            left = f", {total - tried} not tried" if tried < total else ""
            summary = f"{tried - self._failed} of {total} pictures written, {self._failed} failed{left}"
            print(summary, file=sys.stderr)
        return int(self._failed > 0 or tried < total)

    async def _take_turns(self, client: Client) -> None:
        for number, task in self._waiting:
            if self._unreachable:
                return
            paths = {"input": str(task.source), "output": str(task.target)}
            try:
                report, summary = await self._restore(client, task)
            except (AtelierError, OSError) as error:
                self._unreachable = self._unreachable or isinstance(error, ServiceUnavailable)
                text = options.explain(error) if isinstance(error, AtelierError) else str(error)
                self._failed += 1
                self._results[number] = paths | {"output": None, "error": text}
                self._tell_line(f"{task.source}: {text}")
                summary = "failed"
            else:
                self._results[number] = paths | report
            self._print(self._results[number])
            self._tell_progress(f"{task.source}: {summary}")

    async def _restore(self, client: Client, task: Task) -> tuple[dict[str, Any], str]:
        data = await asyncio.to_thread(task.source.read_bytes)
        restored = await client.restore(data, replace(self._request, output_format=task.format))
        report = restored.report
        for warning in report["warnings"]:
            if warning not in self._warned:  # a folder of JPEGs needs to hear of losses once
                self._warned.add(warning)
                self._tell_line(f"{task.source}: {warning}")
        if task.mask is not None and restored.mask is not None:
            await asyncio.to_thread(write_whole, task.mask, restored.mask)
            report = {"mask": str(task.mask)} | report
        if self._crops is not None:
            report = report | {"crops": await asyncio.to_thread(self._write_crops, task, restored)}
        await asyncio.to_thread(write_whole, task.target, restored.picture)
        done = sum(face["restored"] for face in report["faces"])
        why = f" ({report['face_restoration_reason']})" if report["face_restoration_reason"] else ""
        return report, f"{done} of {len(report['faces'])} faces restored{why}"

    def _write_crops(self, task: Task, restored: Restored) -> list[dict[str, Any]]:
        """Write NAME_face0_before.png and the like; return what was written."""
        assert self._crops is not None, "the caller has looked"
        folder = self._crops / task.name.parent
        written = []
        for index, before, after in restored.crops:
            paths = [folder / f"{task.name.name}_face{index}_{when}.png" for when in ("before", "after")]
            write_whole(paths[0], before)
            write_whole(paths[1], after)
            written.append({"face": index, "before": str(paths[0]), "after": str(paths[1])})
        return written

    def _print(self, result: dict[str, Any]) -> None:
        """Print to standard output, which may be the terminal that the progress is on."""
        if self._on_terminal and sys.stdout.isatty():
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)
        print(json.dumps(result), flush=True)

    def _tell_progress(self, text: str) -> None:
        line = f"[{len(self._results)}/{len(self._plan.tasks)}] {text}"
        if self._on_terminal:
            print(f"\r\x1b[K{line}", end="", file=sys.stderr, flush=True)
        else:
            print(line, file=sys.stderr, flush=True)

    def _tell_line(self, text: str) -> None:
        print(f"\r\x1b[K{text}" if self._on_terminal else text, file=sys.stderr, flush=True)


def networks(request: RestoreRequest) -> tuple[list[str], list[str]]:
    """Return the roles of the networks that may run, and of those that must be there."""
    required = []
    if request.max_faces > 0:
        required += ["codeformer"] if request.aligned or request.faces else ["detector", "codeformer"]
    if request.mask is MaskKind.PARSE:
        required.append("parser")
    enlarges = request.upscale > 1 and request.use_upscaler
    return [*required, *(["upscaler"] if enlarges else [])], required


def _check_report(report: Path, plan: Plan) -> None:
    check_writable(report)
    for task in plan.tasks:
        if report.resolve() in {p.resolve() for p in (task.source, task.target, task.mask) if p}:
            raise PlanError(f"--report {report} would overwrite a picture")
