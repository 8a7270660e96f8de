"""The restorer in this process, behind a real socket, and what its tests ask of it."""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import torch
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from PIL import Image

from atelier.common.v1 import image_pb2
from atelier.restorer.v1 import restorer_service_pb2 as pb
from atelier.restorer.v1 import restorer_service_pb2_grpc
from atelier_restorer.servicer import RestorerService
from atelier_restorer.settings import RestorerSettings
from atelier_runtime.server import ServiceServer


class Client:
    """A stub and the server that it talks to."""

    def __init__(self, server: ServiceServer[RestorerService], channel: grpc.aio.Channel) -> None:
        self.server = server
        self.channel = channel
        self.stub = restorer_service_pb2_grpc.RestorerServiceStub(channel)

    @property
    def codeformer(self) -> torch.nn.Module:
        """The network that the server runs, for what weights alone cannot bring about."""
        codeformer = self.server.service.models.codeformer
        assert codeformer is not None
        return codeformer.network

    async def restore(self, image: bytes, timeout: float = 60, **fields: Any) -> pb.RestoreFacesResponse:
        request = pb.RestoreFacesRequest(image=image_pb2.Image(data=image), **fields)
        return await self.stub.RestoreFaces(request, timeout=timeout)

    async def running(self) -> int:
        return (await self.stub.GetStatus(pb.GetStatusRequest())).status.running


@asynccontextmanager
async def serve(model_set: Path, **settings: Any) -> AsyncIterator[Client]:
    chosen = RestorerSettings(
        host="127.0.0.1",
        port=0,
        metrics_port=0,
        model_set=str(model_set),
        device="cpu",
        cpu_threads=1,
        drain_seconds=5,
        **{"max_pixels": 2_000_000, **settings},
    )
    server = ServiceServer("restorer", chosen, lambda worker: RestorerService(chosen, worker))
    limit = [("grpc.max_receive_message_length", 64 * 2**20)]
    try:
        await server.start()
        await server.wait_ready()
        async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}", options=limit) as channel:
            yield Client(server, channel)
    finally:
        await server.drain()


def photo(width: int = 640, height: int = 640) -> np.ndarray:
    y, x = np.mgrid[0:height, 0:width]
    return np.stack([x * 255 // width, y * 255 // height, (x + y) % 200], axis=2).astype(np.uint8)


def png(rgb: np.ndarray, file_format: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(rgb).save(buffer, file_format, **options)
    return buffer.getvalue()


def pixels(image: image_pb2.Image) -> np.ndarray:
    with Image.open(io.BytesIO(image.data)) as opened:
        return np.array(opened)


async def failure(call: Awaitable[Any]) -> tuple[grpc.StatusCode, str, list[str], Any]:
    """Return code, reason, fields and RetryInfo of a call that must fail."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    reason, fields, retry = "", [], None
    status = rpc_status.from_call(caught.value)
    for detail in status.details if status else ():
        info, bad, wait = (
            error_details_pb2.ErrorInfo(),
            error_details_pb2.BadRequest(),
            error_details_pb2.RetryInfo(),
        )
        if detail.Unpack(info):
            reason = info.reason
        elif detail.Unpack(bad):
            fields = [violation.field for violation in bad.field_violations]
        elif detail.Unpack(wait):
            retry = wait
    return caught.value.code(), reason, fields, retry


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(30):
        while not await condition():
            await asyncio.sleep(0.01)
