"""`atelier-restorer restore`: restore the faces of an image, or of a folder of images.

One JSON object per image goes to standard output as soon as the image is written; everything else goes to
standard error.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path

from atelier_restorer.commands import options, requests
from atelier_restorer.commands.addresses import is_gateway
from atelier_restorer.commands.batch import Batch
from atelier_restorer.commands.connection import run_with_client, run_with_gateway
from atelier_restorer.commands.console import Console
from atelier_restorer.commands.files import Plan, make_plan
from atelier_restorer.commands.paths import PlanError, reason, shown
from atelier_restorer.commands.record import NoRecord, Record, record_name
from atelier_restorer.commands.shares import Share
from atelier_restorer.commands.stopping import Terminated
from atelier_restorer.commands.writing import write_whole
from atelier_restorer.request import IdentityMode, MaskKind, RestoreRequest
from atelier_runtime.service_status import NetworkRole

_NAMED = 20  # of the images that were not attempted; the report names all


def run(args: argparse.Namespace) -> int:
    """Run the command; return the exit code: 0 if every image was written and none may be missing."""
    options.check_connection_flags(args, takes_gateway=True)
    concurrency, share = options.concurrency(args), options.share(args)
    request = requests.restore_request(args)
    plan = make_plan(
        args.source,
        args.target,
        args.save_mask,
        args.format,
        crops=args.save_crops,
        report=args.report,
        also_read=options.files_read(args),
    )
    if plan.is_folder and args.faces is not None:
        raise PlanError("--faces is for a single image, but IN is a folder")
    if not plan.is_folder and (args.resume or share is not None):
        raise PlanError("--resume and --share are for a folder, but IN is a single image")
    if share is not None:
        plan = plan.share(args.source, share)
    console = Console()
    for path, skip in plan.skipped.items():
        console.message(f"{shown(path)}: skipped, {skip.reason}")
    record = _record(args, plan, request, share)
    batch = Batch(plan, request, console, concurrency, record)
    if not plan.tasks:
        whose = "" if share is None else f" of the share {args.share}"
        console.message(f"{shown(args.source)}: contains no PNG, JPEG or WebP file{whose}")
        is_reported = _write_report(args.report, batch, console)
        return int(share is None or not is_reported)
    try:
        if is_gateway(args.server):
            run_with_gateway(args, batch.run, run=record.run)
        else:
            roles, required = networks(request)
            run_with_client(
                args, batch.run, roles=roles, required=required, concurrency=concurrency, request=request
            )
    except (KeyboardInterrupt, Terminated) as stop:
        batch.stop(f"interrupted by {stop}" if isinstance(stop, Terminated) else "interrupted")
        batch.finish(named=0 if _write_report(args.report, batch, console) else None)
        raise
    except BaseException:
        if batch.started:
            _write_report(args.report, batch, console)
        raise
    is_reported = _write_report(args.report, batch, console)
    exit_code = batch.finish(named=_NAMED if is_reported and args.report is not None else None)
    return exit_code if is_reported else 1


def _record(args: argparse.Namespace, plan: Plan, request: RestoreRequest, share: Share | None) -> Record:
    """Return the record of a folder that is resumed, or restored by a gateway."""
    if not plan.is_folder:
        return NoRecord()
    path = args.target / record_name(share)
    if not args.resume and not is_gateway(args.server):
        return NoRecord(path)
    return Record(path, asdict(request) | options.networks(args), resume=args.resume)


def _write_report(path: Path | None, batch: Batch, console: Console) -> bool:
    """Write the report, if one is asked for; return whether that did not fail."""
    if path is None:
        return True
    try:
        write_whole(path, f"{json.dumps(batch.report(), indent=1)}\n".encode())
    except (OSError, PlanError) as error:
        why = reason(error) if isinstance(error, OSError) else error
        console.message(f"--report {shown(path)} cannot be written: {why}")
        return False
    return True


def networks(request: RestoreRequest) -> tuple[list[NetworkRole], list[NetworkRole]]:
    """Return the roles of the networks that may run, and of those that are required."""
    required = []
    if request.max_faces > 0:
        detects = not request.aligned and not request.faces
        required += [NetworkRole.FACE_DETECTOR] if detects else []
        required.append(NetworkRole.FACE_RESTORER)
    if request.mask is MaskKind.PARSE:
        required.append(NetworkRole.FACE_PARSER)
    optional = []
    # Where likeness is asked for by name, a service without the network refuses even a request without faces.
    measured = request.identity in (IdentityMode.REPORT, IdentityMode.GUARD)
    if measured or (request.max_faces > 0 and request.identity is None):
        optional.append(NetworkRole.IDENTITY)
    if request.upscale > 1 and request.use_upscaler:
        optional.append(NetworkRole.UPSCALER)
    return [*required, *optional], required
