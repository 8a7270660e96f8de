"""Both services as real gRPC servers that follow a script, in a thread with its own event loop."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Coroutine
from typing import Any, Self

import grpc

from atelier.generator.v1 import generator_service_pb2_grpc as generator_grpc
from atelier.restorer.v1 import restorer_service_pb2_grpc as restorer_grpc
from atelier_runtime import images
from atelier_runtime.channel import server_ping_options
from atelier_runtime.service_status import NetworkRole
from tests.contract.script import Script
from tests.contract.scripted_generator import ScriptedGenerator
from tests.contract.scripted_restorer import ScriptedRestorer

_add_generator: Any = generator_grpc.add_GeneratorServiceServicer_to_server  # protoc writes no types
_add_restorer: Any = restorer_grpc.add_RestorerServiceServicer_to_server
_MESSAGE_LIMIT = images.message_limit_bytes(50_000_000)
_SERVER_OPTIONS = [
    ("grpc.max_receive_message_length", _MESSAGE_LIMIT),
    ("grpc.max_send_message_length", _MESSAGE_LIMIT),
    ("grpc.so_reuseport", 0),
    *server_ping_options(),
]


class ScriptedServices:
    """Two scripted services on loopback ports, which can be stopped and started."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self.generator, self.restorer = Script(), Script()
        self.reset()
        self._in_loop(self._start_services())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def reset(self) -> None:
        """Return to the usual scripts, and forget what was received."""
        usual_generator = Script(
            networks={NetworkRole.BASE: "demo-sdxl", NetworkRole.UPSCALER: "demo_x2"},
        )
        usual_restorer = Script(
            networks={
                NetworkRole.FACE_DETECTOR: "retinaface_mobile0.25",
                NetworkRole.FACE_RESTORER: "codeformer",
            },
            faces=[(0.99, True, None)],
        )
        vars(self.generator).update(vars(usual_generator))
        vars(self.restorer).update(vars(usual_restorer))

    async def _start_services(self) -> None:
        self._generator_server, self.generator_port = await self._serve_generator(0)
        self._restorer_server, self.restorer_port = await self._serve_restorer(0)

    async def _serve_generator(self, port: int) -> tuple[grpc.aio.Server, int]:
        server = grpc.aio.server(options=_SERVER_OPTIONS)
        _add_generator(ScriptedGenerator(self.generator), server)
        port = self._bind(server, f"127.0.0.1:{port}")
        await server.start()
        return server, port

    async def _serve_restorer(self, port: int) -> tuple[grpc.aio.Server, int]:
        server = grpc.aio.server(options=_SERVER_OPTIONS)
        _add_restorer(ScriptedRestorer(self.restorer), server)
        port = self._bind(server, f"127.0.0.1:{port}")
        await server.start()
        return server, port

    def _bind(self, server: grpc.aio.Server, address: str) -> int:
        return int(server.add_insecure_port(address))

    def stop_generator(self) -> None:
        self._in_loop(self._generator_server.stop(None))

    def start_generator(self) -> None:
        self._generator_server, _ = self._in_loop(self._serve_generator(self.generator_port))

    def stop_restorer(self) -> None:
        self._in_loop(self._restorer_server.stop(None))

    def start_restorer(self) -> None:
        self._restorer_server, _ = self._in_loop(self._serve_restorer(self.restorer_port))

    def close(self) -> None:
        self._in_loop(self._stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(timeout=10)
        self._loop.close()

    async def _stop(self) -> None:
        await self._generator_server.stop(None)
        await self._restorer_server.stop(None)

    def _in_loop(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(timeout=30)


def eventually(condition: Callable[[], bool], *, within_s: float = 20.0) -> None:
    """Poll until `condition` holds; the limit only ends a broken test."""
    end = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < end, "it never happened"
        time.sleep(0.01)
