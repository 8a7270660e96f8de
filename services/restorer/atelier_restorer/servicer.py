"""The restorer over gRPC: convert, call the pipeline, wrap. Nothing is computed on the event loop."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import aclosing
from dataclasses import replace
from functools import partial

import grpc

from atelier.restorer.v1 import restorer_service_pb2 as pb
from atelier.restorer.v1 import restorer_service_pb2_grpc as pb_grpc
from atelier_restorer import convert
from atelier_restorer.codec import encode_result
from atelier_restorer.compilation import compile_codeformer
from atelier_restorer.cpu_pool import CpuPool
from atelier_restorer.limits import check_response
from atelier_restorer.models import ROLES, FaceRestorer, Models, batch_for, load_models
from atelier_restorer.pipeline import RestorerPipeline
from atelier_restorer.recipe import Origin
from atelier_restorer.request import RestoreRequest, RestoreResult
from atelier_restorer.settings import RestorerSettings
from atelier_runtime import wire
from atelier_runtime.device_worker import DeviceWorker
from atelier_runtime.images.workers import ImageWorkers
from atelier_runtime.metrics import StageTimer
from atelier_runtime.service import LoadedModels, StatusServicer, deadline_of
from atelier_runtime.service_status import LoadedNetwork, NetworkRole, ServiceStatus

logger = logging.getLogger(__name__)


class RestorerService:
    """What the runtime serves: the pipeline and its servicer."""

    name: str = pb.DESCRIPTOR.services_by_name["RestorerService"].full_name

    def __init__(
        self,
        settings: RestorerSettings,
        worker: DeviceWorker,
        image_workers: ImageWorkers,
        roles: Collection[NetworkRole] = ROLES,
    ) -> None:
        """`roles`: the networks to load, where the model set has them."""
        self.settings = settings
        self.worker = worker
        self.image_workers = image_workers
        self.cpu_pool = CpuPool()
        self._roles = roles
        self._models: Models | None = None
        self._pipeline: RestorerPipeline | None = None
        self._loaded: LoadedModels | None = None

    @property
    def models(self) -> Models:
        """The networks; the runtime lets no call through before they are loaded."""
        assert self._models is not None, "used after load()"
        return self._models

    @property
    def loaded(self) -> LoadedModels:
        """What is loaded; the runtime lets no call through before."""
        assert self._loaded is not None, "used after load()"
        return self._loaded

    @property
    def pipeline(self) -> RestorerPipeline:
        """The pipeline; the runtime lets no call through before it is loaded."""
        assert self._pipeline is not None, "used after load()"
        return self._pipeline

    def load(self) -> LoadedModels:
        """Read the networks into memory. Raises `StartupError`."""
        self._models = models = load_models(self.settings, self._roles)
        self._pipeline = RestorerPipeline(
            models, self.settings, self.worker, self.image_workers, self.cpu_pool
        )
        self._loaded = LoadedModels(
            model_set=models.name,
            model_set_hash=models.hash(),
            networks=tuple(LoadedNetwork(c.role, c.name) for c in models.components.values()),
            device=models.device,
            dtype=models.main_dtype,
        )
        return self._loaded

    def warm_up(self) -> None:
        """Run every network once, then compile what the settings ask for. Raises `StartupError`."""
        self.pipeline.warm_up()
        restorer = self.models.codeformer
        if isinstance(restorer, FaceRestorer):
            max_batch = self.settings.max_batch or batch_for(self.models.device)
            compile_codeformer(restorer, self.settings, max_batch=max_batch)
        elif restorer is not None and self.settings.compile != "off":
            logger.warning(f"COMPILE={self.settings.compile}: {restorer.architecture.name} is not compiled")

    def register(self, server: grpc.aio.Server, status: Callable[[], ServiceStatus]) -> None:
        """Add the servicer to the server."""
        _add_to_server(RestorerServicer(self, status), server)


_add_to_server: Callable[[RestorerServicer, grpc.aio.Server], None]
_add_to_server = pb_grpc.add_RestorerServiceServicer_to_server  # protoc's output is not annotated


class RestorerServicer(StatusServicer, pb_grpc.RestorerServiceServicer):
    """`atelier.restorer.v1.RestorerService`."""

    def __init__(self, service: RestorerService, status: Callable[[], ServiceStatus]) -> None:
        super().__init__(pb.GetStatusResponse, status)
        self._service = service

    async def RestoreFaces(
        self, message: pb.RestoreFacesRequest, context: grpc.aio.ServicerContext
    ) -> pb.RestoreFacesResponse:
        """Restore the faces of an image."""
        request = convert.restore_request_from_proto(message)
        image = wire.input_image_from_proto(message.image)
        result = await self._service.pipeline.restore(image, request, deadline_of(context))
        return await self._response(result, request)

    async def CompareFidelities(
        self, message: pb.CompareFidelitiesRequest, context: grpc.aio.ServicerContext
    ) -> AsyncIterator[pb.CompareFidelitiesResponse]:
        """Restore the faces of an image at several fidelities."""
        request, fidelities = convert.compare_request_from_proto(message)
        image = wire.input_image_from_proto(message.restore.image)
        results = self._service.pipeline.compare(image, request, fidelities, deadline_of(context))
        async with aclosing(results):
            async for fidelity, result in results:
                response = await self._response(result, replace(request, fidelity=fidelity))
                yield pb.CompareFidelitiesResponse(fidelity=fidelity, result=response)

    async def DetectFaces(
        self, message: pb.DetectFacesRequest, context: grpc.aio.ServicerContext
    ) -> pb.DetectFacesResponse:
        """Find the faces of an image."""
        request = convert.detect_request_from_proto(message)
        image = wire.input_image_from_proto(message.image)
        result = await self._service.pipeline.detect(image, request, deadline_of(context))
        return convert.detect_response_to_proto(result)

    async def _response(self, result: RestoreResult, request: RestoreRequest) -> pb.RestoreFacesResponse:
        service = self._service
        timer = StageTimer()
        loaded = service.loaded
        origin = Origin(loaded.model_set, loaded.model_set_hash, loaded.works_on)
        encode = partial(encode_result, result, request, origin)
        encoded = await service.image_workers.encode(encode, timer.stage("encode"))

        def convert_to_proto() -> pb.RestoreFacesResponse:
            stages = [*result.stages, *timer.reports]
            response = convert.restore_response_to_proto(result, encoded, stages, loaded)
            check_response(response.ByteSize(), request, service.settings.max_pixels)
            return response

        return await service.cpu_pool.run(convert_to_proto)
