"""The restorer as a server in this process, on a real socket, and what its tests need."""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import torch
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from PIL import Image

from atelier.common.v1 import image_pb2, warning_pb2
from atelier.restorer.v1 import restorer_service_pb2 as pb
from atelier.restorer.v1 import restorer_service_pb2_grpc
from atelier_restorer.servicer import RestorerService
from atelier_restorer.settings import RestorerSettings
from atelier_runtime.server import ServiceServer


class Client:
    """A stub and the server that it calls."""

    def __init__(self, server: ServiceServer[RestorerService], channel: grpc.aio.Channel) -> None:
        self.server = server
        self.channel = channel
        self.stub = restorer_service_pb2_grpc.RestorerServiceStub(channel)

    @property
    def codeformer(self) -> torch.nn.Module:
        """The network that the server runs, for faults that weights alone cannot cause."""
        codeformer = self.server.service.models.codeformer
        assert codeformer is not None
        return codeformer.network

    async def restore(self, image: bytes, timeout: float = 60, **fields: Any) -> pb.RestoreFacesResponse:
        request = pb.RestoreFacesRequest(image=image_pb2.Image(data=image), **fields)
        response: pb.RestoreFacesResponse = await self.stub.RestoreFaces(request, timeout=timeout)
        return response

    async def running(self) -> int:
        response: pb.GetStatusResponse = await self.stub.GetStatus(pb.GetStatusRequest())
        return response.status.running


@contextmanager
def forward_hook(network: torch.nn.Module, hook: Callable[..., None]) -> Iterator[None]:
    """Call `hook` after each forward pass of a network."""
    handle = network.register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


async def idle(client: Client) -> None:
    """Wait until the device has nothing to do."""

    async def is_idle() -> bool:
        return await client.running() == 0

    await until(is_idle)


@asynccontextmanager
async def serve(model_set: Path, **settings: Any) -> AsyncIterator[Client]:
    """Start a server of a model set and yield a client for it."""
    chosen = RestorerSettings(
        host="127.0.0.1",
        port=0,
        metrics_port=0,
        model_set=str(model_set),
        device="cpu",
        cpu_threads=1,
        drain_seconds=5,
        **{"max_pixels": 2_000_000, "dtype": "float32", **settings},
    )
    server = ServiceServer("restorer", chosen, partial(RestorerService, chosen))
    limit = [("grpc.max_receive_message_length", 64 * 2**20)]
    try:
        await server.start()
        await server.wait_ready()
        async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}", options=limit) as channel:
            yield Client(server, channel)
    finally:
        await server.drain()


def photo(width: int = 640, height: int = 640) -> np.ndarray:
    """Return an image (height, width, 3) in which every position has its own color."""
    y, x = np.mgrid[0:height, 0:width]
    return np.stack([x * 255 // width, y * 255 // height, (x + y) % 200], axis=2).astype(np.uint8)


def png(rgb: np.ndarray, file_format: str = "PNG", **options: Any) -> bytes:
    """Return the file of an image, a PNG unless another format is given."""
    buffer = io.BytesIO()
    Image.fromarray(rgb).save(buffer, file_format, **options)
    return buffer.getvalue()


def pixels(image: image_pb2.Image) -> np.ndarray:
    """Return the pixels of an image of a response."""
    with Image.open(io.BytesIO(image.data)) as opened:
        return np.array(opened)


def shown(image: image_pb2.Image) -> bytes:
    """Return the pixels of an image of a response to be compared: files of other requests say so."""
    return pixels(image).tobytes()


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


def stage_names(response: pb.RestoreFacesResponse) -> list[str]:
    """Return the names of the stages of a response, in order."""
    return [stage.stage for stage in response.stages]


def warning_codes(response: pb.RestoreFacesResponse) -> list[warning_pb2.WarningCode]:
    """Return the codes of the warnings of a response."""
    return [warning.code for warning in response.warnings]


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    """Wait until a condition holds, at most 30 s."""
    async with asyncio.timeout(30):
        while not await condition():
            await asyncio.sleep(0.01)
