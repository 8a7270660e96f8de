"""The two services as the backends that `core` needs.

Every call carries the request ID, whom it is for, the trace, and the time that is left; canceling the task
that awaits a call cancels the call in the service. Calls are balanced over all ready replicas of a service
and retried, see `channel`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any, ClassVar, Self, TypeVar

import grpc
from google.protobuf.descriptor import ServiceDescriptor

from atelier.generator.v1 import generator_service_pb2 as generator_pb
from atelier.generator.v1 import generator_service_pb2_grpc
from atelier.restorer.v1 import restorer_service_pb2 as restorer_pb
from atelier.restorer.v1 import restorer_service_pb2_grpc
from atelier_gateway.backends import convert
from atelier_gateway.backends.channel import BackendChannel, BackendName, unreachable
from atelier_gateway.backends.large_request import SerializedRequests
from atelier_gateway.core.backend import Backend, GeneratorBackend, RestorerBackend
from atelier_gateway.core.estimates import GeneratorEstimate
from atelier_gateway.core.offer import GeneratorOffer
from atelier_gateway.core.values import (
    CompareSpec,
    Detection,
    DetectSpec,
    GenerateSpec,
    OnImage,
    OnProgress,
    Restoration,
    RestoreSpec,
)
from atelier_runtime import tracing, wire
from atelier_runtime.caller import CALLER_HEADER, caller
from atelier_runtime.errors import DeadlineExceeded, InternalError, InvalidRequest
from atelier_runtime.images import message_limit_bytes
from atelier_runtime.log import REQUEST_ID_HEADER, request_id
from atelier_runtime.service_status import ServiceStatus
from atelier_runtime.tls import PemFiles

T = TypeVar("T")


class _Client(Backend):
    """What both have in common. Enter it in the event loop that will use it."""

    _name: ClassVar[BackendName]
    _service: ClassVar[ServiceDescriptor]
    _stub: ClassVar[Any]  # protoc writes stubs without types
    _status_request: ClassVar[type[Any]]

    def __init__(
        self,
        address: str,
        *,
        max_pixels: int,
        wait_s: float,
        status_timeout_s: float,
        api_key: str = "",
        tls: PemFiles | None = None,
    ) -> None:
        """Nothing is opened yet.

        Args:
            address: A gRPC target, such as `127.0.0.1:50051` or `dns:///restorer:50052`.
            max_pixels: Largest image, sent or received.
            wait_s: How long a call waits for a replica while there is none.
            status_timeout_s: How long `status` waits.
            api_key: What is presented to the service; "" where it has no keys.
            tls: What to trust and to present; None: nothing is encrypted.
        """
        self._api_key = api_key
        self._channel = BackendChannel(
            self._name, address, self._service.full_name, max_pixels=max_pixels, wait_s=wait_s, tls=tls
        )
        self._status_timeout_s = status_timeout_s
        self._max_bytes = message_limit_bytes(max_pixels)

    async def __aenter__(self) -> Self:
        """Open the channels; nothing is connected before the first call."""
        await self._channel.__aenter__()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        """Close the channels; calls in flight are canceled."""
        await self._channel.__aexit__(*exc_info)

    async def status(self) -> ServiceStatus:
        """Return the service's status. Raises `ServiceUnavailable` if it does not respond in time."""
        return wire.status_from_proto((await self._get_status()).status)

    async def _get_status(self) -> Any:
        get_status = type(self)._stub(self._channel.status_channel).GetStatus
        try:
            with self._span("GetStatus"):
                return await get_status(
                    self._status_request(), timeout=self._status_timeout_s, metadata=self._metadata()
                )
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
                raise unreachable(self._name) from None
            raise self._channel.error_of(error) from None

    def _options(self, deadline: float) -> dict[str, Any]:
        """Return the options of a call. Raises `DeadlineExceeded`."""
        remaining = deadline - time.monotonic()
        if remaining <= 0:
            raise DeadlineExceeded()
        return {"timeout": remaining, "metadata": self._metadata()}

    def _metadata(self) -> tuple[tuple[str, str], ...]:
        key = f"Bearer {self._api_key}" if self._api_key else None
        values = (
            (REQUEST_ID_HEADER, request_id.get()),
            (CALLER_HEADER, caller.get()),
            ("authorization", key),
            *tracing.headers(),
        )
        return tuple((name, value) for name, value in values if value)

    async def _call(
        self,
        method: str,
        once: Callable[[Any], Awaitable[T]],
        deadline: float,
        *,
        wait_for_slot: bool = False,
    ) -> T:
        """Let `once` make a call of a method on a stub; see `BackendChannel.call`.

        All attempts are one span, with an event for each retry.
        """
        stub = type(self)._stub
        try:
            with self._span(method):
                return await self._channel.call(
                    lambda channel: once(stub(channel)), deadline, wait_for_slot=wait_for_slot
                )
        except InvalidRequest as error:
            raise error.rename_fields(convert.field_from_proto) from error

    def _span(self, method: str) -> AbstractContextManager[object]:
        name = f"{self._service.full_name}/{method}"
        return tracing.span(name, kind="client", attributes={"rpc.system.name": "grpc", "rpc.method": name})


_GeneratorStub: Any = generator_service_pb2_grpc.GeneratorServiceStub


class GeneratorClient(_Client, GeneratorBackend):
    """The generator."""

    _name = "generator"
    _service = generator_pb.DESCRIPTOR.services_by_name["GeneratorService"]
    _stub = staticmethod(lambda channel: _GeneratorStub(SerializedRequests(channel)))
    _status_request = generator_pb.GetStatusRequest

    async def generate(
        self, spec: GenerateSpec, on_image: OnImage, on_progress: OnProgress, *, deadline: float
    ) -> None:
        """Generate the images."""
        await _with_previews_if_there_are_any(
            lambda possible: self._generate(possible, on_image, on_progress, deadline), spec
        )

    async def _generate(
        self, spec: GenerateSpec, on_image: OnImage, on_progress: OnProgress, deadline: float
    ) -> None:
        request = await asyncio.to_thread(convert.generate_request, spec)
        whole = tracing.current()

        async def once(stub: Any) -> None:
            events = stub.GenerateImage(request, **self._options(deadline))
            number = 0
            try:
                async for event in events:
                    kind = event.WhichOneof("event")
                    if kind == "progress":
                        on_progress(convert.progress_from_proto(event.progress))
                    elif kind == "result":
                        with tracing.working_in(whole):  # what is done with an image is no part of the call
                            await on_image(number, convert.generated_image_from_proto(event.result, spec))
                        number += 1
                        if number == spec.image_count:
                            return
            finally:
                events.cancel()  # no effect on a finished call; stops the work of any other
            raise InternalError(
                f"The generator ended its stream after {number} of {spec.image_count} images."
            )

        await self._call("GenerateImage", once, deadline)

    async def offer(self) -> GeneratorOffer:
        """Return what requests may choose."""
        return convert.offer_from_proto(await self._get_status())

    async def estimate(self, spec: GenerateSpec, *, deadline: float) -> GeneratorEstimate:
        """Return what generating the images would take."""
        return await _with_previews_if_there_are_any(
            lambda possible: self._estimate(possible, deadline), spec
        )

    async def _estimate(self, spec: GenerateSpec, deadline: float) -> GeneratorEstimate:
        message = await asyncio.to_thread(convert.generate_spec_to_proto, spec)
        request = generator_pb.EstimateImageRequest(request=message)

        async def once(stub: Any) -> GeneratorEstimate:
            return convert.estimate_from_proto(await stub.EstimateImage(request, **self._options(deadline)))

        return await self._call("EstimateImage", once, deadline)


async def _with_previews_if_there_are_any(
    call: Callable[[GenerateSpec], Awaitable[T]], spec: GenerateSpec
) -> T:
    """Make a call, again without previews if they are what is refused: not all latents have known colors.

    No client insists on them, and a request is refused before any work.
    """
    try:
        return await call(spec)
    except InvalidRequest as error:
        if {violation.field for violation in error.fields} != {"preview_interval_steps"}:
            raise
    return await call(replace(spec, preview_interval_steps=None))


_RestorerStub: Any = restorer_service_pb2_grpc.RestorerServiceStub


class RestorerClient(_Client, RestorerBackend):
    """The restorer."""

    _name = "restorer"
    _service = restorer_pb.DESCRIPTOR.services_by_name["RestorerService"]
    _stub = staticmethod(lambda channel: _RestorerStub(SerializedRequests(channel)))
    _status_request = restorer_pb.GetStatusRequest

    @property
    def waiting_for_slot(self) -> dict[str, int]:
        """How many calls of each caller wait because the queue is full."""
        return self._channel.waiting_by_caller

    async def restore(
        self, spec: RestoreSpec, *, deadline: float, wait_for_slot: bool = False
    ) -> Restoration:
        """Restore the faces of an image; see `RestorerBackend`."""
        request = await asyncio.to_thread(convert.restore_request, spec)

        async def once(stub: Any) -> Restoration:
            response = await stub.RestoreFaces(request, **self._options(deadline))
            return convert.restoration_from_proto(response, spec)

        return await self._call("RestoreFaces", once, deadline, wait_for_slot=wait_for_slot)

    async def compare(self, spec: CompareSpec, *, deadline: float) -> tuple[Restoration, ...]:
        """Restore the faces of an image once for each fidelity. Returns when the stream is complete.

        All images together may be as large as one message: they are held until the response is written.
        """
        request = await asyncio.to_thread(convert.compare_request, spec)

        async def once(stub: Any) -> tuple[Restoration, ...]:
            responses = stub.CompareFidelities(request, **self._options(deadline))
            results, received, size = [], [], 0
            try:
                async for response in responses:
                    size += response.ByteSize()
                    if size > self._max_bytes:
                        raise InvalidRequest.of(
                            "fidelities",
                            f"make more than {self._max_bytes} bytes of images, the limit of one response; "
                            "request fewer",
                        )
                    received.append(response.fidelity)
                    results.append(convert.restoration_from_proto(response.result, spec.restore))
            finally:
                responses.cancel()
            in_32_bits = restorer_pb.CompareFidelitiesRequest(fidelities=spec.fidelities).fidelities
            wire.check_fidelities(received, in_32_bits)
            return tuple(results)

        return await self._call("CompareFidelities", once, deadline)

    async def detect(self, spec: DetectSpec, *, deadline: float) -> Detection:
        """Find the faces of an image."""
        request = await asyncio.to_thread(convert.detect_request, spec)

        async def once(stub: Any) -> Detection:
            return convert.detection_from_proto(await stub.DetectFaces(request, **self._options(deadline)))

        return await self._call("DetectFaces", once, deadline)
