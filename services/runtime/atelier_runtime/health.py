"""The health of a service, over grpc.health.v1.

The health service's empty name is liveness: the process is alive. The service's full name is readiness:
weights are loaded, the warm-up succeeded, and draining has not begun.
"""

from __future__ import annotations

import asyncio

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from atelier_runtime.errors import DEFAULT_RETRY_AFTER_S, ServiceDraining, ServiceNotReady

_SERVING = health_pb2.HealthCheckResponse.SERVING
_NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING

_LAST_UPDATE_S = 0.5  # for watchers to learn that draining has begun


class _HealthService(health.aio.HealthServicer):
    """grpc.health.v1 whose watches end when draining begins; a graceful stop would wait for them."""

    def __init__(self) -> None:
        super().__init__()
        self.draining = asyncio.Event()

    async def Watch(self, request: health_pb2.HealthCheckRequest, context: grpc.aio.ServicerContext) -> None:
        """Send the status now and whenever it changes."""
        watching = asyncio.create_task(super().Watch(request, context))
        draining = asyncio.create_task(self.draining.wait())
        try:
            await asyncio.wait({watching, draining}, return_when=asyncio.FIRST_COMPLETED)
            await asyncio.wait({watching}, timeout=_LAST_UPDATE_S)
        finally:
            watching.cancel()
            draining.cancel()
            await asyncio.gather(watching, draining, return_exceptions=True)


class Readiness:
    """Loading, then ready, then draining; published over grpc.health.v1."""

    def __init__(self, service_name: str) -> None:
        self._service_name = service_name
        self._servicer = _HealthService()
        self._ready = False
        self._draining = False

    @property
    def ready(self) -> bool:
        """True between warm-up and draining."""
        return self._ready and not self._draining

    async def reason(self) -> str:
        """Return why it is not ready, in a word; empty: it is."""
        if self._draining:
            return "draining"
        return "" if self._ready else "loading"

    async def register(self, server: grpc.aio.Server) -> None:
        """Add the health service to a server: alive, not ready."""
        health_pb2_grpc.add_HealthServicer_to_server(self._servicer, server)
        await self._servicer.set("", _SERVING)
        await self._servicer.set(self._service_name, _NOT_SERVING)

    async def set_ready(self) -> None:
        """Report that the networks are loaded and warm."""
        self._ready = True
        await self._servicer.set(self._service_name, _SERVING)

    async def set_draining(self) -> None:
        """Report that no new work is accepted; cannot be undone."""
        self._draining = True
        await self._servicer.set(self._service_name, _NOT_SERVING)
        self._servicer.draining.set()

    def require(self) -> None:
        """Raise `ServiceDraining` or `ServiceNotReady` unless ready."""
        if self._draining:
            raise ServiceDraining(retry_after_s=1.0)
        if not self._ready:
            raise ServiceNotReady(retry_after_s=DEFAULT_RETRY_AFTER_S)
