"""`atelier-restorer inspect`: what a picture says of how it was made, or which network a checkpoint is."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from atelier_restorer.commands.console import Console
from atelier_restorer.commands.paths import shown
from atelier_restorer.identify import UnknownNetworkError, describe_onnx, identify
from atelier_runtime.errors import InvalidRequest
from atelier_runtime.file_kinds import is_onnx
from atelier_runtime.images import jpeg, png, webp
from atelier_runtime.recipes import describe_marks, read_marks
from atelier_runtime.snapshot import take
from atelier_runtime.weights import CheckpointError, describe_checkpoint, read_snapshot

_HEAD_BYTES = 16


def run(args: argparse.Namespace) -> int:
    """Print a JSON object per file; return 1 if one is neither a picture nor a network of the restorer."""
    console, failed = Console(), False
    for path in args.files:
        try:
            console.result(describe_picture(path) if is_picture(path) else describe(path))
        except InvalidRequest as error:
            console.message(f"atelier-restorer: {shown(path)} {error.fields[0].message}")
            failed = True
        except CheckpointError as error:
            console.message(f"atelier-restorer: {shown(str(error))}")
            failed = True
        except UnknownNetworkError as error:
            console.message(f"atelier-restorer: {shown(path)} is {error}")
            failed = True
    return int(failed or console.has_lost_results)


def is_picture(path: Path) -> bool:
    """Return whether a file starts as a picture does; one that cannot be read is no picture."""
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD_BYTES)
    except OSError:
        return False
    return head.startswith((png.SIGNATURE, jpeg.START)) or webp.is_webp(head)


def describe_picture(path: Path) -> dict[str, Any]:
    """Return what a picture says of how it was made. Raises `InvalidRequest` or `OSError`."""
    return {"picture": str(path), **describe_marks(read_marks(path.read_bytes(), field="picture"))}


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
