"""The clients against services on real sockets: streams, request IDs, retries, names of refused fields."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from grpc_status import rpc_status

from atelier.common.v1 import image_pb2
from atelier.generator.v1 import generator_service_pb2 as generator_pb
from atelier.generator.v1 import generator_service_pb2_grpc as generator_grpc
from atelier.restorer.v1 import restorer_service_pb2 as restorer_pb
from atelier.restorer.v1 import restorer_service_pb2_grpc as restorer_grpc
from atelier_gateway.backends.client import GeneratorClient, RestorerClient
from atelier_gateway.core.values import (
    CompareSpec,
    DetectSpec,
    GeneratedImage,
    GenerateSpec,
    Progress,
    RestoreSpec,
    ignore_progress,
)
from atelier_runtime import metrics
from atelier_runtime.errors import (
    AtelierError,
    FieldViolation,
    InternalError,
    InvalidRequest,
    ServiceDraining,
    ServiceUnavailable,
)
from atelier_runtime.images import InputImage
from atelier_runtime.log import request_id
from atelier_runtime.rpc_errors import to_status
from tests.unit.gateway.backends.replicas import in_time, value

_add_generator: Any = generator_grpc.add_GeneratorServiceServicer_to_server  # protoc writes no types
_add_restorer: Any = restorer_grpc.add_RestorerServiceServicer_to_server

MAX_PIXELS = 65_536
LIMITS: dict[str, Any] = {"max_pixels": MAX_PIXELS, "wait_s": 10.0, "status_timeout_s": 5.0}
IMAGE = InputImage(b"a file")


async def fail(context: grpc.aio.ServicerContext, error: AtelierError) -> None:
    await context.abort_with_status(rpc_status.to_status(to_status(error)))


class Generator(generator_grpc.GeneratorServiceServicer):
    """Takes two steps; then returns an image, or ends."""

    def __init__(self) -> None:
        self.image: image_pb2.Image | None = image_pb2.Image(data=b"png", format=image_pb2.IMAGE_FORMAT_PNG)
        self.error: AtelierError | None = None
        self.request_ids: list[str | None] = []
        self.results = 1
        self.lost_after: int | None = None
        """The first call ends as its replica is lost, after so many images."""

    async def GenerateImage(
        self, request: generator_pb.GenerateImageRequest, context: grpc.aio.ServicerContext
    ) -> AsyncIterator[generator_pb.GenerateImageResponse]:
        self.request_ids.append(dict(context.invocation_metadata()).get("x-request-id"))
        for step in (1, 2):
            progress = generator_pb.GenerateImageProgress(stage="base", step=step, total_steps=2)
            yield generator_pb.GenerateImageResponse(progress=progress)
        yield generator_pb.GenerateImageResponse()  # an event that only a newer version knows
        if self.error is not None:
            await fail(context, self.error)
        for number in range(self.results if self.image is not None else 0):
            if number == self.lost_after:
                self.lost_after = None
                await fail(context, ServiceUnavailable())
            result = generator_pb.GenerateImageResult(image=self.image, seed=7 + number)
            yield generator_pb.GenerateImageResponse(result=result)


class Received:
    """The images that a client has handed over."""

    def __init__(self) -> None:
        self.images: list[GeneratedImage] = []

    async def __call__(self, number: int, image: GeneratedImage) -> None:
        del self.images[number:]
        assert number == len(self.images)
        self.images.append(image)


class Restorer(restorer_grpc.RestorerServiceServicer):
    """Returns images of `image_bytes`; the first `failures` streams end with an error after one image."""

    def __init__(self) -> None:
        self.image_bytes = 10
        self.failures = 0
        self.reverse = False
        self.error: AtelierError = ServiceDraining()
        self.calls = 0

    async def CompareFidelities(
        self, request: restorer_pb.CompareFidelitiesRequest, context: grpc.aio.ServicerContext
    ) -> AsyncIterator[restorer_pb.CompareFidelitiesResponse]:
        self.calls += 1
        for fidelity in reversed(request.fidelities) if self.reverse else request.fidelities:
            image = image_pb2.Image(data=b"x" * self.image_bytes, format=image_pb2.IMAGE_FORMAT_PNG)
            result = restorer_pb.RestoreFacesResponse(image=image, model_set=str(fidelity))
            yield restorer_pb.CompareFidelitiesResponse(fidelity=fidelity, result=result)
            if self.calls <= self.failures:
                await fail(context, self.error)

    async def DetectFaces(
        self, request: restorer_pb.DetectFacesRequest, context: grpc.aio.ServicerContext
    ) -> restorer_pb.DetectFacesResponse:
        fields = [FieldViolation("detect_size_px", "cannot be"), FieldViolation("image.format", "is unknown")]
        await fail(context, InvalidRequest(fields))
        raise AssertionError("aborted")


async def serve(servicer: Generator | Restorer) -> tuple[grpc.aio.Server, str]:
    options = [("grpc.max_send_message_length", -1), ("grpc.so_reuseport", 0)]
    server = grpc.aio.server(options=options)
    add = _add_generator if isinstance(servicer, Generator) else _add_restorer
    add(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    return server, f"127.0.0.1:{port}"


@pytest.fixture
async def generator() -> AsyncIterator[tuple[Generator, GeneratorClient]]:
    servicer = Generator()
    server, address = await serve(servicer)
    async with GeneratorClient(address, **LIMITS) as client:
        yield servicer, client
    await server.stop(None)


@pytest.fixture
async def restorer() -> AsyncIterator[tuple[Restorer, RestorerClient]]:
    servicer = Restorer()
    server, address = await serve(servicer)
    async with RestorerClient(address, **LIMITS) as client:
        yield servicer, client
    await server.stop(None)


async def test_progress_of_the_stream_is_handed_on(generator: tuple[Generator, GeneratorClient]) -> None:
    _, client = generator
    seen: list[Progress] = []
    received = Received()
    await client.generate(GenerateSpec("x"), received, seen.append, deadline=in_time())
    [generated] = received.images
    assert seen == [Progress("base", 1, 2), Progress("base", 2, 2)]
    assert (generated.image.data, generated.seed) == (b"png", 7)


async def test_several_images_are_handed_over_in_order(generator: tuple[Generator, GeneratorClient]) -> None:
    servicer, client = generator
    servicer.results = 3
    received = Received()
    await client.generate(GenerateSpec("x", num_images=3), received, ignore_progress, deadline=in_time())
    assert [image.seed for image in received.images] == [7, 8, 9]


async def test_images_that_are_missing_are_an_internal_error(
    generator: tuple[Generator, GeneratorClient],
) -> None:
    _, client = generator  # as an older one, which does not know num_images
    with pytest.raises(InternalError, match="after 1 of 2 images"):
        await client.generate(
            GenerateSpec("x", num_images=2), Received(), ignore_progress, deadline=in_time()
        )


async def test_a_replica_that_is_lost_between_images_is_replaced(
    generator: tuple[Generator, GeneratorClient],
) -> None:
    servicer, client = generator
    servicer.results, servicer.lost_after = 3, 2
    received = Received()
    await client.generate(GenerateSpec("x", num_images=3), received, ignore_progress, deadline=in_time())
    assert [image.seed for image in received.images] == [7, 8, 9]
    assert len(servicer.request_ids) == 2


async def test_the_request_id_is_sent(generator: tuple[Generator, GeneratorClient]) -> None:
    servicer, client = generator
    token = request_id.set("request-66")
    await client.generate(GenerateSpec("x"), Received(), ignore_progress, deadline=in_time())
    request_id.reset(token)
    assert servicer.request_ids == ["request-66"]


@pytest.mark.parametrize("image", [None, image_pb2.Image(data=b"webp", format=image_pb2.IMAGE_FORMAT_WEBP)])
async def test_a_stream_without_the_requested_image_is_an_internal_error(
    generator: tuple[Generator, GeneratorClient], image: image_pb2.Image | None
) -> None:
    servicer, client = generator
    servicer.image = image
    with pytest.raises(InternalError):
        await client.generate(
            GenerateSpec("x", output_format="png"), Received(), ignore_progress, deadline=in_time()
        )


async def test_refused_fields_are_named_as_in_the_spec(
    generator: tuple[Generator, GeneratorClient], restorer: tuple[Restorer, RestorerClient]
) -> None:
    servicer, client = generator
    servicer.error = InvalidRequest.of("width_px", "is too large")
    with pytest.raises(InvalidRequest) as refused:
        await client.generate(GenerateSpec("x"), Received(), ignore_progress, deadline=in_time())
    assert [violation.field for violation in refused.value.fields] == ["width"]
    with pytest.raises(InvalidRequest) as refused:
        await restorer[1].detect(DetectSpec(IMAGE), deadline=in_time())
    assert [violation.field for violation in refused.value.fields] == ["detect_size", "image"]


async def test_a_comparison_is_complete_and_in_order(restorer: tuple[Restorer, RestorerClient]) -> None:
    spec = CompareSpec(RestoreSpec(IMAGE), (0.25, 1.0, 0.5))
    results = await restorer[1].compare(spec, deadline=in_time())
    assert [result.model_set for result in results] == ["0.25", "1.0", "0.5"]


async def test_a_comparison_that_is_lost_midway_starts_again(
    restorer: tuple[Restorer, RestorerClient],
) -> None:
    servicer, client = restorer
    servicer.failures = 2
    spec = CompareSpec(RestoreSpec(IMAGE), (0.25, 0.5))
    results = await client.compare(spec, deadline=in_time())
    assert [result.model_set for result in results] == ["0.25", "0.5"], "nothing twice"
    assert servicer.calls == 3


async def test_a_comparison_of_other_fidelities_is_an_internal_error_and_counts_as_a_failure(
    restorer: tuple[Restorer, RestorerClient],
) -> None:
    servicer, client = restorer
    servicer.reverse = True
    failures = metrics.BACKEND_FAILURES.labels("restorer", "internal")
    before = value(failures)
    with pytest.raises(InternalError, match=r"0\.5.*0\.25"):
        await client.compare(CompareSpec(RestoreSpec(IMAGE), (0.25, 0.5)), deadline=in_time())
    assert (value(failures), servicer.calls) == (before + 1, 1)


async def test_the_images_of_a_comparison_may_be_as_large_together_as_one_message(
    restorer: tuple[Restorer, RestorerClient],
) -> None:
    servicer, client = restorer
    servicer.image_bytes = 2**19
    results = await client.compare(CompareSpec(RestoreSpec(IMAGE), (0.5,) * 8), deadline=in_time())
    assert len(results) == 8
    servicer.image_bytes = 4 * 2**20
    with pytest.raises(InvalidRequest) as caught:
        await client.compare(CompareSpec(RestoreSpec(IMAGE), (0.5,) * 8), deadline=in_time())
    assert [violation.field for violation in caught.value.fields] == ["fidelities"]
    servicer.image_bytes = 5 * 2**20
    with pytest.raises(InternalError):
        await client.compare(CompareSpec(RestoreSpec(IMAGE), (0.5,)), deadline=in_time())


async def test_a_service_that_does_not_report_its_status_is_unavailable() -> None:
    async with RestorerClient("127.0.0.1:1", **LIMITS) as client:
        with pytest.raises(ServiceUnavailable):
            await client.status()
