"""Replicas of a service on real sockets, and channels to them."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Awaitable, Callable

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_status import rpc_status
from prometheus_client import Counter, Gauge

from atelier_gateway.backends.channel import BackendChannel
from atelier_runtime.channel import server_ping_options
from atelier_runtime.errors import AtelierError
from atelier_runtime.rpc_errors import to_status

SERVICE = "atelier.restorer.v1.RestorerService"


def value(metric: Counter | Gauge) -> float:
    [family] = metric.collect()
    return float(family.samples[0].value)


class Replica:
    """A gRPC server with one method, which returns its name or fails as scripted; and grpc.health.v1."""

    def __init__(self, name: str, error: AtelierError | None = None) -> None:
        self.name, self.error, self.calls, self.port = name, error, 0, 0
        self.free = 0
        """So many calls succeed, whatever the error of the others."""
        self.health = health.aio.HealthServicer()

    async def start(self, port: int) -> int:
        self.server = grpc.aio.server(options=[("grpc.so_reuseport", 0), *server_ping_options()])
        health_pb2_grpc.add_HealthServicer_to_server(self.health, self.server)
        await self.set_health(health_pb2.HealthCheckResponse.SERVING)
        method = grpc.unary_unary_rpc_method_handler(self._respond)
        handler = grpc.method_handlers_generic_handler("test.Service", {"Name": method})
        self.server.add_generic_rpc_handlers((handler,))
        bound: int = self.server.add_insecure_port(f"127.0.0.1:{port}")
        await self.server.start()
        return bound

    async def set_health(self, status: health_pb2.HealthCheckResponse.ServingStatus) -> None:
        await self.health.set(SERVICE, status)

    async def _respond(self, request: bytes, context: grpc.aio.ServicerContext) -> bytes:
        self.calls += 1
        if self.free:
            self.free -= 1
        elif self.error is not None:
            await context.abort_with_status(rpc_status.to_status(to_status(self.error)))
        return self.name.encode()


async def name(channel: grpc.aio.Channel) -> str:
    """Ask whichever replica the channel picks for its name."""
    response: bytes = await channel.unary_unary("/test.Service/Name")(b"", timeout=20)
    return response.decode()


class ReplicaSet:
    """The replicas and channels of one test."""

    def __init__(self) -> None:
        self._replicas: list[Replica] = []
        self._channels: list[BackendChannel] = []

    async def replica(self, name: str, error: AtelierError | None = None, port: int = 0) -> Replica:
        replica = Replica(name, error)
        replica.port = await replica.start(port)
        self._replicas.append(replica)
        return replica

    async def channel(self, *ports: int, wait_s: float = 10.0) -> BackendChannel:
        target = "ipv4:" + ",".join(f"127.0.0.1:{port}" for port in ports)
        channel = BackendChannel("restorer", target, SERVICE, max_pixels=65_536, wait_s=wait_s)
        self._channels.append(await channel.__aenter__())
        return channel

    async def close(self) -> None:
        for channel in self._channels:
            await channel.__aexit__(None, None, None)
        for replica in self._replicas:
            await replica.server.stop(None)


def in_time() -> float:
    """Return a deadline that no test reaches."""
    return time.monotonic() + 60


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    end = time.monotonic() + 20
    while not await condition():
        assert time.monotonic() < end, "it never happened"
        await asyncio.sleep(0.01)


async def until_true(condition: Callable[[], bool]) -> None:
    async def is_true() -> bool:
        return condition()

    await until(is_true)
