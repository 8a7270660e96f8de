"""The generator as a server in this process, on a real socket, and what its tests need."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from atelier.common.v1 import image_pb2
from atelier.generator.v1 import generator_service_pb2 as pb
from atelier.generator.v1 import generator_service_pb2_grpc as pb_grpc
from atelier_generator.servicer import GeneratorService
from atelier_generator.settings import GeneratorSettings
from atelier_runtime import images
from atelier_runtime.server import ServiceServer

SERVICE = "atelier.generator.v1.GeneratorService"
RAW = image_pb2.OutputOptions(format=image_pb2.IMAGE_FORMAT_RAW_RGB8)


@dataclass
class Running:
    server: ServiceServer[GeneratorService]
    channel: grpc.aio.Channel
    generator: pb_grpc.GeneratorServiceStub

    async def health(self, service: str) -> int:
        stub = health_pb2_grpc.HealthStub(self.channel)
        return int((await stub.Check(health_pb2.HealthCheckRequest(service=service))).status)


@asynccontextmanager
async def serving(folder: Path, *, ready: bool = True, **options: Any) -> AsyncIterator[Running]:
    settings = GeneratorSettings(
        host="127.0.0.1",
        port=0,
        metrics_port=0,
        device="cpu",
        model_set=str(folder),
        drain_seconds=5,
        cpu_threads=1,
        **{"dtype": "float32", **options},
    )
    server = ServiceServer("generator", settings, partial(GeneratorService, settings))
    await server.start()
    limit = images.message_limit_bytes(settings.max_pixels)
    channel_options = [("grpc.max_receive_message_length", limit)]
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}", options=channel_options) as channel:
            if ready:
                await server.wait_ready()
            yield Running(server, channel, pb_grpc.GeneratorServiceStub(channel))
    finally:
        await server.drain()


def request(**options: Any) -> pb.GenerateImageRequest:
    defaults = {
        "prompt": "a cat",
        "width_px": 256,
        "height_px": 256,
        "num_inference_steps": 3,
        "seed": 1,
        "output": RAW,
    }
    return pb.GenerateImageRequest(**{**defaults, **options})


async def result_of(call: AsyncIterator[pb.GenerateImageResponse]) -> pb.GenerateImageResult:
    events = [event async for event in call]
    assert events[-1].WhichOneof("event") == "result"
    return events[-1].result


async def failure_of(call: AsyncIterator[pb.GenerateImageResponse]) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        async for _ in call:
            pass
    return caught.value


async def until(condition: Callable[[], bool], seconds: float = 30) -> None:
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.01)
