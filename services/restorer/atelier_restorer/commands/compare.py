"""`atelier-restorer compare`: the same image at several fidelities, to compare by eye."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from atelier_restorer.client import Client, Restored
from atelier_restorer.commands import options, requests
from atelier_restorer.commands.collisions import Outputs, Write
from atelier_restorer.commands.connection import run_with_client
from atelier_restorer.commands.console import Console
from atelier_restorer.commands.paths import FORMAT_OF_SUFFIX, PlanError, shown
from atelier_restorer.commands.restore import networks
from atelier_restorer.commands.writing import check_folder, read_source, write_whole
from atelier_runtime import defaults


def run(args: argparse.Namespace) -> int:
    """Write NAME_w0.6.png and so on to a folder, print a JSON object for each; return the exit code."""
    options.check_connection_flags(args)
    fidelities = requests.fidelities(args)
    request = requests.compare_request(args)
    if args.target.exists() and not args.target.is_dir():
        raise PlanError(f"{shown(args.target)} is not a folder; one file per fidelity is written to it")
    suffix = args.source.suffix.lower()
    if suffix not in FORMAT_OF_SUFFIX:
        suffix = f".{defaults.OUTPUT_FORMAT}"
    targets = [args.target / f"{args.source.stem}_w{fidelity:g}{suffix}" for fidelity in fidelities]
    outputs = Outputs([args.source, *options.files_read(args)], None, [])
    outputs.check([Write(str(target), args.source) for target in targets], [])
    data = read_source(args.source, "compare")
    check_folder(args.target)

    async def compare(client: Client) -> list[Restored]:
        return await client.compare(data, request, fidelities)

    roles, required = networks(request)
    results = run_with_client(args, compare, roles=roles, required=required, request=request)
    console = Console()
    for fidelity, target, result in zip(fidelities, targets, results, strict=True):
        write_whole(target, result.picture)
        console.result(_summary(args.source, target, fidelity, result))
    return int(console.has_lost_results)


def _summary(source: Path, target: Path, fidelity: float, result: Restored) -> dict[str, Any]:
    return {"input": str(source), "output": str(target), "fidelity": fidelity, **result.report}
