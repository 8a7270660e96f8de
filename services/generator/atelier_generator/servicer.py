"""The generator over gRPC: convert, run on the device thread, stream the outcome."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace
from functools import partial

import grpc
from google.protobuf.message import Message

from atelier.generator.v1 import generator_service_pb2 as pb
from atelier.generator.v1 import generator_service_pb2_grpc as pb_grpc
from atelier_generator import convert
from atelier_generator.compilation import compile_networks
from atelier_generator.generation import Progress, Run
from atelier_generator.models import ROLES, Models, choose_max_batch, load_models
from atelier_generator.pipeline import Pipeline
from atelier_generator.prompts import PendingPrompt
from atelier_generator.recipe import with_recipe
from atelier_generator.request import CompletedRequest
from atelier_generator.settings import GeneratorSettings
from atelier_generator.source_reading import read_source
from atelier_generator.warm_up import warm_up
from atelier_runtime import tracing
from atelier_runtime.cost_model import Cost
from atelier_runtime.device_job import Job, Together
from atelier_runtime.device_worker import DeviceWorker
from atelier_runtime.errors import AtelierError, QueueFull
from atelier_runtime.images import InputImage, Picture, encode_output
from atelier_runtime.images.workers import ImageWorkers
from atelier_runtime.metrics import StageTimer
from atelier_runtime.service import LoadedModels, StatusServicer, deadline_of
from atelier_runtime.service_status import LoadedNetwork, ServiceStatus

_MOST_ESTIMATING = 2


class GeneratorService:
    """What the runtime serves: the pipeline and its servicer."""

    name = pb.DESCRIPTOR.services_by_name["GeneratorService"].full_name

    def __init__(
        self, settings: GeneratorSettings, worker: DeviceWorker, image_workers: ImageWorkers
    ) -> None:
        self.settings = settings
        self.worker = worker
        self.image_workers = image_workers
        self._models: Models | None = None
        self._pipeline: Pipeline | None = None
        self._loaded: LoadedModels | None = None

    @property
    def loaded(self) -> LoadedModels:
        """What is loaded; the runtime lets no call through before."""
        assert self._loaded is not None, "used after load()"
        return self._loaded

    @property
    def loaded_pipeline(self) -> Pipeline | None:
        """The pipeline, None until it is loaded."""
        return self._pipeline

    @property
    def pipeline(self) -> Pipeline:
        """The pipeline; the runtime lets no call through before it is loaded."""
        assert self._pipeline is not None, "used after load()"
        return self._pipeline

    def load(self) -> LoadedModels:
        """Read the networks into memory. Raises `StartupError`."""
        self._models = models = load_models(self.settings)
        max_batch = choose_max_batch(self.settings.max_batch, models.device)
        # Only batches up to that are compiled, and one image must not be compiled and another not.
        max_images = None if self.settings.compile == "off" else max_batch
        self._pipeline = Pipeline(models, max_batch=max_batch, max_images=max_images)
        self._loaded = loaded_models(models)
        return self._loaded

    def warm_up(self) -> None:
        """Generate a small image, then compile what the settings ask for. Raises `StartupError`."""
        assert self._models is not None, "used after load()"
        warm_up(self.pipeline, self._models)
        batch_sizes = range(1, self.pipeline.max_batch + 1)
        compile_networks(self._models, self.settings, batch_sizes=batch_sizes)

    def register(self, server: grpc.aio.Server, status: Callable[[], ServiceStatus]) -> None:
        """Add the servicer to the server."""
        _add_to_server(GeneratorServicer(self, status), server)


_add_to_server: Callable[[GeneratorServicer, grpc.aio.Server], None]
_add_to_server = pb_grpc.add_GeneratorServiceServicer_to_server  # protoc's output is not annotated


class GeneratorServicer(StatusServicer, pb_grpc.GeneratorServiceServicer):
    """`atelier.generator.v1.GeneratorService`."""

    def __init__(self, service: GeneratorService, status: Callable[[], ServiceStatus]) -> None:
        super().__init__(pb.GetStatusResponse, status)
        self._service = service
        self._estimating = 0

    async def GetStatus(self, request: Message, context: grpc.aio.ServicerContext) -> pb.GetStatusResponse:
        """Report what is loaded, what requests may choose, and how busy the service is."""
        response = pb.GetStatusResponse(status=self.current_status())
        if (pipeline := self._service.loaded_pipeline) is not None:
            response.samplers.extend(convert.samplers_to_proto(pipeline.samplers))
            response.defaults.CopyFrom(pb.SamplingDefaults(**pipeline.sampling_defaults))
            response.loras.extend(convert.loras_to_proto(pipeline.loras))
        return response

    async def EstimateImage(
        self, message: pb.EstimateImageRequest, context: grpc.aio.ServicerContext
    ) -> pb.EstimateImageResponse:
        """Tell what a request would take. Neither queues nor touches the device."""
        pipeline = self._service.pipeline
        request = self._read(message.request)
        if request.image is not None:
            request = await self._with_source_of_estimate(request)
        estimate = await asyncio.to_thread(pipeline.estimate, request)
        wait = self._service.worker.expected_wait(_together(pipeline, request))
        return convert.estimate_to_proto(
            estimate, request, pipeline.sampling_names(request), wait.seconds, pipeline.model_set.name
        )

    async def GenerateImage(
        self, message: pb.GenerateImageRequest, context: grpc.aio.ServicerContext
    ) -> AsyncIterator[pb.GenerateImageResponse]:
        """Stream progress, then the images. A canceled call stops within one denoising step."""
        pipeline = self._service.pipeline
        request = self._read(message)
        worker, deadline = self._service.worker, deadline_of(context)
        if request.image is not None:
            message.ClearField("image")  # nothing of the files is kept while the request waits
            message.ClearField("mask")
            with worker.hold_slot():
                request = await self._with_source(request)
                together, expected = await asyncio.to_thread(_in_queue, pipeline, request)
        else:
            worker.check_slot()  # a full queue refuses before anything is computed
            together, expected = await asyncio.to_thread(_in_queue, pipeline, request)
        worker.check_slot(deadline, expected, together)  # no prompt is encoded in vain
        prompt = pipeline.start_prompt(request)

        work: Callable[[Job[None]], None] | Together[None]
        if together is None:
            work = partial(_generate_images, pipeline, request, prompt)
        else:
            work = replace(together, item=(request, prompt))
        try:
            job = worker.submit(work, deadline=deadline, expected=expected)
        except AtelierError:
            prompt.cancel()
            raise
        try:
            async for event in job.events():
                yield await self._response(request, event)
                del event
            await job.result()
        finally:
            job.cancel()
            prompt.cancel()
            del job, work, prompt, together  # an error's traceback would keep them, and they the error

    def _read(self, message: pb.GenerateImageRequest) -> CompletedRequest:
        """Return a request with nothing left open but its image. Raises `InvalidRequest`."""
        request = convert.request_from_proto(message)
        if not request.own_size:
            request.check_size(self._service.settings.max_pixels)
        return self._service.pipeline.complete(request)

    async def _with_source_of_estimate(self, request: CompletedRequest) -> CompletedRequest:
        """`_with_source` without a slot in the queue; for a few at once, since their images take memory."""
        if self._estimating >= _MOST_ESTIMATING:
            raise QueueFull(
                f"{_MOST_ESTIMATING} estimates are being made whose images have to be decoded.",
                retry_after_s=1.0,
            )
        self._estimating += 1
        try:
            return await self._with_source(request)
        finally:
            self._estimating -= 1

    async def _with_source(self, request: CompletedRequest) -> CompletedRequest:
        """Return a request with its image and mask decoded, and brought to the size of the result."""
        workers, timer = self._service.image_workers, StageTimer()
        assert request.image is not None, "checked by the caller"
        picture = await workers.decode(InputImage(request.image), timer.stage("read_image"))
        mask = None
        if request.mask is not None:
            mask = await workers.decode(InputImage(request.mask), timer.stage("read_image"), "mask")
        source = await asyncio.to_thread(read_source, request, picture, mask, timer.reports)
        request = request.with_source(source)
        request.check_size(self._service.settings.max_pixels)
        return request

    async def _response(self, request: CompletedRequest, event: Progress | Run) -> pb.GenerateImageResponse:
        """Return the event of a step, or of an image that the networks have made."""
        if isinstance(event, Progress):
            write = convert.progress_to_proto
            return await asyncio.to_thread(write, event) if event.previews else write(event)
        pipeline, on_device = self._service.pipeline, len(event.timer.reports)
        generation = await asyncio.to_thread(pipeline.finish, event)
        timer = StageTimer()
        encode = partial(
            encode_output, Picture(rgb=generation.pixels), request.output_format, request.quality
        )
        image = await self._service.image_workers.encode(encode, timer.stage("encode"))
        if request.writes_recipe:
            data = await asyncio.to_thread(with_recipe, image.data, request, generation, self._service.loaded)
            image = replace(image, data=data)
        stages = [*generation.stages, *timer.reports]
        pipeline.estimator.learn(event, stages[on_device:], on_device=False)
        return convert.result_to_proto(generation, image, stages, self._service.loaded)


def loaded_models(models: Models) -> LoadedModels:
    """Return what of a model set is loaded."""
    components = (models.model_set.component(role) for role in ROLES)
    return LoadedModels(
        model_set=models.model_set.name,
        model_set_hash=models.model_set.hash,
        networks=tuple(LoadedNetwork(c.role, c.name) for c in components if c is not None),
        device=models.device,
        dtype=models.dtype,
    )


def _together(pipeline: Pipeline, request: CompletedRequest) -> Together[None] | None:
    """Return a request's share in a batch, without its item; None for several images, which are their own."""
    if request.num_images > 1:
        return None
    return Together(
        key=pipeline.batch_key(request),
        limit=pipeline.max_batch,
        function=partial(_generate, pipeline),
        item=None,
    )


def _in_queue(
    pipeline: Pipeline, request: CompletedRequest
) -> tuple[Together[None] | None, tuple[Cost, ...]]:
    """Return `_together` and `_expected`; not for the event loop: schedules of many steps take a while."""
    return _together(pipeline, request), _expected(pipeline, request)


def _expected(pipeline: Pipeline, request: CompletedRequest) -> tuple[Cost, ...]:
    """Return what a request is expected to keep the device busy, alone and in batches of 2, 3, ..."""
    most = 1 if request.num_images > 1 else pipeline.max_batch
    return tuple(pipeline.estimate(request, requests=number).on_device for number in range(1, most + 1))


def _generate_images(
    pipeline: Pipeline, request: CompletedRequest, prompt: PendingPrompt, job: Job[None]
) -> None:
    """Generate the images of one request."""
    pipeline.generate_group(pipeline.image_runs(request, job.check, job.emit, prompt), job.emit)


def _generate(pipeline: Pipeline, jobs: Sequence[Job[None]]) -> None:
    """Generate the images of jobs whose items are a request and its prompt."""
    job_of: dict[Run, Job[None]] = {}
    for job in jobs:
        with tracing.working_in(tracing.span_of(job.context)):  # for the stages that it does not share
            job_of[pipeline.run(job.item[0], job.check, job.emit, job.item[1])] = job

    def end(run: Run, error: Exception | None) -> None:
        job = job_of.pop(run)
        if error is None:
            job.emit(run)
            job.succeed(None)
        else:
            job.fail(error)

    pipeline.generate_batch(list(job_of), end)
