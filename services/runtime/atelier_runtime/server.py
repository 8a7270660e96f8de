"""Runs a gRPC service: listen, load, warm up, serve, drain."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping
from typing import Generic, TypeVar

import grpc
import prometheus_client
from grpc_reflection.v1alpha import reflection

from atelier_runtime import __version__, compilation, images, log, metrics, tls
from atelier_runtime.addresses import host_and_port
from atelier_runtime.api_keys import Scope, key_ring
from atelier_runtime.call_keys import CallKeys
from atelier_runtime.channel import server_ping_options
from atelier_runtime.device_worker import DeviceWorker
from atelier_runtime.health import Readiness
from atelier_runtime.images.workers import ImageWorkers, image_workers_of
from atelier_runtime.interceptors import CallInterceptor
from atelier_runtime.metrics_server import MetricsServer, Probes
from atelier_runtime.service import LoadedModels, Service, service_status
from atelier_runtime.service_status import ServiceStatus
from atelier_runtime.settings import ServiceSettings, StartupError
from atelier_runtime.shutdown import EXIT_GRACE_SECONDS, exit_after
from atelier_runtime.tracing_setup import begin_tracing, end_tracing
from atelier_runtime.vram import VramCollector

logger = logging.getLogger(__name__)

_MAX_PENDING_CALLS = 100_000
_SCOPES: Mapping[metrics.Process, Scope] = {"generator": Scope.GENERATE, "restorer": Scope.RESTORE}

ServiceT = TypeVar("ServiceT", bound=Service)


class ServiceServer(Generic[ServiceT]):
    """A service as a server: `start`, `wait_ready`, then `drain`. Works in a test as in a process."""

    def __init__(
        self,
        process: metrics.Process,
        settings: ServiceSettings,
        make_service: Callable[[DeviceWorker, ImageWorkers], ServiceT],
    ) -> None:
        self._process: metrics.Process = process
        self._settings = settings
        self.worker = DeviceWorker(settings.queue_capacity, name=process)
        self.image_workers = image_workers_of(settings)
        self.service = make_service(self.worker, self.image_workers)
        self.readiness = Readiness(self.service.name)
        self._loaded: LoadedModels | None = None
        keys = CallKeys(
            key_ring(settings.api_keys, "API_KEYS"),
            _SCOPES[process],
            lets_anonymous_in=settings.lets_anonymous_in,
        )
        self._calls = CallInterceptor(self.service.name, self.readiness, keys)
        limit = images.message_limit_bytes(settings.max_pixels)
        self._server = grpc.aio.server(
            interceptors=[self._calls],
            options=[
                ("grpc.max_receive_message_length", limit),
                ("grpc.max_send_message_length", limit),
                # no max_connection_age_grace: an aged connection closes when its last call has ended
                ("grpc.max_connection_age_ms", int(settings.max_connection_age_seconds * 1000)),
                *server_ping_options(),
                # If more than 1,000 calls wait for Python to begin, gRPC cancels new ones at random, beyond
                # 3,000 all of them. Their clients would not learn why, nor when to come again.
                ("grpc.server.max_pending_requests", _MAX_PENDING_CALLS),
                ("grpc.server.max_pending_requests_hard_limit", _MAX_PENDING_CALLS),
                ("grpc.so_reuseport", 0),  # or a second process on the same port would start unnoticed
            ],
        )
        self._loading: asyncio.Task[None] | None = None
        self._metrics_server: MetricsServer | None = None
        self.port = 0
        self.metrics_port = 0

    @property
    def drain_seconds(self) -> float:
        """Time for accepted work to finish."""
        return self._settings.drain_seconds

    def status(self) -> ServiceStatus:
        """Return the status now."""
        return service_status(self._loaded, self.worker, self.image_workers, ready=self.readiness.ready)

    async def start(self) -> None:
        """Listen on both ports and start loading.

        Raises `StartupError` if a port is in use, or certificates cannot be used.
        """
        self.service.register(self._server, self.status)
        await self.readiness.register(self._server)
        if self._settings.reflection:
            reflection.enable_server_reflection(
                (self.service.name, "grpc.health.v1.Health", reflection.SERVICE_NAME), self._server
            )
        registry = metrics.build_registry(self._process)
        address = host_and_port(self._settings.host, self._settings.port)
        files = tls.server_files(
            tls.TlsFiles.of_settings(
                "TLS_", self._settings.tls_cert, self._settings.tls_key, self._settings.tls_ca
            )
        )
        try:
            if files is None:
                self.port = self._server.add_insecure_port(address)
            else:
                self.port = self._server.add_secure_port(address, tls.server_credentials(files))
        except RuntimeError as error:
            raise StartupError(f"PORT={self._settings.port}: cannot listen on {address}") from error
        probes = Probes(self.readiness.reason)
        probes.attach()
        try:
            self._metrics_server = MetricsServer(
                self._settings.host, self._settings.metrics_port, registry, probes
            )
        except OSError as error:
            raise StartupError(f"METRICS_PORT={self._settings.metrics_port}: {error.strerror}") from error
        self.metrics_port = self._metrics_server.port
        await self._server.start()
        self._loading = asyncio.create_task(self._load(registry))

    async def _load(self, registry: prometheus_client.CollectorRegistry) -> None:
        start = time.perf_counter()
        await self.worker.submit(lambda job: compilation.prepare(self._settings)).result()
        self._loaded = loaded = await self.worker.submit(lambda job: self.service.load()).result()
        await self.worker.submit(lambda job: self.service.warm_up()).result()
        self.worker.forget_job_times()
        registry.register(VramCollector(loaded.device))
        seconds = time.perf_counter() - start
        metrics.MODEL_LOAD.set(seconds)
        status = self.status()
        metrics.BUILD_INFO.labels(__version__, status.model_set, status.dtype).set(1)
        await self.readiness.set_ready()
        logger.info(
            "ready",
            extra={
                "port": self.port,
                "metrics_port": self.metrics_port,
                "model_set": status.model_set,
                "device": status.device,
                "seconds": round(seconds, 2),
            },
        )

    async def wait_ready(self) -> None:
        """Wait for loading and warm-up; raises what stopped them."""
        assert self._loading is not None, "start() comes first"
        await self._loading

    async def drain(self) -> bool:
        """Refuse new work, let accepted work finish within `drain_seconds`, then stop.

        Returns True if all accepted work was finished.
        """
        # The worker keeps accepting jobs: a request that was accepted may still be decoding its image.
        await self.readiness.set_draining()
        ended = asyncio.create_task(self._calls.all_ended(self._settings.drain_seconds))
        await self._server.stop(self._settings.drain_seconds)
        finished = await ended
        if self._loading is not None:
            self._loading.cancel()
        await asyncio.to_thread(self.image_workers.close)
        await asyncio.to_thread(self.worker.close)
        if self._metrics_server is not None:
            await asyncio.to_thread(self._metrics_server.close)
        return finished


def run_service(
    process: metrics.Process,
    settings: ServiceSettings,
    make_service: Callable[[DeviceWorker, ImageWorkers], Service],
) -> int:
    """Run a service until SIGTERM or SIGINT; return the exit code: 0 after a full drain, else 1."""
    log.configure_logging(settings.log_level)
    try:
        begin_tracing(process)
    except StartupError as error:
        logger.error("cannot start", extra={"error": str(error)})
        print(error, file=sys.stderr)
        return 1
    if settings.warns_of_anonymous:
        prefix = settings.model_config.get("env_prefix", "")
        logger.warning(
            "whoever can reach this port may use the service: callers need neither a key nor a certificate",
            extra={
                "host": settings.host,
                "port": settings.port,
                "help": f"set {prefix}API_KEYS, {prefix}TLS_CA, or {prefix}ANONYMOUS=allow if that is meant",
            },
        )
    try:
        return asyncio.run(_run(lambda: ServiceServer(process, settings, make_service)))
    except StartupError as error:
        prefix = settings.model_config.get("env_prefix", "")
        logger.error("cannot start", extra={"error": f"{prefix}{error}"})
        print(f"{prefix}{error}", file=sys.stderr)
        return 1
    finally:
        end_tracing()


async def _run(make_server: Callable[[], ServiceServer[Service]]) -> int:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    server = make_server()  # in the loop that will serve: gRPC binds a server to the loop it is created in
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
    exit_after(server.drain_seconds + EXIT_GRACE_SECONDS)
    finished = await server.drain()
    logger.info("stopped", extra={"all_work_finished": finished})
    return 0 if finished else 1
