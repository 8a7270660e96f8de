"""The types of jobs: the same requests, checks and reports as the synchronous routes have."""

from __future__ import annotations

import asyncio
import random
import time
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from atelier_gateway.api.native.faces_request import (
    COMPARE,
    DETECT,
    RESTORE,
    CompareRequest,
    DetectRequest,
    PhotoRequest,
    RestoreRequest,
    parse_request,
)
from atelier_gateway.api.native.faces_response import detect_report, restore_report
from atelier_gateway.api.native.generate_request import ParsedRequest as ParsedGenerate
from atelier_gateway.api.native.generate_request import parse_request as parse_generate
from atelier_gateway.api.native.generate_response import generate_report
from atelier_gateway.api.native.redraw import (
    ANY_MODEL_SET,
    RECIPE_OF,
    Redrawing,
    read_redrawing,
    renamed,
)
from atelier_gateway.core.faces import Faces
from atelier_gateway.core.generate import Generate
from atelier_gateway.core.shares import Shares
from atelier_gateway.core.spending import spend_on
from atelier_gateway.core.values import (
    CompareSpec,
    DetectSpec,
    GenerateSpec,
    OnProgress,
    Progress,
    Restoration,
    RestoreSpec,
)
from atelier_gateway.http.validation import Validator, fields_renamed
from atelier_gateway.jobs.values import JobProgress, JobType
from atelier_gateway.jobs.work import Accepted, JobWork, Result, Surroundings
from atelier_runtime import defaults
from atelier_runtime.errors import AtelierError, InvalidRequest
from atelier_runtime.images import EncodedImage
from atelier_runtime.log import request_id

Named = tuple[str, EncodedImage]


def works(generate: Generate, faces: Faces, *, max_image_bytes: int) -> dict[JobType, JobWork]:
    """Return what each type of job does. `max_image_bytes`: of all files of a request together."""
    return {
        JobType.GENERATE: GenerateWork(generate, max_image_bytes),
        JobType.RESTORE: RestoreWork(faces, max_image_bytes),
        JobType.DETECT: DetectWork(faces, max_image_bytes),
        JobType.COMPARE: CompareWork(faces, max_image_bytes),
    }


class GenerateWork(JobWork):
    """`/generate`."""

    def __init__(self, generate: Generate, max_image_bytes: int) -> None:
        self._generate = generate
        self._max_image_bytes = max_image_bytes

    async def accept(self, body: Mapping[str, Any]) -> Accepted:
        """Check a request. Its seed is chosen now, so that every attempt draws the same."""
        await self._generate.require_generator()
        redrawing: Redrawing | None = None
        if RECIPE_OF in body or ANY_MODEL_SET in body:
            redrawing = await self._redrawing(body)
            body = redrawing.body
        parsed = await self._parse(body)
        request = parsed.request
        if request.dry_run:
            raise InvalidRequest.of("dry_run", "cannot be used in a job, which would draw nothing")
        files = {name: file for name in ("image", "mask") if (file := getattr(request, name)) is not None}
        fields = {name: value for name, value in body.items() if name not in files}
        if parsed.spec.seed is None:
            last = defaults.SEED_RANGE[1] - (parsed.spec.image_count - 1)
            fields.pop(parsed.names("seed"), None)
            fields["seed"] = random.SystemRandom().randint(defaults.SEED_RANGE[0], last)
        if redrawing is not None:
            fields[RECIPE_OF] = redrawing.kept
        await spend_on(parsed.spec)
        return Accepted(fields, files)

    async def _redrawing(self, body: Mapping[str, Any]) -> Redrawing:
        """Return the request that draws a picture again, which the services can do as they are."""
        redrawing = await asyncio.to_thread(read_redrawing, body)
        try:
            await self._parse(redrawing.body)
        except InvalidRequest as error:
            raise redrawing.renamed(error) from None
        if redrawing.model_sets:
            redrawing.check_sets(*await self._generate.loaded())
        return redrawing

    async def run(self, accepted: Accepted, surroundings: Surroundings) -> Result:
        """Draw the images and restore their faces."""
        fields = dict(accepted.fields)
        redrawn = fields.pop(RECIPE_OF, None)
        if redrawn is None:
            return await self._run({**fields, **accepted.files}, surroundings)
        try:
            return await self._run({**fields, **accepted.files}, surroundings, redrawn["number"])
        except InvalidRequest as error:
            raise renamed(error, redrawn["given"]) from error

    async def _run(
        self, body: Mapping[str, Any], surroundings: Surroundings, number: int | None = None
    ) -> Result:
        """Draw the images, of which perhaps only one is wanted, the `number`th, and restore their faces."""
        started = time.monotonic()
        parsed = await self._parse(body)
        spec = replace(parsed.spec, preview_interval_steps=surroundings.preview_interval_steps)
        with fields_renamed(parsed.names):
            progress = await self._progress(spec, surroundings)
            generations = await self._generate.run(
                spec,
                progress,
                deadline=surroundings.deadline,
                drawings=surroundings.drawings,
                can_wait=surroundings.can_wait,
                only=None if number is None else number - 1,
            )
        seconds = round(time.monotonic() - started, 3)
        reports = [
            generate_report(generation, request_id.get() or "", seconds).model_dump(mode="json")
            for generation in generations
        ]
        report = {
            **reports[0],
            "prompt": parsed.spec.prompt,
            "prompt_tokens": generations[0].prompt_tokens,
        }
        if parsed.spec.num_images is not None:
            report["images"] = reports
        return Result(report, [(_numbered("image", n), each.image) for n, each in enumerate(generations)])

    async def _progress(self, spec: GenerateSpec, surroundings: Surroundings) -> OnProgress:
        """Return what turns steps of stages into shares of the whole, by what each is expected to take."""
        try:
            estimate = await self._generate.estimate(spec, deadline=surroundings.deadline)
        except InvalidRequest:
            raise
        except AtelierError:  # running it will say more of that
            return GenerateProgress(Shares(), None, surroundings.on_progress)
        return GenerateProgress(Shares.of(estimate), estimate.cost.seconds, surroundings.on_progress)

    async def _parse(self, body: Mapping[str, Any]) -> ParsedGenerate:
        violations, limit = self._generate.violations, self._max_image_bytes
        return await asyncio.to_thread(parse_generate, body, violations, max_image_bytes=limit)


class GenerateProgress:
    """Reports steps of a stage as a share of the whole, which takes so many seconds, None: unknown."""

    def __init__(self, shares: Shares, seconds: float | None, report: Callable[[JobProgress], None]) -> None:
        self._shares = shares
        self._expected_ms = None if seconds is None else int(1000 * seconds)
        self._report = report

    def __call__(self, progress: Progress) -> None:
        """Report it."""
        self._report(
            JobProgress(
                progress.stage,
                progress.step,
                progress.total,
                self._shares.share(progress),
                self._expected_ms,
                progress.previews,
            )
        )


class _PhotoWork(JobWork):
    """What is done to one photo."""

    validator: Validator[Any]

    def __init__(self, faces: Faces, max_image_bytes: int) -> None:
        self._faces = faces
        self._max_image_bytes = max_image_bytes

    async def accept(self, body: Mapping[str, Any]) -> Accepted:
        """Check a request."""
        parsed = await self._parse(body)
        photo: PhotoRequest = parsed.request
        fields = {name: value for name, value in body.items() if name != parsed.names("image")}
        await spend_on(self._spec(parsed.request))
        return Accepted(fields, {"image": photo.image})

    @staticmethod
    @abstractmethod
    def _spec(request: Any) -> RestoreSpec | CompareSpec | DetectSpec:
        """Return what a request asks for."""

    async def _parse(self, body: Mapping[str, Any]) -> Any:
        limit = self._max_image_bytes
        return await asyncio.to_thread(parse_request, self.validator, body, max_image_bytes=limit)


class RestoreWork(_PhotoWork):
    """`/restore`."""

    validator = RESTORE

    @staticmethod
    def _spec(request: RestoreRequest) -> RestoreSpec:
        return request.to_restore_spec(None)

    async def run(self, accepted: Accepted, surroundings: Surroundings) -> Result:
        """Restore the faces of a photo."""
        started = time.monotonic()
        parsed = await self._parse({**accepted.fields, **accepted.files})
        with fields_renamed(parsed.names):
            restoration = await self._faces.restore(
                self._spec(parsed.request), deadline=surroundings.deadline
            )
        return Result(_restored(restoration, started), list(_images(restoration)))


class CompareWork(_PhotoWork):
    """`/compare`."""

    validator = COMPARE

    @staticmethod
    def _spec(request: CompareRequest) -> CompareSpec:
        return request.to_spec()

    async def run(self, accepted: Accepted, surroundings: Surroundings) -> Result:
        """Restore the faces of a photo at several fidelities."""
        started = time.monotonic()
        parsed = await self._parse({**accepted.fields, **accepted.files})
        spec = self._spec(parsed.request)
        with fields_renamed(parsed.names):
            restorations = await self._faces.compare(spec, deadline=surroundings.deadline)
        results = [
            {**_restored(restoration, started), "fidelity": fidelity}
            for fidelity, restoration in zip(spec.fidelities, restorations, strict=True)
        ]
        images = [
            (f"{name}_{number + 1}", image)
            for number, restoration in enumerate(restorations)
            for name, image in _images(restoration)
        ]
        return Result({"success": True, "results": results}, images)


class DetectWork(_PhotoWork):
    """`/detect`."""

    validator = DETECT

    @staticmethod
    def _spec(request: DetectRequest) -> DetectSpec:
        return request.to_spec()

    async def run(self, accepted: Accepted, surroundings: Surroundings) -> Result:
        """Find the faces of a photo."""
        started = time.monotonic()
        parsed = await self._parse({**accepted.fields, **accepted.files})
        with fields_renamed(parsed.names):
            detection = await self._faces.detect(self._spec(parsed.request), deadline=surroundings.deadline)
        seconds = round(time.monotonic() - started, 3)
        report = detect_report(detection, request_id.get() or "", seconds)
        return Result(report.model_dump(mode="json"), [])


def _restored(restoration: Restoration, started: float) -> dict[str, Any]:
    seconds = round(time.monotonic() - started, 3)
    return restore_report(restoration, request_id.get() or "", seconds).model_dump(mode="json")


def _images(restoration: Restoration) -> Iterator[Named]:
    yield "image", restoration.image
    if restoration.mask is not None:
        yield "mask", restoration.mask
    for outcome in restoration.faces:
        for name, crop in (("before", outcome.crop_before), ("after", outcome.crop_after)):
            if crop is not None:
                yield f"face_{outcome.face.index}_{name}", crop


def _numbered(name: str, number: int) -> str:
    return name if number == 0 else f"{name}_{number + 1}"
