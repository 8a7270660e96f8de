"""`atelier-restorer detect`: print the faces of an image."""

from __future__ import annotations

import argparse
from typing import Any

from atelier_restorer.client import Client
from atelier_restorer.commands import options, requests
from atelier_restorer.commands.connection import run_with_client
from atelier_restorer.commands.console import Console
from atelier_restorer.commands.writing import read_source
from atelier_runtime.service_status import NetworkRole


def run(args: argparse.Namespace) -> int:
    """Print every detected face as one JSON object; return the exit code."""
    options.check_connection_flags(args)
    request = requests.detect_request(args)
    data = read_source(args.source, "detect")

    async def detect(client: Client) -> list[dict[str, Any]]:
        return await client.detect(data, request)

    roles = (NetworkRole.FACE_DETECTOR,)
    faces = run_with_client(args, detect, roles=roles, required=roles)
    console = Console()
    console.result({"faces": faces})
    return int(console.has_lost_results)
