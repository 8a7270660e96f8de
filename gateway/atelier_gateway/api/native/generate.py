"""`POST /generate`, and the paths that older clients use."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from atelier_gateway.api.native import openapi
from atelier_gateway.api.native.estimate_response import estimate_answer
from atelier_gateway.api.native.generate_request import (
    GENERATE,
    ONLY_OF_JOBS,
    ParsedRequest,
    parse_request,
)
from atelier_gateway.api.native.generate_response import generate_body, generate_report
from atelier_gateway.api.native.jobs import JobRoutes
from atelier_gateway.api.native.report import REPORT_HEADER, report_header
from atelier_gateway.api.native.request import BodyLimits
from atelier_gateway.core.generate import Generate
from atelier_gateway.http.body import read_json_or_form
from atelier_gateway.http.disconnect import RequestClock, work_route
from atelier_gateway.http.errors import path_below_root
from atelier_gateway.http.negotiation import MEDIA_TYPES, preferred_format
from atelier_gateway.http.validation import fields_renamed, refusal
from atelier_gateway.jobs.values import JobType
from atelier_gateway.settings import GatewaySettings
from atelier_runtime.errors import FieldViolation, InvalidRequest
from atelier_runtime.log import request_id

PATH = "/generate"
_MAX_FIELDS_BYTES = 2**16
"""Of a body without images. The longest prompts, every character escaped, take 48 kB."""

OLDER_PATHS = ("/txt2img", "/api/generate")


def add_routes(router: APIRouter, settings: GatewaySettings, generate: Generate, jobs: JobRoutes) -> None:
    """Add the route under all its paths."""

    limits = BodyLimits.of(settings, most_fields_bytes=_MAX_FIELDS_BYTES)

    async def handle(request: Request, clock: RequestClock) -> Response:
        return await _generate(request, clock, generate, limits, jobs)

    endpoint = work_route(handle, deadline_s=settings.deadline_seconds)
    router.post(PATH, name="generate", **openapi.generate_route())(endpoint)
    for path in OLDER_PATHS:
        router.post(path, name="generate", deprecated=True, include_in_schema=False)(endpoint)


async def _read(request: Request, limits: BodyLimits) -> dict[str, Any]:
    return await read_json_or_form(
        request,
        GENERATE,
        max_json_bytes=limits.json,
        max_form_bytes=limits.form,
        max_fields_bytes=limits.fields,
    )


async def _parse(request: Request, generate: Generate, limits: BodyLimits) -> ParsedRequest:
    """Read and check a request. Its body ends here: it would be kept while the images are generated."""
    body = await _read(request, limits)
    return await asyncio.to_thread(parse_request, body, generate.violations, max_image_bytes=limits.image)


async def _generate(
    request: Request, clock: RequestClock, generate: Generate, limits: BodyLimits, jobs: JobRoutes
) -> Response:
    await generate.require_generator()  # before the body: no request is right here
    if jobs.wanted(request):
        body = await _read(request, limits)
        if violations := [FieldViolation(name, why) for name, why in ONLY_OF_JOBS.items() if name in body]:
            raise refusal(violations)
        return await jobs.instead(request, JobType.GENERATE, body)
    parsed = await _parse(request, generate, limits)
    accepted = preferred_format(request.headers.get("accept"))
    spec = parsed.spec
    if accepted is not None and spec.image_count > 1:
        message = (
            f"must be 1 where Accept prefers an image to JSON, not {spec.image_count}: a file holds one image"
        )
        raise InvalidRequest.of(parsed.names("num_images"), message)
    if accepted is not None and parsed.request.output_format is None:
        spec = replace(spec, output_format=accepted)
    if parsed.request.dry_run:
        with fields_renamed(parsed.names):
            estimate = await generate.estimate(spec, deadline=clock.deadline)
        answer = estimate_answer(estimate, spec.image_count, request_id.get() or "")
        return Response(answer.model_dump_json(), media_type="application/json")
    with fields_renamed(parsed.names):
        generations = await generate.run(spec, deadline=clock.deadline)
    report = generate_report(generations[0], request_id.get() or "", clock.elapsed_s())
    image = generations[0].image
    if accepted is not None:
        headers = {REPORT_HEADER: report_header(report)}
        return Response(image.data, media_type=MEDIA_TYPES[image.format], headers=headers)
    is_older_client = parsed.uses_alias or path_below_root(request.scope) != PATH
    content = await asyncio.to_thread(
        generate_body,
        report,
        generations,
        spec.prompt,
        with_images=spec.num_images is not None,
        with_plain_base64=is_older_client,
    )
    return Response(content, media_type="application/json")
