"""The service responds while it works on an image: no step of the work runs on the event loop."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from atelier.common.v1 import image_pb2
from atelier.restorer.v1 import restorer_service_pb2 as pb
from atelier_restorer import convert, pipeline, servicer
from atelier_runtime.images import Picture, shared
from tests.integration.restorer_server import Client, photo, png, serve

LONGEST_WAIT_S = 60
STEPS: list[tuple[Any, str]] = [
    (shared, "send"),  # decoding and encoding, in the image workers
    (shared, "receive"),
    (pipeline, "check_picture"),
    (Picture, "eight_bit"),
    (pipeline, "is_gray"),
    (pipeline, "with_sharpness"),
    (pipeline, "align"),
    (pipeline, "recolor"),
    (pipeline, "match_tones"),
    (pipeline, "paste"),
    (convert, "restore_response_to_proto"),
    (servicer, "check_response"),
]


class Watch:
    """Makes each step of the work last until a health check was answered meanwhile."""

    def __init__(self) -> None:
        """On the event loop's thread."""
        self.loop_thread = threading.get_ident()
        self.answered = 0
        self.on_the_loop: set[str] = set()
        self.answered_during: dict[str, int] = {}

    def wrap(self, name: str, step: Callable[..., Any]) -> Callable[..., Any]:
        def run(*arguments: Any, **options: Any) -> Any:
            if threading.get_ident() == self.loop_thread:
                self.on_the_loop.add(name)
                return step(*arguments, **options)
            before, until = self.answered, time.monotonic() + LONGEST_WAIT_S
            result = step(*arguments, **options)
            while self.answered == before and time.monotonic() < until:
                time.sleep(0.005)
            self.answered_during[name] = self.answered_during.get(name, 0) + self.answered - before
            return result

        return run

    @contextlib.asynccontextmanager
    async def checking(self, client: Client) -> AsyncIterator[None]:
        """Check the service's health again and again."""
        health = health_pb2_grpc.HealthStub(client.channel)

        async def check() -> None:
            while True:
                response = await health.Check(health_pb2.HealthCheckRequest(service=""))
                assert response.status == health_pb2.HealthCheckResponse.SERVING
                self.answered += 1
                await asyncio.sleep(0.005)

        checks = asyncio.create_task(check())
        try:
            yield
            assert not checks.done(), "every check was answered"
        finally:
            checks.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await checks


def large_photo() -> bytes:
    """Return a JPEG of 24 megapixels."""
    return png(cv2.resize(photo(), (6000, 4000), interpolation=cv2.INTER_LINEAR), "JPEG", quality=90)


def deep_photo() -> bytes:
    """Return an RGB PNG of 16 bits."""
    encoded = cv2.imencode(".png", photo(400, 300).astype(np.uint16) * 257)[1]
    return bytes(encoded)


@pytest.mark.parametrize("make", [large_photo, deep_photo])
async def test_health_checks_are_answered_during_every_step_of_the_work(
    seeing: Path, monkeypatch: pytest.MonkeyPatch, make: Callable[[], bytes]
) -> None:
    data = make()
    watch = Watch()
    for place, name in STEPS:
        monkeypatch.setattr(place, name, watch.wrap(name, getattr(place, name)))
    async with serve(seeing, max_pixels=30_000_000) as client, watch.checking(client):
        detected = await client.stub.DetectFaces(
            pb.DetectFacesRequest(image=image_pb2.Image(data=data)), timeout=300
        )
        response = await client.restore(data, timeout=300, max_faces=1, match_tone=True, return_mask=True)
        restore = pb.RestoreFacesRequest(image=image_pb2.Image(data=data), max_faces=1)
        request = pb.CompareFidelitiesRequest(restore=restore, fidelities=[0.2, 0.8])
        compared = [r async for r in client.stub.CompareFidelities(request, timeout=300)]
    assert len(detected.faces) > 0 and response.face_restoration_applied and len(compared) == 2
    assert watch.on_the_loop == set()
    assert set(watch.answered_during) == {name for _, name in STEPS}
    assert all(count > 0 for count in watch.answered_during.values()), watch.answered_during


async def test_one_image_is_pasted_and_encoded_while_the_network_works_on_another(seeing: Path) -> None:
    first_is_done = threading.Event()
    waited: list[bool] = []

    def wait(network: object, inputs: object) -> None:
        if answered:  # the second image's face
            waited.append(first_is_done.wait(LONGEST_WAIT_S))
        answered.append(True)

    answered: list[bool] = []
    async with serve(seeing, max_batch=1, queue_capacity=8) as client:
        client.codeformer.register_forward_pre_hook(wait)
        first = asyncio.create_task(client.restore(png(photo()), timeout=120, max_faces=1))
        while not answered:
            await asyncio.sleep(0.005)
        second = asyncio.create_task(client.restore(png(photo(700, 640)), timeout=120, max_faces=1))
        assert (await first).face_restoration_applied
        first_is_done.set()
        assert (await second).face_restoration_applied
    assert waited == [True], "the second was in the network while the first was finished"
