"""A real gateway in this process before a real restorer with narrow networks, and a client of both."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx

from atelier_gateway.app import create_app
from atelier_gateway.server import Server, listen
from atelier_gateway.settings import GatewaySettings
from tests.integration.restorer_server import Client, serve


class GatewayClient:
    """A client of the gateway, and one of the restorer behind it."""

    def __init__(self, http: httpx.AsyncClient, restorer: Client) -> None:
        self.http = http
        self.restorer = restorer

    async def send(self, path: str, file: bytes, **fields: Any) -> httpx.Response:
        """Send an image in a form; fields that are not strings are JSON."""
        data = {name: v if isinstance(v, str) else json.dumps(v) for name, v in fields.items()}
        return await self.http.post(path, files={"image": ("a", file)}, data=data)

    async def post(self, path: str, file: bytes, **fields: Any) -> dict[str, Any]:
        """Send an image and return the JSON of a response, which must be a success."""
        response = await self.send(path, file, **fields)
        assert response.status_code == 200, response.text
        body: dict[str, Any] = response.json()
        return body


@asynccontextmanager
async def serve_gateway(
    model_set: Path, restorers: Mapping[str, Any] | None = None, **others: Any
) -> AsyncIterator[GatewayClient]:
    """Start a restorer of a model set and a gateway before it, and yield a client.

    `restorers`: settings of the restorer; `others`: of the gateway.
    """
    async with serve(model_set, **(restorers or {})) as restorer:
        address = f"127.0.0.1:{restorer.server.port}"
        settings = GatewaySettings(restorer=address, max_pixels=2_000_000, **others)
        listener = listen("127.0.0.1", 0)
        server = Server(create_app(settings), settings)
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        try:
            async with httpx.AsyncClient(base_url=url, timeout=60, trust_env=False) as http:
                yield GatewayClient(http, restorer)
        finally:
            server.should_exit = True
            await serving


def file_of(data_uri: str) -> bytes:
    """Return the bytes of a data URI."""
    return base64.b64decode(data_uri.partition(",")[2])
