"""The gRPC service: convert, submit, wrap. Computes nothing itself and nothing on the event loop."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection
from typing import TypeVar

import grpc
from prometheus_client.registry import Collector

from atelier.restorer.v1 import restorer_service_pb2 as pb
from atelier.restorer.v1 import restorer_service_pb2_grpc
from atelier_restorer import convert
from atelier_restorer.models import ROLES, Models, load_models
from atelier_restorer.pipeline import RestorerPipeline, check_picture
from atelier_restorer.request import RestoreRequest
from atelier_restorer.settings import RestorerSettings
from atelier_runtime.device import DeviceWorker, device_name
from atelier_runtime.errors import NotFound
from atelier_runtime.health import LoadedNetwork, StageState
from atelier_runtime.images import Picture
from atelier_runtime.metrics import StageLedger
from atelier_runtime.processors import usable_processors
from atelier_runtime.vram import VramCollector, memory_info, probe_for

T = TypeVar("T")


class RestorerStage:
    """The stage as the runtime sees it: loads the networks, registers the service, says what is loaded."""

    def __init__(
        self,
        settings: RestorerSettings,
        worker: DeviceWorker,
        state: Callable[[], StageState],
        roles: Collection[str] = ROLES,
    ) -> None:
        """`roles`: the networks to load; a service loads what there is."""
        self.service_name: str = pb.DESCRIPTOR.services_by_name["RestorerService"].full_name
        self.settings = settings
        self.worker = worker
        self.state = state
        self._roles = roles
        # Empty until `load` knows: the setting may be a path, or "auto", which is nobody's answer.
        self.model_set = self.device = self.device_name = self.dtype = ""
        self.networks: tuple[LoadedNetwork, ...] = ()
        self._models: Models | None = None
        self._pipeline: RestorerPipeline | None = None

    @property
    def models(self) -> Models:
        """The networks; readiness guards every call, so they are there."""
        assert self._models is not None, "not loaded yet"
        return self._models

    @property
    def pipeline(self) -> RestorerPipeline:
        """The work; readiness guards every call, so it is there."""
        assert self._pipeline is not None, "not loaded yet"
        return self._pipeline

    def load(self) -> None:
        """Read the networks into memory. Raises `StartupError`."""
        models = load_models(self.settings, self._roles)
        self.model_set = models.name
        self.networks = tuple(LoadedNetwork(c.role, c.name) for c in models.components.values())
        self.device = str(models.device)
        self.device_name = device_name(models.device)
        self.dtype = str(models.dtype).removeprefix("torch.")
        self._models = models
        self._pipeline = RestorerPipeline(models, self.settings)

    def warm_up(self) -> None:
        """Send one picture through every network. Raises `StartupError`."""
        self.pipeline.warm_up()

    def register(self, server: grpc.aio.Server) -> None:
        """Add the servicer to the server."""
        restorer_service_pb2_grpc.add_RestorerServiceServicer_to_server(RestorerServicer(self), server)

    def vram(self) -> tuple[int, int] | None:
        """Return (free, total) device memory in bytes, None on a CPU."""
        return memory_info(self._models.device) if self._models else None

    def collectors(self) -> list[Collector]:
        """Return the collector of the device's memory."""
        return [VramCollector(self.models.device)]


class RestorerServicer(restorer_service_pb2_grpc.RestorerServiceServicer):
    """Answers the calls of `atelier.restorer.v1.RestorerService`."""

    def __init__(self, stage: RestorerStage) -> None:
        self._stage = stage
        # Decoding waits its turn, so that a burst of large pictures does not fill the memory with pixels.
        self._host_work = asyncio.Semaphore(usable_processors())

    async def RestoreFaces(
        self, message: pb.RestoreFacesRequest, context: grpc.aio.ServicerContext
    ) -> pb.RestoreFacesResponse:
        """Restore the faces of one picture."""
        stage, deadline = self._stage, _deadline(context)
        request = convert.restore_request(message)
        stage.worker.check_place(deadline)
        host, device = StageLedger(), StageLedger(probe_for(stage.models.device))
        picture = await self._on_host(lambda: self._decode(message, request, host))
        job = stage.worker.submit(
            lambda job: stage.pipeline.restore(job, picture, request, device), deadline=deadline
        )
        restoration = await job.result()
        host.reports += device.reports
        result = await self._on_host(lambda: stage.pipeline.paste(picture, request, restoration, host))

        def encode() -> pb.RestoreFacesResponse:
            with host.stage("encode"):
                image = convert.encode(result.picture, request)
                mask = convert.mask_image(result) if request.return_mask else None
            warnings = convert.encoding_warnings(result, request)
            response = convert.restore_response(result, image, warnings, host.reports, stage.model_set)
            if mask is not None:
                response.mask.CopyFrom(mask)
            return response

        return await self._on_host(encode)

    async def DetectFaces(
        self, message: pb.DetectFacesRequest, context: grpc.aio.ServicerContext
    ) -> pb.DetectFacesResponse:
        """Find the faces of one picture."""
        stage, deadline = self._stage, _deadline(context)
        request = convert.detect_request(message)
        stage.worker.check_place(deadline)
        host, device = StageLedger(), StageLedger(probe_for(stage.models.device))

        def decode() -> Picture:
            with host.stage("decode"):
                return convert.picture(message.image, stage.settings.max_pixels)

        picture = await self._on_host(decode)
        job = stage.worker.submit(
            lambda job: stage.pipeline.detect(job, picture.rgb, request, device), deadline=deadline
        )
        faces = await job.result()
        return convert.detect_response(faces, picture, host.reports + device.reports)

    async def CompareFidelities(
        self, message: pb.CompareFidelitiesRequest, context: grpc.aio.ServicerContext
    ) -> pb.CompareFidelitiesResponse:
        """Refuse: in the contract, not in this version."""
        raise NotFound("CompareFidelities is not supported yet.")

    async def GetStatus(
        self, message: pb.GetStatusRequest, context: grpc.aio.ServicerContext
    ) -> pb.GetStatusResponse:
        """Say what is loaded and how busy the stage is."""
        return convert.status_response(self._stage.state())

    def _decode(self, message: pb.RestoreFacesRequest, request: RestoreRequest, host: StageLedger) -> Picture:
        max_pixels = self._stage.settings.max_pixels
        with host.stage("decode"):
            picture = convert.picture(message.image, max_pixels)
            check_picture(picture, request, max_pixels)
        return picture

    async def _on_host(self, function: Callable[[], T]) -> T:
        """Run work for the processor in a thread; a cancelled call does not begin the next piece."""
        async with self._host_work:
            return await asyncio.to_thread(function)


def _deadline(context: grpc.aio.ServicerContext) -> float | None:
    """Return the call's deadline on the clock of `time.monotonic`, None for none."""
    remaining = context.time_remaining()
    return None if remaining is None else time.monotonic() + remaining
