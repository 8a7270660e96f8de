"""The gRPC service: convert, submit, wrap. Computes nothing itself and nothing on the event loop."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from functools import partial

import grpc
from prometheus_client.registry import Collector

from atelier.restorer.v1 import restorer_service_pb2 as pb
from atelier.restorer.v1 import restorer_service_pb2_grpc
from atelier_restorer import convert
from atelier_restorer.cpu_pool import CpuPool
from atelier_restorer.limits import check_answer, check_picture, check_sweep
from atelier_restorer.models import ROLES, Models, load_models
from atelier_restorer.pipeline import Call, RestorerPipeline
from atelier_restorer.request import RestoreRequest
from atelier_restorer.restoration import Restoration, paste
from atelier_restorer.settings import RestorerSettings
from atelier_runtime.device import DeviceWorker, device_name
from atelier_runtime.health import LoadedNetwork, ServiceStatus
from atelier_runtime.images import Picture
from atelier_runtime.metrics import StageTimer
from atelier_runtime.vram import VramCollector, memory_info, probe_for


class RestorerService:
    """The stage as the runtime sees it: loads the networks, registers the service, says what is loaded."""

    def __init__(
        self,
        settings: RestorerSettings,
        worker: DeviceWorker,
        state: Callable[[], ServiceStatus],
        roles: Collection[str] = ROLES,
    ) -> None:
        """`roles`: the networks to load; a service loads what there is."""
        self.service_name: str = pb.DESCRIPTOR.services_by_name["RestorerService"].full_name
        self.settings = settings
        self.worker = worker
        self.state = state
        self.host = CpuPool()
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
        self._pipeline = RestorerPipeline(models, self.settings, self.worker, self.host)

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

    def __init__(self, stage: RestorerService) -> None:
        self._stage = stage

    async def RestoreFaces(
        self, message: pb.RestoreFacesRequest, context: grpc.aio.ServicerContext
    ) -> pb.RestoreFacesResponse:
        """Restore the faces of one picture."""
        request = convert.restore_request(message)
        return (await self._restore(message, request, None, context))[0]

    async def CompareFidelities(
        self, message: pb.CompareFidelitiesRequest, context: grpc.aio.ServicerContext
    ) -> pb.CompareFidelitiesResponse:
        """Restore the faces of one picture at several fidelities."""
        request, fidelities = convert.compare_request(message)
        results = await self._restore(message.restore, request, fidelities, context)
        return pb.CompareFidelitiesResponse(results=results)

    async def DetectFaces(
        self, message: pb.DetectFacesRequest, context: grpc.aio.ServicerContext
    ) -> pb.DetectFacesResponse:
        """Find the faces of one picture."""
        stage, call = self._stage, self._call(context)
        request = convert.detect_request(message)

        def decode() -> Picture:
            with call.host.stage("decode"):
                return convert.picture(message.image, stage.settings.max_pixels)

        with stage.worker.reserve_slot(call.deadline):
            picture = await stage.host.run(decode)
            faces = await stage.pipeline.detect(picture, request, call)
        return convert.detect_response(faces, picture, call.host.reports)

    async def GetStatus(
        self, message: pb.GetStatusRequest, context: grpc.aio.ServicerContext
    ) -> pb.GetStatusResponse:
        """Say what is loaded and how busy the stage is."""
        return convert.status_response(self._stage.state())

    async def _restore(
        self,
        message: pb.RestoreFacesRequest,
        request: RestoreRequest,
        fidelities: tuple[float, ...] | None,
        context: grpc.aio.ServicerContext,
    ) -> list[pb.RestoreFacesResponse]:
        """Return one answer, or one for each of the fidelities."""
        stage, call = self._stage, self._call(context)

        def decode() -> Picture:
            max_pixels = stage.settings.max_pixels
            with call.host.stage("decode"):
                picture = convert.picture(message.image, max_pixels)
                check_picture(picture, request, max_pixels)
                if fidelities is not None:
                    check_sweep(picture, request, fidelities, max_pixels)
            return picture

        with stage.worker.reserve_slot(call.deadline):
            picture = await stage.host.run(decode)
            restorations = await stage.pipeline.restore(picture, request, call, fidelities)

        def finish(restoration: Restoration) -> pb.RestoreFacesResponse:
            timer = StageTimer()
            result = paste(picture, request, restoration, timer, in_place=fidelities is None)
            with timer.stage("encode"):
                image = convert.encode(result.picture, request)
                mask = convert.mask_image(result)
            warnings = convert.encoding_warnings(result, request)
            stages = [*call.host.reports, *timer.reports]
            response = convert.restore_response(result, image, mask, warnings, stages, stage.model_set)
            check_answer(response.ByteSize() * len(restorations), request, stage.settings.max_pixels)
            return response

        return [await stage.host.run(partial(finish, restoration)) for restoration in restorations]

    def _call(self, context: grpc.aio.ServicerContext) -> Call:
        host = StageTimer()
        device = StageTimer(probe_for(self._stage.models.device), host.reports)
        return Call(_deadline(context), host, device)


def _deadline(context: grpc.aio.ServicerContext) -> float | None:
    """Return the call's deadline on the clock of `time.monotonic`, None for none."""
    remaining = context.time_remaining()
    return None if remaining is None else time.monotonic() + remaining
