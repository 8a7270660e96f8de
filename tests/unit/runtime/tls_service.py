"""A small service that serves with TLS, and a client of it."""

from __future__ import annotations

import asyncio
import socket
import ssl
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import httpx
import torch
from pydantic_settings import SettingsConfigDict

from atelier_runtime.device_worker import DeviceWorker
from atelier_runtime.images.workers import ImageWorkers
from atelier_runtime.server import ServiceServer
from atelier_runtime.service import LoadedModels
from atelier_runtime.service_status import ServiceStatus
from atelier_runtime.settings import ServiceSettings
from tests.authority import Authority, Identity, serial_of

NAME = "test.Service"


class Settings(ServiceSettings):
    model_config = SettingsConfigDict(env_prefix="ATELIER_TEST_", frozen=True)

    port: int = 0
    metrics_port: int = 0
    image_workers: int = 1


class Service:
    """One method, which takes a moment and returns nothing."""

    name = NAME

    def __init__(self, worker: DeviceWorker, image_workers: ImageWorkers) -> None:
        self.loaded = threading.Event()
        self.loaded.set()

    def load(self) -> LoadedModels:
        self.loaded.wait(30)
        return LoadedModels("none", "5e1f", (), torch.device("cpu"), torch.float32)

    def warm_up(self) -> None: ...

    def register(self, server: grpc.aio.Server, status: Callable[[], ServiceStatus]) -> None:
        async def work(request: bytes, context: grpc.aio.ServicerContext) -> bytes:
            await asyncio.sleep(0.005)
            return b"done"

        handlers = {"Work": grpc.unary_unary_rpc_method_handler(work, bytes, bytes)}
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(NAME, handlers),))


class Running:
    """A ready service whose certificate `authority` has signed."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        self.folder = folder
        self.authority = Authority()
        self.identity = self.authority.server()
        certificate, key = self.identity.write(folder, "server")
        given = {"tls_cert": certificate, "tls_key": key, **settings}
        self.server = ServiceServer("restorer", Settings(**given), Service)

    @property
    def address(self) -> str:
        return f"localhost:{self.server.port}"

    def renew(self) -> Identity:
        """Issue the service another certificate."""
        renewed = self.authority.server()
        renewed.write(self.folder, "server")
        return renewed

    def channel(self, ca: bytes | None = None, client: Identity | None = None) -> grpc.aio.Channel:
        pem = (ca or self.authority.pem, client and client.key, client and client.certificate)
        return grpc.aio.secure_channel(self.address, grpc.ssl_channel_credentials(*pem))

    def presented(self) -> int:
        """The serial number of the certificate in a new handshake."""
        context = ssl.create_default_context(cadata=self.authority.pem.decode())
        context.set_alpn_protocols(["h2"])
        with (
            socket.create_connection(("127.0.0.1", self.server.port), timeout=10) as plain,
            context.wrap_socket(plain, server_hostname="localhost") as connection,
        ):
            return serial_of(connection.getpeercert(binary_form=True))

    async def probe(self, path: str) -> httpx.Response:
        async with httpx.AsyncClient(trust_env=False) as client:
            return await client.get(f"http://127.0.0.1:{self.server.metrics_port}{path}")


@asynccontextmanager
async def running(folder: Path, **settings: Any) -> AsyncIterator[Running]:
    served = Running(folder, **settings)
    await served.server.start()
    try:
        await served.server.wait_ready()
        yield served
    finally:
        await served.server.drain()


async def work(channel: grpc.aio.Channel) -> bytes:
    response: bytes = await channel.unary_unary(f"/{NAME}/Work")(b"", timeout=20)
    return response
