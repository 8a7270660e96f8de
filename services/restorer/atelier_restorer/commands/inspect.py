"""`atelier-restorer inspect`: say which network a checkpoint file is."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from atelier_restorer.identify import UnknownNetworkError, identify
from atelier_runtime.weights import CheckpointError, describe_checkpoint, read_checkpoint


def run(chosen: argparse.Namespace) -> int:
    """Print one JSON object a checkpoint; return 1 if one of them is no network of the restorer."""
    exit_code = 0
    for path in chosen.checkpoints:
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
    """Return what a checkpoint is. Raises `CheckpointError` or `UnknownNetworkError`."""
    tensors = read_checkpoint(path)
    identity = identify(tensors)
    return {
        "network": identity.network,
        "role": identity.role,
        "config": identity.config,
        **describe_checkpoint(path, tensors),
        "parameters": identity.parameters,  # counted in the network itself, which knows its buffers
    }
