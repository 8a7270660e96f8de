"""The bootstrap of a gRPC stage: listen, load, warm up, serve, drain."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
import time
from collections.abc import Callable
from typing import Protocol
from wsgiref.simple_server import WSGIServer

import grpc
import prometheus_client
import psutil
from grpc_reflection.v1alpha import reflection

from atelier_runtime import __version__, defaults, images, log, metrics
from atelier_runtime.device import DeviceWorker
from atelier_runtime.health import LoadedNetwork, Readiness, ServiceStatus
from atelier_runtime.interceptors import CallInterceptor
from atelier_runtime.settings import ServiceSettings, StartupError

logger = logging.getLogger(__name__)


class Stage(Protocol):
    """What a stage brings: its service, its networks. `load` and `warm_up` run on the device thread."""

    service_name: str
    """Full protobuf name, such as `atelier.generator.v1.GeneratorService`."""

    model_set: str
    networks: tuple[LoadedNetwork, ...]
    device: str
    device_name: str
    dtype: str

    def load(self) -> None:
        """Read the networks into memory. Raises `StartupError`."""

    def warm_up(self) -> None:
        """Make one picture from end to end and check it. Raises `StartupError`."""

    def register(self, server: grpc.aio.Server) -> None:
        """Add the servicer to the server."""

    def vram(self) -> tuple[int, int] | None:
        """Return (free, total) device memory in bytes, None on a CPU."""

    def collectors(self) -> list[prometheus_client.registry.Collector]:
        """Return more collectors for /metrics, known after `load`."""


class ServiceServer:
    """One stage as a server: `start`, `wait_ready`, then `drain`. Usable in a test as in a process."""

    def __init__(
        self,
        role: metrics.Role,
        settings: ServiceSettings,
        make_stage: Callable[[DeviceWorker, Callable[[], ServiceStatus]], Stage],
    ) -> None:
        """`make_stage` gets the worker and a function that gives the state for `GetStatus`."""
        self._role = role
        self._settings = settings
        self.worker = DeviceWorker(settings.queue_capacity, name=role)
        self.stage = make_stage(self.worker, self.state)
        self.readiness = Readiness(self.stage.service_name)
        self._calls = CallInterceptor(self.stage.service_name, self.readiness)
        limit = images.message_limit_bytes(settings.max_pixels)
        self._server = grpc.aio.server(
            interceptors=[self._calls],
            options=[
                ("grpc.max_receive_message_length", limit),
                ("grpc.max_send_message_length", limit),
                # no max_connection_age_grace: an aged connection closes when its last call has ended
                ("grpc.max_connection_age_ms", int(settings.max_connection_age_seconds * 1000)),
                # or gRPC would hang up on clients that ask more often than every five minutes
                ("grpc.http2.min_ping_interval_without_data_ms", int(defaults.PING_INTERVAL_S * 500)),
                ("grpc.so_reuseport", 0),  # or a second process on the same port would start unnoticed
            ],
        )
        self._loading: asyncio.Task[None] | None = None
        self._metrics_server: WSGIServer | None = None
        self.port = 0
        self.metrics_port = 0

    def state(self) -> ServiceStatus:
        """Return the state now."""
        vram = self.stage.vram()
        return ServiceStatus(
            version=__version__,
            ready=self.readiness.ready,
            model_set=self.stage.model_set,
            networks=self.stage.networks,
            device=self.stage.device,
            device_name=self.stage.device_name,
            dtype=self.stage.dtype,
            vram_free_bytes=vram[0] if vram else None,
            vram_total_bytes=vram[1] if vram else None,
            process_memory_bytes=psutil.Process().memory_info().rss,
            queue_depth=self.worker.depth,
            queue_capacity=self.worker.capacity,
            running=self.worker.running,
        )

    async def start(self) -> None:
        """Listen on both ports and begin to load. Raises `StartupError` if a port is taken."""
        self.stage.register(self._server)
        await self.readiness.register(self._server)
        reflection.enable_server_reflection(
            (self.stage.service_name, "grpc.health.v1.Health", reflection.SERVICE_NAME), self._server
        )
        registry = metrics.build_registry(self._role)
        address = f"{self._settings.host}:{self._settings.port}"
        try:
            self.port = self._server.add_insecure_port(address)
        except RuntimeError as error:
            raise StartupError(f"PORT={self._settings.port}: cannot listen on {address}") from error
        try:
            server, _ = prometheus_client.start_http_server(
                self._settings.metrics_port, addr=self._settings.host, registry=registry
            )
        except OSError as error:
            raise StartupError(f"METRICS_PORT={self._settings.metrics_port}: {error.strerror}") from error
        self._metrics_server = server
        self.metrics_port = server.server_port
        await self._server.start()
        self._loading = asyncio.create_task(self._load(registry))

    async def _load(self, registry: prometheus_client.CollectorRegistry) -> None:
        start = time.perf_counter()
        await self.worker.submit(lambda job: self.stage.load()).result()
        await self.worker.submit(lambda job: self.stage.warm_up()).result()
        self.worker.forget_job_times()
        for collector in self.stage.collectors():
            registry.register(collector)
        seconds = time.perf_counter() - start
        metrics.MODEL_LOAD.set(seconds)
        metrics.BUILD_INFO.labels(__version__, self.stage.model_set, self.stage.dtype).set(1)
        await self.readiness.set_ready()
        logger.info(
            "ready",
            extra={
                "port": self.port,
                "metrics_port": self.metrics_port,
                "model_set": self.stage.model_set,
                "device": self.stage.device,
                "seconds": round(seconds, 2),
            },
        )

    async def wait_ready(self) -> None:
        """Wait for loading and warm-up; raises what stopped them."""
        assert self._loading is not None, "start() comes first"
        await self._loading

    async def drain(self) -> bool:
        """Refuse new work, let accepted work finish within `drain_seconds`, then stop.

        Returns True if everything accepted was finished.
        """
        # The worker goes on accepting: a call that was let in may still be decoding its picture.
        await self.readiness.set_draining()
        ended = asyncio.create_task(self._calls.all_ended(self._settings.drain_seconds))
        await self._server.stop(self._settings.drain_seconds)
        finished = await ended
        if self._loading is not None:
            self._loading.cancel()
        await asyncio.to_thread(self.worker.close)
        if self._metrics_server is not None:
            await asyncio.to_thread(self._metrics_server.shutdown)
            self._metrics_server.server_close()
        return finished


def run_service(
    role: metrics.Role,
    settings: ServiceSettings,
    make_stage: Callable[[DeviceWorker, Callable[[], ServiceStatus]], Stage],
) -> int:
    """Run a stage until SIGTERM or SIGINT, and return the exit code: 0 after a full drain, 1 otherwise."""
    log.configure_logging(settings.log_level)
    try:
        return asyncio.run(_run(lambda: ServiceServer(role, settings, make_stage)))
    except StartupError as error:
        prefix = settings.model_config.get("env_prefix", "")
        logger.error("cannot start", extra={"error": f"{prefix}{error}"})
        print(f"{prefix}{error}", file=sys.stderr)
        return 1


async def _run(make_server: Callable[[], ServiceServer]) -> int:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    server = make_server()  # in the loop that will serve: gRPC ties a server to the one it is made in
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    await server.start()
    logger.info("listening", extra={"port": server.port, "pid": os.getpid()})
    stopping = asyncio.create_task(stop.wait())
    loading = asyncio.create_task(server.wait_ready())
    await asyncio.wait({stopping, loading}, return_when=asyncio.FIRST_COMPLETED)
    if loading.done() and (error := loading.exception()) is not None:
        await server.drain()
        raise error
    await stopping
    logger.info("draining")
    finished = await server.drain()
    logger.info("stopped", extra={"all_work_finished": finished})
    return 0 if finished else 1
