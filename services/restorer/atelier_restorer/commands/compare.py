"""`atelier-restorer compare`: the same image at several fidelities, to compare by eye."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from atelier_restorer.client import Client, Restored
from atelier_restorer.commands import options
from atelier_restorer.commands.connection import run_with_client
from atelier_restorer.commands.files import FORMAT_OF_SUFFIX, PlanError, write_whole
from atelier_restorer.commands.restore import networks
from atelier_runtime import defaults


def run(args: argparse.Namespace) -> int:
    """Write NAME_w0.6.png and so on to a folder, print a JSON object for each; return the exit code."""
    options.check_connection_flags(args)
    fidelities = options.fidelities(args)
    request = options.compare_request(args)
    if not args.source.is_file():
        raise PlanError(f"{args.source}: there is no such file")
    if args.target.exists() and not args.target.is_dir():
        raise PlanError(f"{args.target} is not a folder; one file per fidelity is written to it")
    suffix = args.source.suffix.lower()
    if suffix not in FORMAT_OF_SUFFIX:
        suffix = f".{defaults.OUTPUT_FORMAT}"
    targets = [args.target / f"{args.source.stem}_w{fidelity:g}{suffix}" for fidelity in fidelities]
    for target in targets:
        if target.exists() and target.samefile(args.source):
            raise PlanError(f"{target} would overwrite the image")
    data = args.source.read_bytes()

    async def compare(client: Client) -> list[Restored]:
        return await client.compare(data, request, fidelities)

    roles, required = networks(request)
    results = run_with_client(args, compare, roles=roles, required=required)
    for fidelity, target, result in zip(fidelities, targets, results, strict=True):
        write_whole(target, result.picture)
        print(json.dumps(_summary(args.source, target, fidelity, result)), flush=True)
    return 0


def _summary(source: Path, target: Path, fidelity: float, result: Restored) -> dict[str, Any]:
    return {"input": str(source), "output": str(target), "fidelity": fidelity, **result.report}
