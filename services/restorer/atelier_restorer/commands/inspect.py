"""`atelier-restorer inspect`: identify the network of a checkpoint file."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from atelier_restorer.identify import UnknownNetworkError, identify
from atelier_runtime.snapshot import take
from atelier_runtime.weights import CheckpointError, describe_checkpoint, read_snapshot


def run(args: argparse.Namespace) -> int:
    """Print a JSON object per checkpoint; return 1 if one of them is not a network of the restorer."""
    exit_code = 0
    for path in args.checkpoints:
        try:
            print(json.dumps(describe(path)), flush=True)
        except CheckpointError as error:
            print(f"atelier-restorer: {error}", file=sys.stderr)
            exit_code = 1
        except UnknownNetworkError as error:
            print(f"atelier-restorer: {path} is {error}", file=sys.stderr)
            exit_code = 1
    return exit_code


def describe(path: Path) -> dict[str, Any]:
    """Describe a checkpoint. Raises `CheckpointError` or `UnknownNetworkError`."""
    with take(path) as snapshot:
        tensors = read_snapshot(snapshot)
    identity = identify(tensors)
    return {
        "network": identity.network,
        "role": identity.role,
        "config": identity.config,
        **describe_checkpoint(path, tensors, snapshot),
        "parameters": identity.parameters,  # counted in the network itself, without its buffers
    }
