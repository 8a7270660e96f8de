"""The generator on the wire: convert, hand to the device thread, stream what comes back."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from typing import cast

import grpc
from prometheus_client.registry import Collector

from atelier.generator.v1 import generator_service_pb2 as pb
from atelier.generator.v1 import generator_service_pb2_grpc as pb_grpc
from atelier_generator import convert
from atelier_generator.models import Models, load_models
from atelier_generator.pipeline import Generation, Pipeline
from atelier_generator.request import RAW, GenerateRequest
from atelier_generator.settings import GeneratorSettings
from atelier_runtime import images
from atelier_runtime.device import DeviceWorker, Job, device_name
from atelier_runtime.health import LoadedNetwork, ServiceStatus
from atelier_runtime.metrics import StageTimer
from atelier_runtime.vram import VramCollector, memory_info

ROLES = ("base", "refiner", "upscaler")


class GeneratorService:
    """What the bootstrap serves: the networks, and the servicer before them."""

    service_name = pb.DESCRIPTOR.services_by_name["GeneratorService"].full_name

    def __init__(
        self, settings: GeneratorSettings, worker: DeviceWorker, state: Callable[[], ServiceStatus]
    ) -> None:
        # Empty until `load` knows: the setting may be a path, or "auto", which is nobody's answer.
        self.model_set = self.device = self.device_name = self.dtype = ""
        self.networks: tuple[LoadedNetwork, ...] = ()
        self._settings = settings
        self._worker = worker
        self._state = state
        self._models: Models | None = None
        self._pipeline: Pipeline | None = None

    def load(self) -> None:
        """Read the networks into memory. Raises `StartupError`."""
        models = load_models(self._settings)
        self._models = models
        self._pipeline = Pipeline(models)
        self.model_set = models.model_set.name
        self.device, self.dtype = str(models.device), str(models.dtype).removeprefix("torch.")
        self.device_name = device_name(models.device)
        components = (models.model_set.component(role) for role in ROLES)
        self.networks = tuple(LoadedNetwork(c.role, c.name) for c in components if c is not None)

    def warm_up(self) -> None:
        """Draw one small picture. Raises `StartupError`."""
        self.pipeline.warm_up()

    def register(self, server: grpc.aio.Server) -> None:
        """Add the servicer to the server."""
        servicer = GeneratorServicer(self, self._worker, self._settings.max_pixels, self._state)
        pb_grpc.add_GeneratorServiceServicer_to_server(servicer, server)

    def vram(self) -> tuple[int, int] | None:
        """Return (free, total) device memory in bytes; None on a CPU and before loading."""
        return memory_info(self._models.device) if self._models else None

    def collectors(self) -> list[Collector]:
        """Return the collector of the device memory."""
        assert self._models is not None, "asked for after load()"
        return [VramCollector(self._models.device)]

    @property
    def pipeline(self) -> Pipeline:
        """The pipeline; the bootstrap lets no call through before `load` is over."""
        assert self._pipeline is not None, "used after load()"
        return self._pipeline

    @property
    def default_negative_prompt(self) -> str:
        """The model set's own."""
        assert self._models is not None, "used after load()"
        return self._models.model_set.default_negative_prompt


class GeneratorServicer(pb_grpc.GeneratorServiceServicer):
    """`atelier.generator.v1.GeneratorService`."""

    def __init__(
        self,
        stage: GeneratorService,
        worker: DeviceWorker,
        max_pixels: int,
        state: Callable[[], ServiceStatus],
    ) -> None:
        self._stage = stage
        self._worker = worker
        self._max_pixels = max_pixels
        self._state = state

    async def GenerateImage(
        self, request: pb.GenerateImageRequest, context: grpc.aio.ServicerContext
    ) -> AsyncIterator[pb.GenerateImageResponse]:
        """Stream progress, then the picture. A cancelled call stops within one denoising step."""
        wanted = convert.request_from_proto(request)
        wanted.check(self._max_pixels)
        wanted = wanted.completed(self._stage.default_negative_prompt)

        def draw(job: Job[Generation]) -> Generation:
            return self._stage.pipeline.draw(wanted, job.check, job.emit)

        job = self._worker.submit(draw, deadline=_deadline(context))
        try:
            async for progress in job.events():
                yield convert.progress_to_proto(progress)
            drawing = await job.result()
        finally:
            job.cancel()
        timer = StageTimer()
        with timer.stage("encode"):
            data = await asyncio.to_thread(_encode, drawing.picture, wanted)
        stages = [*drawing.stages, *timer.reports]
        yield convert.result_to_proto(wanted, drawing, data, stages, self._stage.model_set)

    async def GetStatus(
        self, request: pb.GetStatusRequest, context: grpc.aio.ServicerContext
    ) -> pb.GetStatusResponse:
        """Say what is loaded and how busy the stage is."""
        return convert.state_to_proto(self._state())


def _deadline(context: grpc.aio.ServicerContext) -> float | None:
    remaining = context.time_remaining()
    return None if remaining is None else time.monotonic() + remaining


def _encode(picture: images.RgbArray, request: GenerateRequest) -> bytes:
    if request.output_format == RAW:
        return picture.tobytes()
    file_format = cast(images.Format, request.output_format)  # `check` has let nothing else through
    return images.encode(images.Picture(rgb=picture), file_format, request.quality)
