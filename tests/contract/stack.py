"""The test stack: both services as real gRPC servers that follow a script, and a real gateway before them.

Everything but the services' networks is real: sockets, HTTP, gRPC, encoding.
"""

from __future__ import annotations

import asyncio
import tempfile
from typing import Any

import httpx

from atelier_gateway.app import create_app
from atelier_gateway.server import Server, listen
from atelier_gateway.settings import GatewaySettings
from tests.contract.services import ScriptedServices


class Stack(ScriptedServices):
    """Two scripted services and the gateway on loopback ports, in a thread with its own event loop."""

    def __init__(self, **settings: Any) -> None:
        super().__init__()
        self._settings = settings
        self._folder = tempfile.TemporaryDirectory()
        self.folder = self._folder.name
        self._in_loop(self._start_gateway())
        self.client = httpx.Client(base_url=self.url, timeout=30, trust_env=False)

    async def _start_gateway(self) -> None:
        settings = GatewaySettings(
            **{
                "jobs_database": f"sqlite:///{self._folder.name}/jobs.db",
                "jobs_files": f"file:{self._folder.name}/files",
                "host": "127.0.0.1",
                # which requests that are written by hand name
                "allowed_hosts": "a,b,x,example.org,images.example.com",
                "drain_seconds": 1,
                "generator": f"127.0.0.1:{self.generator_port}",
                "restorer": f"127.0.0.1:{self.restorer_port}",
                **self._settings,
            }
        )
        listener = listen("127.0.0.1", 0)
        self.port = listener.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._gateway = Server(create_app(settings), settings)
        self._serving = asyncio.create_task(self._gateway.serve(sockets=[listener]))
        while not self._gateway.started:
            await asyncio.sleep(0.01)

    def generate(self, headers: dict[str, str] | None = None, **body: Any) -> httpx.Response:
        """POST a small request to /generate; `body` adds to it."""
        request = {"prompt": "a red apple", "width": 256, "height": 256, **body}
        return self.client.post("/generate", json=request, headers=headers)

    def close(self) -> None:
        self.client.close()
        self._in_loop(self._stop_gateway())
        super().close()
        self._folder.cleanup()

    async def _stop_gateway(self) -> None:
        self._gateway.should_exit = True
        await self._serving
