"""Backends without a wire, for tests of the use cases."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import numpy as np

from atelier_gateway.core.backend import GeneratorBackend, RestorerBackend
from atelier_gateway.core.estimates import EstimatedPass, GeneratorEstimate
from atelier_gateway.core.offer import GeneratorOffer
from atelier_gateway.core.values import (
    CompareSpec,
    Detection,
    DetectSpec,
    Face,
    FaceOutcome,
    GeneratedImage,
    GenerateSpec,
    OnImage,
    OnProgress,
    Progress,
    Restoration,
    RestoreSpec,
    Sampling,
)
from atelier_runtime.cost_model import Cost
from atelier_runtime.errors import AtelierError
from atelier_runtime.images import EncodedImage, OutputFormat, Picture, encode_output
from atelier_runtime.metrics import StageReport
from atelier_runtime.outcomes import ResponseWarning, SkipReason, WarningCode
from atelier_runtime.service_status import LoadedNetwork, NetworkRole, ServiceStatus
from atelier_runtime.sizes import Size

SIDE = 16
STEPS = 2


def status(*networks: tuple[NetworkRole, str], ready: bool = True, device: str = "cpu") -> ServiceStatus:
    return ServiceStatus(
        version="1",
        ready=ready,
        model_set="demo" if ready else "",
        networks=tuple(LoadedNetwork(role, name) for role, name in networks),
        device=device,
        device_name="",
        dtype="float32",
        vram_free_bytes=None,
        vram_total_bytes=None,
        process_memory_bytes=None,
        queue_depth=None,
        queue_capacity=None,
        running=None,
        image_workers=None,
        image_workers_busy=None,
        image_queue_depth=None,
    )


def file_of(service: str, file_format: OutputFormat) -> bytes:
    """Return the file that a service makes of any request."""
    gray = np.full((SIDE, SIDE, 3), len(service), np.uint8)
    return encode_output(Picture(gray), file_format, 90).data


class FakeGenerator(GeneratorBackend):
    """Returns gray pixels, after two steps of progress."""

    def __init__(self) -> None:
        self.error: AtelierError | None = None
        self.reported: ServiceStatus | AtelierError = status((NetworkRole.BASE, "demo-sdxl"))
        self.specs: list[GenerateSpec] = []
        self.estimated: list[GenerateSpec] = []
        self.upscaler = ""
        self.raw = bytes(SIDE * SIDE * 3)
        self.fails_before: dict[int, AtelierError] = {}
        """What is raised instead of an image, by number from 0."""
        self.begins_again_before: set[int] = set()
        """As a call does that is retried on another replica."""
        self.handed_over = 0

    async def status(self) -> ServiceStatus:
        if isinstance(self.reported, AtelierError):
            raise self.reported
        return self.reported

    async def generate(
        self, spec: GenerateSpec, on_image: OnImage, on_progress: OnProgress, *, deadline: float
    ) -> None:
        self.specs.append(spec)
        if self.error is not None:
            raise self.error
        for step in range(1, STEPS + 1):
            on_progress(Progress("base", step, STEPS))
        for number in range(spec.image_count):
            await asyncio.sleep(0)
            if number in self.fails_before:
                raise self.fails_before.pop(number)
            if number in self.begins_again_before:
                self.begins_again_before.remove(number)
                await self.generate(spec, on_image, on_progress, deadline=deadline)
                return
            self.handed_over += 1
            await on_image(number, self._image(spec, number))

    async def offer(self) -> GeneratorOffer:
        return GeneratorOffer(await self.status(), (), (), None)

    async def estimate(self, spec: GenerateSpec, *, deadline: float) -> GeneratorEstimate:
        self.estimated.append(spec)
        if self.error is not None:
            raise self.error
        return GeneratorEstimate(
            passes=(EstimatedPass("base", Size(SIDE, SIDE), STEPS),),
            stages=(("base", Cost(10.0, 8.0, 13.0)),),
            cost=Cost(10.0, 8.0, 13.0, observations=2),
            queue_wait_s=4.0,
            size=spec.result_size() if spec.upscale == 1 else replace(spec, upscale=1).result_size(),
            model_set="demo",
            sampling=Sampling("euler", "default", 30, 7.5),
        )

    def _image(self, spec: GenerateSpec, number: int) -> GeneratedImage:
        data = self.raw if spec.output_format == "raw" else file_of("generator", spec.output_format)
        return GeneratedImage(
            image=EncodedImage(data, spec.output_format, SIDE, SIDE),
            seed=7 + number,
            model_set="demo",
            sampling=Sampling("euler", "default", 30, 7.5),
            refiner_applied=False,
            refiner_reason=SkipReason.NOT_LOADED,
            hires_fix_applied=False,
            upscaler=self.upscaler,
            warnings=(ResponseWarning(WarningCode.SIZE_LIMITED, "of the generator"),),
            stages=(StageReport("base", 1.0),),
        )


class FakeRestorer(RestorerBackend):
    """Restores one face."""

    def __init__(self) -> None:
        self.error: AtelierError | None = None
        self.reported: ServiceStatus | AtelierError = status(
            (NetworkRole.FACE_DETECTOR, "retinaface"), (NetworkRole.FACE_RESTORER, "codeformer")
        )
        self.specs: list[RestoreSpec] = []
        self.deadlines: list[float] = []
        self.applied = True
        self.reason: SkipReason | None = None
        self.upscaler = ""
        self.results = 8
        self.waiting: dict[str, int] = {}
        """Calls by caller; the test's own is ""."""
        self.waits: list[bool] = []
        self.gate: asyncio.Event | None = None
        """Restorations wait for it."""
        self.errors: dict[int, AtelierError] = {}
        """By the number of the call, from 0."""
        self.at_once = self.most_at_once = self.cancelled = 0

    async def status(self) -> ServiceStatus:
        if isinstance(self.reported, AtelierError):
            raise self.reported
        return self.reported

    @property
    def waiting_for_slot(self) -> dict[str, int]:
        return self.waiting

    async def restore(
        self, spec: RestoreSpec, *, deadline: float, wait_for_slot: bool = False
    ) -> Restoration:
        self.specs.append(spec)
        self.waits.append(wait_for_slot)
        self.deadlines.append(deadline)
        error = self.errors.get(len(self.specs) - 1, self.error)
        if error is not None:
            raise error
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            if self.gate is not None:
                await self.gate.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            self.at_once -= 1
        outcome = FaceOutcome(face(0), self.applied, self.reason, spec.fidelity, None, None)
        return Restoration(
            image=EncodedImage(
                file_of("restorer", spec.output_format or "png"), spec.output_format or "png", SIDE, SIDE
            ),
            mask=None,
            faces=(outcome,),
            face_restoration_applied=self.applied,
            face_restoration_reason=self.reason,
            tone_matched=False,
            upscale_applied=spec.upscale or 1,
            upscaler=self.upscaler,
            model_set="demo",
            warnings=(ResponseWarning(WarningCode.LOSSY_OUTPUT, "of the restorer"),),
            stages=(StageReport("restore", 2.0),),
        )

    async def compare(self, spec: CompareSpec, *, deadline: float) -> tuple[Restoration, ...]:
        results = [await self.restore(spec.restore, deadline=deadline) for _ in spec.fidelities]
        return tuple(results[: self.results])

    async def detect(self, spec: DetectSpec, *, deadline: float) -> Detection:
        return Detection((face(0),), SIDE, SIDE, (), ())


def face(index: int) -> Face:
    return Face(index, (1, 2, 11, 12), ((1, 1), (2, 1), (1, 2), (1, 3), (2, 3)), 0.9)
