"""Runs `atelier-restorer` and reads what it prints."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from tests.integration.restorer_server import Client


class CommandResult(NamedTuple):
    """Exit code and output of a command."""

    code: int
    out: str
    err: str

    @property
    def reports(self) -> list[dict[str, Any]]:
        """The JSON objects of its standard output, one a line."""
        return [json.loads(line) for line in self.out.splitlines()]


RunHere = Callable[..., CommandResult]
"""The fixture `run_here`: runs a command in this process."""


async def run_at_service(client: Client, *arguments: Any) -> CommandResult:
    """Run the command as a process that calls the test's service."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "atelier_restorer", *map(str, arguments)),
        *("--server", f"127.0.0.1:{client.server.port}"),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={k: v for k, v in os.environ.items() if not k.startswith("ATELIER_")},
    )
    try:
        out, err = await asyncio.wait_for(process.communicate(), 120)
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
    assert process.returncode is not None
    return CommandResult(process.returncode, out.decode(), err.decode())


def pixels_of(path: Path | str) -> np.ndarray:
    """Return the pixels of an image file."""
    with Image.open(path) as opened:
        return np.array(opened)
