"""What a stage says of itself: grpc.health.v1 and the state behind `GetStatus`.

The health service's empty name is liveness: the process turns. The stage's full service name is
readiness: weights are loaded, a warm-up picture was made, and draining has not begun.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from atelier_runtime.errors import StageDraining, StageNotReady

_SERVING = health_pb2.HealthCheckResponse.SERVING
_NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING

LOADING_RETRY_AFTER_S = 5.0

_LAST_WORD_S = 0.5  # for those who watch to be sent that draining has begun


@dataclass(frozen=True)
class LoadedNetwork:
    """A network in memory: its role in the set, and its name."""

    role: str
    name: str


@dataclass(frozen=True)
class StageState:
    """What a stage is, has loaded and is doing now. Device memory is None on a CPU."""

    version: str
    ready: bool
    model_set: str
    networks: tuple[LoadedNetwork, ...]
    device: str
    device_name: str
    dtype: str
    vram_free_bytes: int | None
    vram_total_bytes: int | None
    process_memory_bytes: int
    queue_depth: int
    queue_capacity: int
    running: int


class _HealthService(health.aio.HealthServicer):
    """grpc.health.v1 whose watches end with the draining; gRPC would wait for them until its time is up."""

    def __init__(self) -> None:
        super().__init__()
        self.draining = asyncio.Event()

    async def Watch(self, request: health_pb2.HealthCheckRequest, context: grpc.aio.ServicerContext) -> None:
        """Send the status now and whenever it changes."""
        watching = asyncio.create_task(super().Watch(request, context))
        draining = asyncio.create_task(self.draining.wait())
        try:
            await asyncio.wait({watching, draining}, return_when=asyncio.FIRST_COMPLETED)
            await asyncio.wait({watching}, timeout=_LAST_WORD_S)
        finally:
            watching.cancel()
            draining.cancel()
            await asyncio.gather(watching, draining, return_exceptions=True)


class Readiness:
    """Loading, then ready, then draining; mirrored into grpc.health.v1."""

    def __init__(self, service_name: str) -> None:
        self._service_name = service_name
        self._servicer = _HealthService()
        self._ready = False
        self._draining = False

    @property
    def ready(self) -> bool:
        """True between warm-up and draining."""
        return self._ready and not self._draining

    async def register(self, server: grpc.aio.Server) -> None:
        """Add the health service to a server: alive, not ready."""
        health_pb2_grpc.add_HealthServicer_to_server(self._servicer, server)
        await self._servicer.set("", _SERVING)
        await self._servicer.set(self._service_name, _NOT_SERVING)

    async def set_ready(self) -> None:
        """Say that networks are loaded and warm."""
        self._ready = True
        await self._servicer.set(self._service_name, _SERVING)

    async def set_draining(self) -> None:
        """Say that no new work is taken; cannot be taken back."""
        self._draining = True
        await self._servicer.set(self._service_name, _NOT_SERVING)
        self._servicer.draining.set()

    def require(self) -> None:
        """Raise `StageDraining` or `StageNotReady` unless ready."""
        if self._draining:
            raise StageDraining(retry_after_s=1.0)
        if not self._ready:
            raise StageNotReady(retry_after_s=LOADING_RETRY_AFTER_S)
