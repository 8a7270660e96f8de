"""Both stages as real gRPC servers that do what a test tells them, and a real gateway before them.

Everything up to the stages' networks is real: sockets, HTTP, gRPC, encoding. Only what a stage would
draw or restore is scripted.
"""

from __future__ import annotations

import asyncio
import io
import threading
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

import grpc
import httpx
import uvicorn
from PIL import Image

from atelier.generator.v1 import generator_service_pb2 as generator_pb
from atelier.generator.v1 import generator_service_pb2_grpc as generator_grpc
from atelier.restorer.v1 import restorer_service_pb2_grpc as restorer_grpc
from atelier_gateway.__main__ import listen
from atelier_gateway.app import create_app
from atelier_gateway.settings import GatewaySettings
from atelier_runtime import images
from atelier_runtime.outcomes import SkipReason
from tests.contract.script import Script, Scripted, encoded, picture, reason, stage_report
from tests.contract.scripted_restorer import ScriptedRestorer


class ScriptedGenerator(Scripted, generator_grpc.GeneratorServiceServicer):
    async def GenerateImage(
        self, request: generator_pb.GenerateImageRequest, context: grpc.aio.ServicerContext
    ) -> AsyncIterator[generator_pb.GenerateImageResponse]:
        yield generator_pb.GenerateImageResponse(
            progress=generator_pb.GenerateImageProgress(stage="base", step=0, total_steps=1)
        )
        await self.begin(request, context)
        scale = 1.5 if request.hires_fix else request.hires_scale if request.hires_fix_simple else 1.0
        asked = int(request.width_px * scale), int(request.height_px * scale)
        pixels = picture(*(self.script.draws or asked))
        effective = generator_pb.GenerateImageRequest()
        effective.CopyFrom(request)
        if not request.HasField("seed"):
            effective.seed = 2**52 + len(self.script.requests)
        result = generator_pb.GenerateImageResult(
            **{
                "image": encoded(pixels, request.output),
                "effective_request": effective,
                "refiner_applied": False,
                "refiner_reason": reason(SkipReason.NOT_LOADED) if request.use_refiner else 0,
                "hires_fix_applied": request.hires_fix,
                "upscaler": "demo_x2" if request.hires_fix and request.use_realesrgan else "",
                "stages": [stage_report("base", 1.25)],
                "model_set": "demo",
                **self.script.answer,
            }
        )
        yield generator_pb.GenerateImageResponse(result=result)

    async def GetStatus(
        self, request: generator_pb.GetStatusRequest, context: grpc.aio.ServicerContext
    ) -> generator_pb.GetStatusResponse:
        return await self.tell_status(generator_pb.GetStatusResponse)


class House:
    """Two scripted stages and the gateway, on loopback ports of their own, in a thread with its own loop."""

    def __init__(self, **settings: Any) -> None:
        self._settings = settings
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self.generator, self.restorer = Script(), Script()
        self.reset()
        self._in_loop(self._start())
        self.client = httpx.Client(base_url=self.url, timeout=30, trust_env=False)

    def reset(self) -> None:
        """Forget what was scripted and seen."""
        vars(self.generator).update(vars(Script(networks={"base": "demo-sdxl", "upscaler": "demo_x2"})))
        vars(self.restorer).update(
            vars(
                Script(
                    networks={"detector": "retinaface_mobile0.25", "codeformer": "codeformer"},
                    faces=[(0.99, True, None)],
                )
            )
        )

    async def _start(self) -> None:
        self._generator_server, self.generator_port = await self._serve_generator(0)
        self._restorer_server, self.restorer_port = await self._serve_restorer(0)
        settings = GatewaySettings(
            **{
                "host": "127.0.0.1",
                "generator": f"127.0.0.1:{self.generator_port}",
                "restorer": f"127.0.0.1:{self.restorer_port}",
                **self._settings,
            }
        )
        listener = listen("127.0.0.1", 0)
        self.port = listener.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        config = uvicorn.Config(
            create_app(settings), log_config=None, access_log=False, timeout_graceful_shutdown=1
        )
        self._gateway = uvicorn.Server(config)
        self._serving = asyncio.create_task(self._gateway.serve(sockets=[listener]))
        while not self._gateway.started:
            await asyncio.sleep(0.01)

    async def _serve_generator(self, port: int) -> tuple[grpc.aio.Server, int]:
        server = grpc.aio.server(options=_SERVER_OPTIONS)
        generator_grpc.add_GeneratorServiceServicer_to_server(ScriptedGenerator(self.generator), server)
        port = server.add_insecure_port(f"127.0.0.1:{port}")
        await server.start()
        return server, port

    async def _serve_restorer(self, port: int) -> tuple[grpc.aio.Server, int]:
        server = grpc.aio.server(options=_SERVER_OPTIONS)
        restorer_grpc.add_RestorerServiceServicer_to_server(ScriptedRestorer(self.restorer), server)
        port = server.add_insecure_port(f"127.0.0.1:{port}")
        await server.start()
        return server, port

    def stop_restorer(self) -> None:
        self._in_loop(self._restorer_server.stop(None))

    def start_restorer(self) -> None:
        self._restorer_server, _ = self._in_loop(self._serve_restorer(self.restorer_port))

    def stop_generator(self) -> None:
        self._in_loop(self._generator_server.stop(None))

    def generate(self, headers: dict[str, str] | None = None, **body: Any) -> httpx.Response:
        """POST a small order; `body` adds to it."""
        order = {"prompt": "a red apple", "width": 256, "height": 256, **body}
        return self.client.post("/generate", json=order, headers=headers)

    def close(self) -> None:
        self.client.close()
        self._in_loop(self._stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(timeout=10)

    async def _stop(self) -> None:
        self._gateway.should_exit = True
        await self._serving
        await self._generator_server.stop(None)
        await self._restorer_server.stop(None)

    def _in_loop(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(timeout=30)


_LIMIT = images.message_limit_bytes(50_000_000)
_SERVER_OPTIONS = [
    ("grpc.max_receive_message_length", _LIMIT),
    ("grpc.max_send_message_length", _LIMIT),
    ("grpc.so_reuseport", 0),
]


def eventually(condition: Callable[[], bool], *, within_s: float = 20.0) -> None:
    """Poll until `condition` holds; the limit is only there to end a broken test."""
    end = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < end, "it never happened"
        time.sleep(0.01)


def opened(data: bytes) -> Image.Image:
    """Decode a picture and its pixels."""
    image = Image.open(io.BytesIO(data))
    image.load()
    return image
