"""`atelier-restorer restore`: restore the faces of an image, or of a folder of images.

One JSON object per image goes to standard output as soon as the image is written; everything else goes to
standard error.
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
from atelier_restorer.commands.connection import run_with_client
from atelier_restorer.commands.files import Plan, PlanError, Task, check_writable, make_plan, write_whole
from atelier_restorer.request import MaskKind, RestoreRequest
from atelier_runtime.errors import AtelierError, ServiceUnavailable
from atelier_runtime.service_status import NetworkRole

_CONCURRENCY_IN_PROCESS = 2  # while the networks work on one image, another is decoded or encoded
_CONCURRENCY_AT_SERVER = 4


def run(args: argparse.Namespace) -> int:
    """Run the command; return the exit code, which is 0 if every image was written."""
    options.check_connection_flags(args)
    request = options.restore_request(args)
    plan = make_plan(args.source, args.target, args.save_mask, args.format)
    if args.report is not None:
        _check_report(args.report, plan)
    for path in plan.skipped:
        print(f"{path}: skipped, not a PNG, JPEG or WebP file", file=sys.stderr)
    if not plan.tasks:
        print(f"{args.source}: contains no PNG, JPEG or WebP file", file=sys.stderr)
        return 1
    roles, required = networks(request)
    if plan.is_folder and request.faces:
        raise PlanError("--faces is for a single image, but IN is a folder")
    concurrency = _CONCURRENCY_IN_PROCESS if args.server is None else _CONCURRENCY_AT_SERVER
    batch = _Batch(plan, request, args.save_crops, concurrency)
    try:
        run_with_client(args, batch.run, roles=roles, required=required)
    finally:
        if args.report is not None and batch.started:
            write_whole(args.report, f"{json.dumps(batch.report(), indent=1)}\n".encode())
    return batch.finish()


class _Batch:
    """The images of a command: a few at a time, each reported when it is done."""

    def __init__(self, plan: Plan, request: RestoreRequest, crops: Path | None, concurrency: int) -> None:
        """`crops`: the folder for crops, if requested."""
        self._plan = plan
        self._request = request
        self._crops = crops
        self._concurrency = min(concurrency, len(plan.tasks))
        self._results: dict[int, dict[str, Any]] = {}
        self._failed = 0
        self._unreachable = False
        self._warned: set[str] = set()
        self._waiting = enumerate(plan.tasks)
        self._on_terminal = sys.stderr.isatty()
        self.started = False

    async def run(self, client: Client) -> None:
        """Restore all images. A failed one is reported and skipped; a lost restorer ends the batch."""
        self.started = True
        await asyncio.gather(*(self._restore_next(client) for _ in range(self._concurrency)))

    def report(self) -> dict[str, Any]:
        """Return the report of the image, or for a folder of all its images, sorted by name."""
        results = [self._results[number] for number in sorted(self._results)]
        if not self._plan.is_folder and results:
            return results[0]
        return {"pictures": results, "skipped": [str(path) for path in self._plan.skipped]}

    def finish(self) -> int:
        """Print a summary; return the exit code."""
        total, tried = len(self._plan.tasks), len(self._results)
        if self._on_terminal:
            print(file=sys.stderr)
        if total > 1:
            left = f", {total - tried} not attempted" if tried < total else ""
            summary = f"{tried - self._failed} of {total} images written, {self._failed} failed{left}"
            print(summary, file=sys.stderr)
        return int(self._failed > 0 or tried < total)

    async def _restore_next(self, client: Client) -> None:
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
                self._print_line(f"{task.source}: {text}")
                summary = "failed"
            else:
                self._results[number] = paths | report
            self._print(self._results[number])
            self._print_progress(f"{task.source}: {summary}")

    async def _restore(self, client: Client, task: Task) -> tuple[dict[str, Any], str]:
        data = await asyncio.to_thread(task.source.read_bytes)
        restored = await client.restore(data, replace(self._request, output_format=task.format))
        report = restored.report
        for warning in report["warnings"]:
            if warning not in self._warned:  # once is enough for a folder of JPEGs
                self._warned.add(warning)
                self._print_line(f"{task.source}: {warning}")
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
        """Write NAME_face0_before.png and so on; return what was written."""
        assert self._crops is not None, "checked by the caller"
        folder = self._crops / task.name.parent
        written = []
        for index, before, after in restored.crops:
            paths = [folder / f"{task.name.name}_face{index}_{when}.png" for when in ("before", "after")]
            write_whole(paths[0], before)
            write_whole(paths[1], after)
            written.append({"face": index, "before": str(paths[0]), "after": str(paths[1])})
        return written

    def _print(self, result: dict[str, Any]) -> None:
        """Print to standard output, which may be the same terminal as the progress."""
        if self._on_terminal and sys.stdout.isatty():
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)
        print(json.dumps(result), flush=True)

    def _print_progress(self, text: str) -> None:
        line = f"[{len(self._results)}/{len(self._plan.tasks)}] {text}"
        if self._on_terminal:
            print(f"\r\x1b[K{line}", end="", file=sys.stderr, flush=True)
        else:
            print(line, file=sys.stderr, flush=True)

    def _print_line(self, text: str) -> None:
        print(f"\r\x1b[K{text}" if self._on_terminal else text, file=sys.stderr, flush=True)


def networks(request: RestoreRequest) -> tuple[list[NetworkRole], list[NetworkRole]]:
    """Return the roles of the networks that may run, and of those that are required."""
    required = []
    if request.max_faces > 0:
        detects = not request.aligned and not request.faces
        required += [NetworkRole.FACE_DETECTOR] if detects else []
        required.append(NetworkRole.FACE_RESTORER)
    if request.mask is MaskKind.PARSE:
        required.append(NetworkRole.FACE_PARSER)
    upscales = request.upscale > 1 and request.use_upscaler
    return [*required, *([NetworkRole.UPSCALER] if upscales else [])], required


def _check_report(report: Path, plan: Plan) -> None:
    check_writable(report)
    for task in plan.tasks:
        if report.resolve() in {p.resolve() for p in (task.source, task.target, task.mask) if p}:
            raise PlanError(f"--report {report} would overwrite an image")
