"""`POST /restore`, `/detect` and `/compare`, for photos that a client sends.

The client's file is forwarded to the restorer, and the restorer's file to the client, unchanged: nothing is
decoded here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from atelier_gateway.api.native import openapi
from atelier_gateway.api.native.faces_request import (
    COMPARE,
    DETECT,
    RESTORE,
    ParsedRequest,
    RequestT,
    RestoreRequest,
    parse_request,
)
from atelier_gateway.api.native.faces_response import compare_body, detect_body, restore_body, restore_report
from atelier_gateway.api.native.jobs import JobRoutes
from atelier_gateway.api.native.report import REPORT_HEADER, report_header
from atelier_gateway.api.native.request import BodyLimits
from atelier_gateway.core.faces import Faces
from atelier_gateway.http.body import read_json_or_form
from atelier_gateway.http.disconnect import RequestClock, work_route
from atelier_gateway.http.negotiation import MEDIA_TYPES, preferred_image
from atelier_gateway.http.validation import Validator, fields_renamed
from atelier_gateway.jobs.values import JobType
from atelier_gateway.settings import GatewaySettings
from atelier_runtime.errors import FieldViolation, InvalidRequest
from atelier_runtime.log import request_id


def add_routes(router: APIRouter, settings: GatewaySettings, faces: Faces, jobs: JobRoutes) -> None:
    """Add the three routes."""
    routes = PhotoRoutes(faces, BodyLimits.of(settings), jobs)
    for path, handler in (
        ("/restore", routes.restore),
        ("/detect", routes.detect),
        ("/compare", routes.compare),
    ):
        endpoint = work_route(handler, deadline_s=settings.deadline_seconds)
        router.post(path, name=path[1:], **openapi.photo_route(path))(endpoint)


class PhotoRoutes:
    """The handlers of the three routes."""

    def __init__(self, faces: Faces, limits: BodyLimits, jobs: JobRoutes) -> None:
        self._faces = faces
        self._limits = limits
        self._jobs = jobs

    async def restore(self, request: Request, clock: RequestClock) -> Response:
        """Restore the faces of a photo; respond with JSON or the file."""
        if self._jobs.wanted(request):
            return await self._jobs.instead(request, JobType.RESTORE, await self._read(request, RESTORE))
        parsed = await self._parse(request, RESTORE)
        accepted = preferred_image(request.headers.get("accept"))
        if accepted is not None:
            _refuse_more_images(parsed)
        spec = parsed.request.to_restore_spec(None if accepted == "any" else accepted)
        with fields_renamed(parsed.names):
            restoration = await self._faces.restore(spec, deadline=clock.deadline)
        if accepted is None:
            return await _json(partial(restore_body, restoration), clock)
        report = restore_report(restoration, request_id.get() or "", clock.elapsed_s())
        return Response(
            restoration.image.data,
            media_type=MEDIA_TYPES[restoration.image.format],
            headers={REPORT_HEADER: report_header(report)},
        )

    async def detect(self, request: Request, clock: RequestClock) -> Response:
        """Find the faces of a photo."""
        if self._jobs.wanted(request):
            return await self._jobs.instead(request, JobType.DETECT, await self._read(request, DETECT))
        parsed = await self._parse(request, DETECT)
        with fields_renamed(parsed.names):
            detection = await self._faces.detect(parsed.request.to_spec(), deadline=clock.deadline)
        return await _json(partial(detect_body, detection), clock)

    async def compare(self, request: Request, clock: RequestClock) -> Response:
        """Restore the faces of a photo at several fidelities."""
        if self._jobs.wanted(request):
            return await self._jobs.instead(request, JobType.COMPARE, await self._read(request, COMPARE))
        parsed = await self._parse(request, COMPARE)
        spec = parsed.request.to_spec()
        with fields_renamed(parsed.names):
            restorations = await self._faces.compare(spec, deadline=clock.deadline)
        return await _json(partial(compare_body, spec.fidelities, restorations), clock)

    async def _read(self, request: Request, validator: Validator[RequestT]) -> dict[str, Any]:
        limits = self._limits
        return await read_json_or_form(
            request,
            validator,
            max_json_bytes=limits.json,
            max_form_bytes=limits.form,
            max_fields_bytes=limits.fields,
        )

    async def _parse(self, request: Request, validator: Validator[RequestT]) -> ParsedRequest[RequestT]:
        body = await self._read(request, validator)
        limit = self._limits.image
        return await asyncio.to_thread(parse_request, validator, body, max_image_bytes=limit)


def _refuse_more_images(parsed: ParsedRequest[RestoreRequest]) -> None:
    """Refuse what a body that is a single file cannot hold."""
    options = {"return_mask": parsed.request.return_mask, "return_crops": parsed.request.return_crops}
    violations = [
        FieldViolation(name, "needs a JSON response, but Accept prefers an image file")
        for name, is_set in options.items()
        if is_set
    ]
    if violations:
        raise InvalidRequest(violations)


async def _json(to_body: Callable[[str, float], bytes], clock: RequestClock) -> Response:
    """Respond with what `to_body` makes, in a thread, of request ID and seconds."""
    data = await asyncio.to_thread(to_body, request_id.get() or "", clock.elapsed_s())
    return Response(data, media_type="application/json")
