"""`atelier-restorer compare`: the same picture at several fidelities, to compare by eye."""

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


def run(chosen: argparse.Namespace) -> int:
    """Write NAME_w0.6.png and the like into a folder, print a JSON object each; return the exit code."""
    options.check_where(chosen)
    fidelities = options.fidelities(chosen)
    request = options.compare_request(chosen)
    if not chosen.source.is_file():
        raise PlanError(f"{chosen.source}: there is no such file")
    if chosen.target.exists() and not chosen.target.is_dir():
        raise PlanError(f"{chosen.target} is not a folder; one file per fidelity is written into it")
    suffix = chosen.source.suffix.lower()
    if suffix not in FORMAT_OF_SUFFIX:
        suffix = f".{defaults.OUTPUT_FORMAT}"
    targets = [chosen.target / f"{chosen.source.stem}_w{fidelity:g}{suffix}" for fidelity in fidelities]
    for target in targets:
        if target.exists() and target.samefile(chosen.source):
            raise PlanError(f"{target} would overwrite the picture")
    data = chosen.source.read_bytes()

    async def compare(client: Client) -> list[Restored]:
        return await client.compare(data, request, fidelities)

    roles, required = networks(request)
    results = run_with_client(chosen, compare, roles=roles, required=required)
    for fidelity, target, result in zip(fidelities, targets, results, strict=True):
        write_whole(target, result.picture)
        print(json.dumps(_summary(chosen.source, target, fidelity, result)), flush=True)
    return 0


def _summary(source: Path, target: Path, fidelity: float, result: Restored) -> dict[str, Any]:
    return {"input": str(source), "output": str(target), "fidelity": fidelity, **result.report}
