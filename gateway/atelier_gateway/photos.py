"""The restorer over HTTP: `POST /restore`, `/detect` and `/compare` for photographs that a client sends.

A picture's file goes to the restorer as it came, and the answer's file goes to the client as it came: nothing
is decoded here. Nothing can stand in for a restorer that is away, so its failure is the request's.
"""

from __future__ import annotations

import asyncio
import math
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from atelier_gateway.accept import MEDIA_TYPES, wanted_image
from atelier_gateway.answers import REPORT_HEADER, report_header
from atelier_gateway.body import read_json_or_form
from atelier_gateway.checking import Checker
from atelier_gateway.clients import Stages
from atelier_gateway.edge import cancel_on_disconnect
from atelier_gateway.photo_answers import compare_body, detect_body, restore_body, restore_report
from atelier_gateway.photo_schema import (
    COMPARE,
    DETECT,
    RESTORE,
    CompareRequest,
    DetectRequest,
    PhotoOrder,
    PhotoT,
    RestoreRequest,
    read_photo_order,
)
from atelier_gateway.problems import rename_fields
from atelier_gateway.settings import GatewaySettings
from atelier_runtime.errors import FieldViolation, InternalError, InvalidRequest
from atelier_runtime.images import message_limit_bytes
from atelier_runtime.log import request_id

_ROOM_BESIDE_THE_PICTURE = 2 * 2**20  # in a message to the restorer, for the orders of all faces
_BASE64_GROWTH = 4 / 3
_INSIDE_A_MESSAGE = re.compile(r"^restore\.|(?<=\])\.face(?=\.|$)")
_FIELD_OF_STAGE_FIELD = {
    "image.format": "image",
    "output.format": "output_format",
    "output.quality": "quality",
    "detect_size_px": "detect_size",
}
"""The restorer's names of fields, where the JSON contract has another."""


@dataclass(frozen=True)
class _Limits:
    """How large a picture's file and a body may be, in bytes."""

    image: int
    form: int
    json: int

    @classmethod
    def of(cls, settings: GatewaySettings) -> _Limits:
        """The largest file is what fits into a message to the restorer; that follows from `max_pixels`."""
        image = message_limit_bytes(settings.max_pixels) - _ROOM_BESIDE_THE_PICTURE
        beside = settings.max_body_bytes
        return cls(image, image + beside, math.ceil(image * _BASE64_GROWTH) + beside)


class PhotoDesk:
    """Takes the orders for photographs to the restorer."""

    def __init__(self, stages: Stages, settings: GatewaySettings) -> None:
        self._stages = stages
        self._limits = _Limits.of(settings)
        self._deadline_s = settings.deadline_seconds

    async def restore(self, request: Request, started: float) -> Response:
        """Restore a picture; answer in JSON or with the file."""
        order = await self._order(request, RESTORE)
        return await cancel_on_disconnect(request, self._restore(request, order, started))

    async def detect(self, request: Request, started: float) -> Response:
        """Find a picture's faces."""
        order = await self._order(request, DETECT)
        return await cancel_on_disconnect(request, self._detect(order, started))

    async def compare(self, request: Request, started: float) -> Response:
        """Restore a picture at several fidelities."""
        order = await self._order(request, COMPARE)
        return await cancel_on_disconnect(request, self._compare(order, started))

    async def _order(self, request: Request, checker: Checker[PhotoT]) -> PhotoOrder[PhotoT]:
        limits = self._limits
        body = await read_json_or_form(
            request, checker, max_json_bytes=limits.json, max_form_bytes=limits.form
        )
        return await asyncio.to_thread(read_photo_order, checker, body, max_image_bytes=limits.image)

    async def _restore(self, request: Request, order: PhotoOrder[RestoreRequest], started: float) -> Response:
        accepted = wanted_image(request.headers.get("accept"))
        asked = order.request
        if accepted is not None:
            _refuse_more_pictures(order)
        output_format = asked.output_format or (None if accepted == "any" else accepted)
        try:
            restoration = await self._stages.restore_photo(
                asked, output_format, deadline=started + self._deadline_s
            )
        except InvalidRequest as error:
            raise _rename_fields(error, order) from error
        if accepted is None:
            return await _json(partial(restore_body, restoration, asked), started)
        report = restore_report(restoration, asked, request_id.get() or "", _seconds(started))
        return Response(
            restoration.picture.data,
            media_type=MEDIA_TYPES[restoration.picture.format],
            headers={REPORT_HEADER: report_header(report)},
        )

    async def _detect(self, order: PhotoOrder[DetectRequest], started: float) -> Response:
        try:
            detection = await self._stages.detect(order.request, deadline=started + self._deadline_s)
        except InvalidRequest as error:
            raise _rename_fields(error, order) from error
        return await _json(partial(detect_body, detection), started)

    async def _compare(self, order: PhotoOrder[CompareRequest], started: float) -> Response:
        asked = order.request
        try:
            restorations = await self._stages.compare(asked, deadline=started + self._deadline_s)
        except InvalidRequest as error:
            raise _rename_fields(error, order) from error
        if len(restorations) != len(asked.fidelities):
            raise InternalError(f"The restorer answered {len(restorations)} of {len(asked.fidelities)}.")
        return await _json(partial(compare_body, restorations, asked), started)


def _refuse_more_pictures(order: PhotoOrder[RestoreRequest]) -> None:
    """Refuse what a body that is one file cannot hold."""
    given = {"return_mask": order.request.return_mask, "return_crops": order.request.return_crops}
    violations = [
        FieldViolation(name, "is for answers in JSON, but Accept asks for a picture's file")
        for name, asked in given.items()
        if asked
    ]
    if violations:
        raise InvalidRequest(violations)


def _rename_fields(error: InvalidRequest, order: PhotoOrder[Any]) -> InvalidRequest:
    def name(field: str) -> str:
        ours = _INSIDE_A_MESSAGE.sub("", field)
        ours = _FIELD_OF_STAGE_FIELD.get(ours, ours)
        if ours == "rule" and "only_center_face" in order.names:
            return "only_center_face"
        return order.names.get(ours, ours)

    return rename_fields(error, name)


async def _json(body: Callable[[str, float], bytes], started: float) -> Response:
    """Answer with what `body` makes, in a thread, of request id and seconds."""
    data = await asyncio.to_thread(body, request_id.get() or "", _seconds(started))
    return Response(data, media_type="application/json")


def _seconds(started: float) -> float:
    return round(time.monotonic() - started, 3)
