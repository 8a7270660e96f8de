"""`POST /v1/inspect`: what a picture says of how it was made, ours or others'."""

from __future__ import annotations

import asyncio
import json
from typing import Any, Literal

from fastapi import APIRouter
from pydantic import BaseModel, Field
from starlette.requests import Request
from starlette.responses import Response

from atelier_gateway.api.native import openapi
from atelier_gateway.api.native.faces_request import PhotoRequest, parse_request
from atelier_gateway.api.native.request import BodyLimits
from atelier_gateway.credentials import summary_of
from atelier_gateway.http.body import read_json_or_form
from atelier_gateway.http.disconnect import RequestClock, work_route
from atelier_gateway.http.validation import Validator
from atelier_gateway.settings import GatewaySettings
from atelier_runtime.recipes import describe_marks, read_marks

PATH = "/v1/inspect"


class InspectRequest(PhotoRequest):
    """The body of `POST /v1/inspect`."""


INSPECT = Validator(InspectRequest, {})


class Credentials(BaseModel):
    """A C2PA manifest: who has signed, and what they say was done."""

    state: str | None = Field(
        None,
        description="Valid: the file is as it was signed; Invalid: it is not. Whether the certificate can be "
        "trusted is not checked.",
    )
    issuer: str | None = None
    common_name: str | None = None
    time: str | None = None
    generator: list[str | None] = []
    actions: list[dict[str, Any]] = []
    manifests: int = 0


class InspectAnswer(BaseModel):
    """The response of `POST /v1/inspect`. Anyone may have written what a file says: nothing is verified."""

    success: Literal[True] = True
    format: Literal["png", "jpeg", "webp"]
    recipe: dict[str, Any] | None = Field(None, description="Atelier's own, as it is in the file.")
    infotext: str | None = Field(None, description="AUTOMATIC1111's text of parameters.")
    parameters: dict[str, str] | None = Field(None, description="What the infotext says, by its names.")
    source_type: str | None = Field(None, description="IPTC's DigitalSourceType.")
    items: dict[str, str] = Field(
        {}, description="Every other text, by its name: ComfyUI's prompt, EXIF, XMP."
    )
    has_credentials: bool = Field(description="There is a C2PA manifest in the file.")
    credentials: Credentials | None = Field(
        None, description="The manifest; null if there is none, or if it cannot be read here."
    )
    omitted: list[str] = Field([], description="Names of texts that are corrupt or too large to be shown.")


def inspect_file(image: bytes) -> dict[str, Any]:
    """Return what a picture says of itself. Takes milliseconds: not for the event loop.

    Raises `InvalidRequest` if it is no PNG, JPEG or WebP file.
    """
    found = read_marks(image)
    summary = summary_of(image, found.format) if found.has_credentials else None
    return describe_marks(found) | {"credentials": summary}


def add_routes(router: APIRouter, settings: GatewaySettings) -> None:
    """Add the route."""
    limits = BodyLimits.of(settings)

    async def inspect(request: Request, clock: RequestClock) -> Response:
        """Read a picture's texts."""
        body = await read_json_or_form(
            request,
            INSPECT,
            max_json_bytes=limits.json,
            max_form_bytes=limits.form,
            max_fields_bytes=limits.fields,
        )
        return await asyncio.to_thread(_answer, body, limits.image)

    endpoint = work_route(inspect, deadline_s=settings.deadline_seconds)
    route: dict[str, Any] = {
        "description": "Read what a picture says of how it was made: its recipe, AUTOMATIC1111's parameters, "
        "other programs' texts, IPTC's source type and its content credentials. Nothing of it is verified.",
        "tags": ["photographs"],
        "response_model": None,
        "responses": {200: {"model": InspectAnswer, "description": "What it says."}, **openapi.failures()},
        "openapi_extra": {"requestBody": openapi.request_body(INSPECT, openapi.ONE_PICTURE)},
    }
    router.post(PATH, name="inspect", **route)(endpoint)


def _answer(body: dict[str, Any], max_image_bytes: int) -> Response:
    parsed = parse_request(INSPECT, body, max_image_bytes=max_image_bytes)
    answer = InspectAnswer(**inspect_file(parsed.request.image))
    # In ASCII: a stranger's JSON may have halves of surrogate pairs, which UTF-8 cannot express.
    return Response(json.dumps(answer.model_dump()), media_type="application/json")
