"""`atelier-restorer inspect`: what a picture says of how it was made, or which network a checkpoint is.

torch takes seconds to import, and only checkpoints need it: `inspect_checkpoint` is imported late.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from atelier_restorer.commands.console import Console
from atelier_restorer.commands.paths import shown
from atelier_runtime.errors import InvalidRequest
from atelier_runtime.images import jpeg, png, webp
from atelier_runtime.recipes import describe_marks, read_marks

_HEAD_BYTES = 16


def run(args: argparse.Namespace) -> int:
    """Print a JSON object per file; return 1 if one is neither a picture nor a network of the restorer."""
    console, failed = Console(), False
    for path in args.files:
        if is_picture(path):
            try:
                console.result(describe_picture(path))
            except InvalidRequest as error:
                console.message(f"atelier-restorer: {shown(path)} {error.fields[0].message}")
                failed = True
        else:
            from atelier_restorer.commands import inspect_checkpoint

            failed = not inspect_checkpoint.run(path, console) or failed
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
