"""`atelier-restorer detect`: print the faces of an image."""

from __future__ import annotations

import argparse
import json
from typing import Any

from atelier_restorer.client import Client
from atelier_restorer.commands import options
from atelier_restorer.commands.connection import run_with_client
from atelier_restorer.commands.files import PlanError
from atelier_runtime.service_status import NetworkRole


def run(args: argparse.Namespace) -> int:
    """Print every detected face as one JSON object; return the exit code."""
    options.check_connection_flags(args)
    request = options.detect_request(args)
    if not args.source.is_file():
        what = "is a folder, but detect takes one image" if args.source.is_dir() else "there is no such file"
        raise PlanError(f"{args.source}: {what}")
    data = args.source.read_bytes()

    async def detect(client: Client) -> list[dict[str, Any]]:
        return await client.detect(data, request)

    roles = (NetworkRole.FACE_DETECTOR,)
    faces = run_with_client(args, detect, roles=roles, required=roles)
    print(json.dumps({"faces": faces}))
    return 0
