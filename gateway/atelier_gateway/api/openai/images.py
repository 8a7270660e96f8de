"""`POST /v1/images/generations`, `/v1/images/edits` and `/v1/images/variations`."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from atelier_gateway.access.caller import caller_of
from atelier_gateway.api.native.request import BodyLimits
from atelier_gateway.api.openai import openapi
from atelier_gateway.api.openai.as_job import answer_with_addresses, base_address
from atelier_gateway.api.openai.errors import Refusal, told_by_client_names, unsupported_value
from atelier_gateway.api.openai.fields import FORM, WITH_ADDRESSES, arranged
from atelier_gateway.api.openai.request import ImageWork, complete, prepare
from atelier_gateway.api.openai.response import headers_of, images_body, shown
from atelier_gateway.api.openai.stream import ImageStream, ImageStreamResponse, with_previews
from atelier_gateway.core.generate import Generate
from atelier_gateway.core.health import require_ready
from atelier_gateway.http.body import read_json_or_form
from atelier_gateway.http.disconnect import RequestClock, work_route
from atelier_gateway.jobs.service import Jobs
from atelier_gateway.settings import GatewaySettings

PATH = "/v1/images"


class ImageRoutes:
    """The handlers."""

    def __init__(self, settings: GatewaySettings, generate: Generate, jobs: Jobs | None) -> None:
        """`jobs`: None where there are none, on purpose; then images have no addresses."""
        self._generate = generate
        self._jobs = jobs
        self._limits = BodyLimits.of(settings)
        self._max_pixels = settings.max_pixels
        self._deadline_s = settings.deadline_seconds
        self._ttl_s = settings.jobs_ttl_seconds
        self._public_url = settings.public_url

    def add_to(self, router: APIRouter) -> None:
        """Add the routes."""
        for name, edits, documented in (
            ("generations", False, openapi.generations_route()),
            ("edits", True, openapi.edits_route()),
        ):
            endpoint = work_route(partial(self._answer, edits=edits), deadline_s=self._deadline_s)
            router.post(f"{PATH}/{name}", name=f"openai_{name}", **documented)(endpoint)
        variations = openapi.variations_route()
        router.post(f"{PATH}/variations", name="openai_variations", **variations)(self.variations)

    async def variations(self) -> Response:
        """Say what there is instead."""
        message = "is retired: /v1/images/edits with an image and a prompt draws variations of it"
        raise Refusal("image", message, "unsupported_endpoint")

    async def _answer(self, request: Request, clock: RequestClock, *, edits: bool) -> Response:
        await self._generate.require_generator()  # before the body: no request is right here
        work = await self._work(await self._read(request, edits), clock, edits)
        if (jobs := self._jobs_for(work)) is not None:
            base = base_address(request, self._public_url)
            owner = caller_of(request).addressed_owner
            return await answer_with_addresses(
                jobs, work, base, owner, ttl_s=self._ttl_s, deadline=clock.deadline
            )
        if work.own.stream:
            return await self._streamed(work, clock, "image_edit" if edits else "image_generation")
        with told_by_client_names(work.names):
            generations = await self._generate.run(work.spec, deadline=clock.deadline)
        images = [shown(each) for each in generations]
        content = await asyncio.to_thread(images_body, work, generations, images)
        headers = headers_of(work, generations[0].model_set, images)
        return Response(content, media_type="application/json", headers=headers)

    def _jobs_for(self, work: ImageWork) -> Jobs | None:
        """Return what draws images that are handed out by their addresses; None: they are not."""
        own = work.own
        if own.response_format is None and own.model in WITH_ADDRESSES and not own.stream:
            return self._jobs  # without jobs, such clients get the file
        if own.response_format != "url":
            return None
        if self._jobs is None:
            message = "cannot be url: nothing is kept here (ATELIER_GATEWAY_JOBS_DATABASE is none)"
            raise unsupported_value(work.client_fields("response_format"), message)
        return self._jobs

    async def _read(self, request: Request, edits: bool) -> dict[str, Any]:
        limits = self._limits
        return await read_json_or_form(
            request,
            FORM,
            max_json_bytes=limits.json if edits else limits.fields,
            max_form_bytes=limits.form if edits else limits.fields,
            max_fields_bytes=limits.fields,
            arranged=arranged,
        )

    async def _work(self, body: dict[str, Any], clock: RequestClock, edits: bool) -> ImageWork:
        """Check a request. Its body ends here: it would be kept while the images are drawn."""
        prepared = prepare(body, edits=edits)
        set_steps = None
        if prepared.needs_steps:
            offer = await self._generate.offer()
            require_ready(offer.status)
            set_steps = None if offer.defaults is None else offer.defaults.num_inference_steps
        return await asyncio.to_thread(
            complete,
            prepared,
            set_steps,
            self._generate.violations,
            max_image_bytes=self._limits.image,
            max_pixels=self._max_pixels,
        )

    async def _streamed(self, work: ImageWork, clock: RequestClock, prefix: str) -> Response:
        with told_by_client_names(work.names):
            previewed = await with_previews(
                self._generate, work.spec, work.own.partial_images, deadline=clock.deadline
            )
        stream = ImageStream(self._generate, work, previewed, prefix=prefix, deadline=clock.deadline)
        first = await stream.first()
        return ImageStreamResponse(stream, first, headers_of(work, stream.model_set))
