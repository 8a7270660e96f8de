"""A gateway before two services with real queues, whose devices take a fixed time for each request."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import grpc

from atelier.generator.v1 import generator_service_pb2 as generator_pb
from atelier.generator.v1 import generator_service_pb2_grpc as generator_grpc
from atelier.restorer.v1 import restorer_service_pb2 as restorer_pb
from atelier.restorer.v1 import restorer_service_pb2_grpc as restorer_grpc
from atelier_runtime.api_keys import Scope
from atelier_runtime.call_keys import CallKeys
from atelier_runtime.channel import server_ping_options
from atelier_runtime.device_worker import DeviceWorker
from atelier_runtime.health import Readiness
from atelier_runtime.interceptors import CallInterceptor
from tests.contract.script import Script
from tests.contract.scripted_generator import ScriptedGenerator
from tests.contract.scripted_restorer import ScriptedRestorer
from tests.contract.stack import Stack

CAPACITY = 8
DEVICE_S = 0.08

_add_generator: Any = generator_grpc.add_GeneratorServiceServicer_to_server  # protoc writes no types
_add_restorer: Any = restorer_grpc.add_RestorerServiceServicer_to_server


class QueuedGenerator(ScriptedGenerator):
    """Each image is one job on the device."""

    def __init__(self, script: Script, worker: DeviceWorker) -> None:
        super().__init__(script)
        self._worker = worker

    async def begin(self, request: Any, context: grpc.aio.ServicerContext, *, held: bool = True) -> None:
        job = self._worker.submit(lambda job: time.sleep(DEVICE_S))
        try:
            await job.result()
        finally:
            job.cancel()


class QueuedRestorer(ScriptedRestorer):
    """Each image holds a slot for two jobs, twice as fast as those of the generator."""

    def __init__(self, script: Script, worker: DeviceWorker) -> None:
        super().__init__(script)
        self._worker = worker

    async def begin(self, request: Any, context: grpc.aio.ServicerContext, *, held: bool = True) -> None:
        async with self._worker.reserve_slot():
            for _ in range(2):
                await self._worker.submit(lambda job: time.sleep(DEVICE_S / 4), has_slot=True).result()


class QueuedStack(Stack):
    """The stack of the other tests with these services."""

    def __init__(self, **settings: Any) -> None:
        self._workers: list[DeviceWorker] = []
        super().__init__(**settings)

    async def _serve_generator(self, port: int) -> tuple[grpc.aio.Server, int]:
        service = generator_pb.DESCRIPTOR.services_by_name["GeneratorService"].full_name
        servicer = QueuedGenerator(self.generator, self._new_worker())
        return await _serve(service, servicer, _add_generator)

    async def _serve_restorer(self, port: int) -> tuple[grpc.aio.Server, int]:
        service = restorer_pb.DESCRIPTOR.services_by_name["RestorerService"].full_name
        servicer = QueuedRestorer(self.restorer, self._new_worker())
        return await _serve(service, servicer, _add_restorer)

    def _new_worker(self) -> DeviceWorker:
        self._workers.append(DeviceWorker(CAPACITY))
        return self._workers[-1]

    async def _stop(self) -> None:
        await super()._stop()
        for worker in self._workers:
            await asyncio.to_thread(worker.close)


async def _serve(service: str, servicer: Any, add: Any) -> tuple[grpc.aio.Server, int]:
    readiness = Readiness(service)
    calls = CallInterceptor(service, readiness, CallKeys(None, Scope.GENERATE, lets_anonymous_in=True))
    server = grpc.aio.server(interceptors=[calls], options=[("grpc.so_reuseport", 0), *server_ping_options()])
    add(servicer, server)
    await readiness.register(server)
    await readiness.set_ready()
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    return server, port
