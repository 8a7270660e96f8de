"""`atelier-restorer detect`: print the faces of a picture."""

from __future__ import annotations

import argparse
import json
from typing import Any

from atelier_restorer.client import Client
from atelier_restorer.commands import options
from atelier_restorer.commands.connection import run_with_client
from atelier_restorer.commands.files import PlanError
from atelier_runtime.service_status import NetworkRole


def run(chosen: argparse.Namespace) -> int:
    """Print every detected face as one JSON object; return the exit code."""
    options.check_where(chosen)
    request = options.detect_request(chosen)
    if not chosen.source.is_file():
        what = (
            "is a folder, but detect takes one picture" if chosen.source.is_dir() else "there is no such file"
        )
        raise PlanError(f"{chosen.source}: {what}")
    data = chosen.source.read_bytes()

    async def detect(client: Client) -> list[dict[str, Any]]:
        return await client.detect(data, request)

    roles = (NetworkRole.FACE_DETECTOR,)
    faces = run_with_client(chosen, detect, roles=roles, required=roles)
    print(json.dumps({"faces": faces}))
    return 0
