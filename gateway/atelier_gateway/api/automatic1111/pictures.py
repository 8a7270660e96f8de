"""The routes that draw and restore: txt2img, img2img, extra-single-image, extra-batch-images, png-info."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from atelier_gateway.api.automatic1111 import openapi
from atelier_gateway.api.automatic1111.callers import caller_of
from atelier_gateway.api.automatic1111.drawing import (
    Drawing,
    drawing_of,
    needs_names,
    without_sampler_alone,
)
from atelier_gateway.api.automatic1111.drawing_answer import drawing_body
from atelier_gateway.api.automatic1111.errors import Automatic1111Route
from atelier_gateway.api.automatic1111.extras import (
    batch_body,
    pictures_of_batch,
    restore_specs,
    single_body,
    words_of_picture,
)
from atelier_gateway.api.automatic1111.fields import (
    EXTRA_BATCH,
    EXTRA_SINGLE,
    IMG2IMG,
    PNG_INFO,
    TXT2IMG,
    Field,
)
from atelier_gateway.api.automatic1111.loaded import Loaded, Loads
from atelier_gateway.api.automatic1111.options import Options
from atelier_gateway.api.automatic1111.png_info import png_info_body
from atelier_gateway.api.automatic1111.request import Given, read_body
from atelier_gateway.api.automatic1111.running import Registry, Running
from atelier_gateway.api.native.request import BodyLimits
from atelier_gateway.core.estimates import Estimate
from atelier_gateway.core.faces import Faces
from atelier_gateway.core.generate import Generate
from atelier_gateway.core.values import GenerateSpec, Generation, Restoration, RestoreSpec
from atelier_gateway.http.disconnect import RequestClock, work_route
from atelier_gateway.http.errors import log_and_count
from atelier_gateway.http.ignored import ignored_header, warnings_header
from atelier_gateway.http.schemas import printable
from atelier_gateway.http.validation import refusal
from atelier_gateway.settings import GatewaySettings
from atelier_runtime.errors import Cancelled, InvalidRequest
from atelier_runtime.outcomes import ResponseWarning

_UNKNOWN_SAMPLER = 400
_SMALL_BYTES = 2**17
"""Pictures of so little are written in less time than it takes to begin in a thread."""
_ESTIMATE_S = 2.0
"""How long progress waits for what a request is expected to take."""


class PictureRoutes:
    """The handlers."""

    def __init__(
        self,
        settings: GatewaySettings,
        generate: Generate,
        faces: Faces,
        loads: Loads,
        options: Options,
        registry: Registry,
    ) -> None:
        self._generate = generate
        self._faces = faces
        self._loads = loads
        self._options = options
        self._registry = registry
        self._limits = BodyLimits.of(settings)
        self._deadline_s = settings.deadline_seconds

    def add_to(self, router: APIRouter) -> None:
        """Add the routes."""
        for path, handler in (
            ("/txt2img", self.txt2img),
            ("/img2img", self.img2img),
            ("/extra-single-image", self.extra_single),
            ("/extra-batch-images", self.extra_batch),
            ("/png-info", self.png_info),
        ):
            endpoint = work_route(handler, deadline_s=self._deadline_s)
            router.post(path, name=f"sdapi_{path[1:].replace('-', '_')}", **openapi.picture_route(path))(
                endpoint
            )

    # --- handlers ---

    async def txt2img(self, request: Request, clock: RequestClock) -> Response:
        """Draw from a prompt."""
        return await self._draw(request, clock, "txt2img", TXT2IMG)

    async def img2img(self, request: Request, clock: RequestClock) -> Response:
        """Draw from a picture."""
        return await self._draw(request, clock, "img2img", IMG2IMG)

    async def extra_single(self, request: Request, clock: RequestClock) -> Response:
        """Restore the faces of a picture, or upscale it."""
        given = await self._read(request, EXTRA_SINGLE)
        self._check_bytes("image", [given["image"]])
        return await self._restore(request, clock, given, [given["image"]], single_body)

    async def extra_batch(self, request: Request, clock: RequestClock) -> Response:
        """Do the same to several pictures."""
        given = await self._read(request, EXTRA_BATCH)
        images = await asyncio.to_thread(pictures_of_batch, given)
        del given.values["imageList"]  # the body, which would be kept while they are restored
        self._check_bytes("imageList", images)
        return await self._restore(request, clock, given, images, batch_body)

    async def png_info(self, request: Request, clock: RequestClock) -> Response:
        """Return what a picture says of how it was made."""
        given = await self._read(request, PNG_INFO)
        body = await asyncio.to_thread(png_info_body, given["image"])
        return _json(body, given)

    # --- parts of them ---

    async def _read(self, request: Request, table: Mapping[str, Field]) -> Given:
        limits = self._limits
        return await read_body(request, table, max_bytes=limits.json, max_fields_bytes=limits.fields)

    def _check_bytes(self, field: str, files: Sequence[bytes]) -> None:
        size, limit = sum(map(len, files)), self._limits.image
        if size > limit:
            raise InvalidRequest.of(field, f"has {size} bytes, the limit is {limit}")

    async def _draw(
        self, request: Request, clock: RequestClock, job: str, table: Mapping[str, Field]
    ) -> Response:
        await self._generate.require_generator()  # before the body: no request is right here
        given = await self._read(request, table)
        self._check_bytes("init_images", [*(given["init_images"] or []), given["mask"] or b""])
        caller = caller_of(request)
        choices = self._options.choices(caller, given["override_settings"] or {})
        loaded = Loaded(await self._loads.generator(), None) if needs_names(job, given, choices) else None
        drawing = drawing_of(job, given, choices, loaded)
        words = drawing.words
        if violations := [words.violation(each) for each in self._generate.violations(drawing.spec)]:
            raise refusal(violations)
        estimate = partial(self._estimate, drawing.spec, clock.deadline)
        with self._registry.begun(caller, job, drawing.spec.image_count, estimate) as running:
            try:
                with words.of_errors():
                    generations = await running.interruptible(self._run(drawing, running, clock.deadline))
            except InvalidRequest as error:
                if not without_sampler_alone(error):
                    raise
                return _sampler_not_found(error, drawing)
        done = generations or ()
        drawing.tell_refiner(done)
        if sum(len(generation.image.data) for generation in done) <= _SMALL_BYTES:
            body = drawing_body(drawing, done)
        else:
            body = await asyncio.to_thread(drawing_body, drawing, done)
        return _json(body, given, (each.warnings for each in done))

    async def _run(self, drawing: Drawing, running: Running, deadline: float) -> list[Generation]:
        """Draw; meanwhile ask for the name of what restores the faces."""
        if not drawing.spec.restore_faces:
            return await self._generate.run(drawing.spec, running.on_progress, deadline=deadline)
        naming = asyncio.create_task(self._loads.face_restorer())
        try:
            generations = await self._generate.run(drawing.spec, running.on_progress, deadline=deadline)
            drawing.name_restorer(await naming)
            return generations
        finally:
            naming.cancel()
            await asyncio.wait({naming})

    async def _estimate(self, spec: GenerateSpec, deadline: float) -> Estimate:
        soon = min(deadline, time.monotonic() + _ESTIMATE_S)
        return await self._generate.estimate(spec, deadline=soon)

    async def _restore(
        self,
        request: Request,
        clock: RequestClock,
        given: Given,
        images: Sequence[bytes],
        to_body: Callable[[Given, Sequence[Restoration]], bytes],
    ) -> Response:
        caller = caller_of(request)
        loaded = Loaded(None, await self._loads.restorer())
        specs = restore_specs(given, images, self._options.choices(caller, {}), loaded)
        with self._registry.begun(caller, "extras", len(images)) as running:
            restorations = await running.interruptible(self._restored(specs, given, running, clock.deadline))
        if restorations is None:
            raise Cancelled("The request was interrupted.")
        body = await asyncio.to_thread(to_body, given, restorations)
        return _json(body, given, (each.warnings for each in restorations))

    async def _restored(
        self, specs: Sequence[RestoreSpec], given: Given, running: Running, deadline: float
    ) -> list[Restoration]:
        restorations = []
        for number, spec in enumerate(specs):
            with words_of_picture(given, number).of_errors():
                restorations.append(await self._faces.restore(spec, deadline=deadline))
            running.on_finished()
        return restorations


def _json(body: bytes, given: Given, warnings: Iterable[Sequence[ResponseWarning]] = ()) -> Response:
    codes = (warning.code for each in warnings for warning in each)
    headers = {**ignored_header(given.told), **warnings_header(codes)}
    return Response(body, media_type="application/json", headers=headers)


def _sampler_not_found(error: InvalidRequest, drawing: Drawing) -> Response:
    """Return the response to an unknown sampler, with the status that 1.10 gives it."""
    name = printable(drawing.spec.sampler or "")
    [wrong] = error.fields
    named = InvalidRequest.of(wrong.field, f'"{name}" is not found; it {wrong.message}')
    log_and_count(named)
    return Automatic1111Route.render_error(named, status=_UNKNOWN_SAMPLER)
