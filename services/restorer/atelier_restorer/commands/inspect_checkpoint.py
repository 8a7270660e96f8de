"""`atelier-restorer inspect` of a checkpoint: which network it is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from atelier_restorer.commands.console import Console
from atelier_restorer.commands.paths import shown
from atelier_restorer.identify import UnknownNetworkError, describe_onnx, identify
from atelier_runtime.file_kinds import is_onnx
from atelier_runtime.snapshot import take
from atelier_runtime.weights import CheckpointError, describe_checkpoint, read_snapshot


def run(path: Path, console: Console) -> bool:
    """Print a JSON object; return whether the file is a network of the restorer."""
    try:
        console.result(describe(path))
    except CheckpointError as error:
        console.message(f"atelier-restorer: {shown(str(error))}")
        return False
    except UnknownNetworkError as error:
        console.message(f"atelier-restorer: {shown(path)} is {error}")
        return False
    return True


def describe(path: Path) -> dict[str, Any]:
    """Describe a checkpoint. Raises `CheckpointError` or `UnknownNetworkError`."""
    with take(path) as snapshot:
        with snapshot.open() as file:
            if is_onnx(file):
                return describe_onnx(snapshot)
        tensors = read_snapshot(snapshot)
    identity = identify(tensors)
    return {
        "network": identity.network,
        "role": identity.role,
        "config": identity.config,
        **describe_checkpoint(path, tensors, snapshot),
        "parameters": identity.parameters,  # counted in the network itself, without its buffers
    }
