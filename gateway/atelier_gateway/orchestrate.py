"""One order from end to end: generate, restore, answer. What could not be done is told, never hidden.

The restorer is called where faces are to be restored or the picture enlarged; then the generator sends
raw pixels and the restorer encodes. Otherwise the generator encodes the final file itself. Only where the
restorer fails and the client takes the drawn picture is anything encoded here, in a thread.
"""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import dataclass, replace

from atelier_gateway.answers import FaceAnswer, Report, rounded_box, stage_answer
from atelier_gateway.clients import Stages
from atelier_gateway.health import require_ready
from atelier_gateway.problems import rename_fields
from atelier_gateway.schema import SDXL, GenerateRequest, Order
from atelier_gateway.work import Generation, Encoding, Restoration, RestorationOrder, StagePicture
from atelier_runtime import images
from atelier_runtime.errors import (AtelierError, BadImage, ErrorReason, FieldViolation, InternalError, InvalidRequest, OutOfMemory, ServiceUnavailable)
from atelier_runtime.outcomes import SkipReason
from atelier_runtime.images import Format
from atelier_runtime.metrics import StageTimer

logger = logging.getLogger(__name__)

_FIELD_OF_STAGE_FIELD = {
    "width_px": "width",
    "height_px": "height",
    "fidelity": "face_restoration_weight",
    "output.format": "output_format",
    "output.quality": "quality",
}
"""The stages' names of fields, where the JSON contract has another."""

_BROKEN = frozenset(
    {SkipReason.FAILED, SkipReason.NOT_FINITE, SkipReason.OUT_OF_MEMORY, SkipReason.NOT_LOADED}
)
"""Reasons for which no face was restored that are the restorer's fault, not the picture's."""

_SKIP_REASON = {
    ErrorReason.OUT_OF_MEMORY: SkipReason.OUT_OF_MEMORY,
    ErrorReason.INTERNAL: SkipReason.FAILED,
    ErrorReason.BAD_IMAGE: SkipReason.FAILED,
    ErrorReason.INVALID_REQUEST: SkipReason.FAILED,
}
"""What the answer says when the restorer's call failed; of any other failure, `restorer_unavailable`."""

_MOST_RESERVE_S = 5.0
_RESERVED_SHARE = 0.1


@dataclass(frozen=True)
class Finished:
    """A picture, encoded, and the report about it."""

    picture: StagePicture
    report: Report


class Orchestrator:
    """Carries out orders with the two stages."""

    def __init__(self, stages: Stages, *, max_pixels: int, status_timeout_s: float) -> None:
        self._stages = stages
        self._max_pixels = max_pixels
        self._status_timeout_s = status_timeout_s

    async def generate(
        self, order: Order, file_format: Format, *, request_id: str, started: float, deadline: float
    ) -> Finished:
        """Carry out an order.

        Args:
            order: What to draw.
            file_format: The final picture's encoding.
            request_id: Goes into the report.
            started: `time.monotonic()` at which the request came in.
            deadline: `time.monotonic()` at which to give up.

        Raises:
            AtelierError: no picture can be given. Cancelling the task stops the stages' work.
        """
        request = order.request
        warnings = await self._check_names(order)
        try:
            final = Encoding(file_format, request.quality)
            if not (request.use_face_restoration or request.upscale > 1):
                drawing = await self._stages.draw(request, final, deadline=deadline)
                return _finish(request, drawing, None, warnings, request_id, started)
            drawing = await self._stages.draw(request, Encoding("raw", request.quality), deadline=deadline)
            restoration = await self._restore(request, drawing, final, warnings, deadline)
        except InvalidRequest as error:
            raise _rename_fields(error, order) from error
        if isinstance(restoration, SkipReason):
            drawing = await self._encode(drawing, final)
        return _finish(request, drawing, restoration, warnings, request_id, started)

    async def _check_names(self, order: Order) -> list[str]:
        """Refuse names of networks that are not loaded; return a warning for what could not be checked."""
        request, warnings, violations = order.request, [], []
        if request.model is not None and request.model.upper() != SDXL:
            generator = await self._stages.generator_status(timeout_s=self._status_timeout_s)
            require_ready(generator)  # before that, no name can be called right or wrong
            if request.model != generator.model_set:
                message = f"is not loaded; {generator.model_set} is, and {SDXL} names it too"
                violations.append(FieldViolation("model", message))
        if request.det_model is not None:
            try:
                status = await self._stages.restorer_status(timeout_s=self._status_timeout_s)
                detector = status.networks.get("detector")
                if detector is None and status.ready:
                    violations.append(FieldViolation("det_model", "is not loaded; no detector is"))
                elif detector is None:
                    warnings.append("det_model was not checked: the restorer is loading its networks.")
                elif request.det_model != detector:
                    violations.append(FieldViolation("det_model", f"is not loaded; {detector} is"))
            except ServiceUnavailable:
                warnings.append("det_model was not checked: the restorer cannot be reached.")
        if violations:
            raise InvalidRequest(violations)
        return warnings

    async def _restore(
        self,
        request: GenerateRequest,
        drawing: Generation,
        final: Encoding,
        warnings: list[str],
        deadline: float,
    ) -> Restoration | SkipReason:
        """Have the picture restored; a reason, if the restorer did not and the drawn one is taken."""
        work = RestorationOrder(
            picture=drawing.picture,
            restore_faces=request.use_face_restoration,
            fidelity=request.face_restoration_weight,
            match_tone=request.match_tone,
            upscale=request.upscale,
            use_realesrgan=request.use_realesrgan,
            encoding=final,
        )
        if request.on_restore_failure == "fail":
            return await self._restore_or_fail(request, work, deadline)
        # a restorer that hangs must leave the time to encode the drawn picture
        reserve = min(_MOST_RESERVE_S, _RESERVED_SHARE * max(0.0, deadline - time.monotonic()))
        try:
            return await self._stages.restore(work, deadline=deadline - reserve)
        except AtelierError as error:
            logger.warning("restorer failed", extra={"reason": error.reason, "error": error.message})
            reason = _SKIP_REASON.get(error.reason, SkipReason.RESTORER_UNAVAILABLE)
            warnings.append(_fallback_warning(request, reason))
            return reason

    async def _restore_or_fail(
        self, request: GenerateRequest, work: RestorationOrder, deadline: float
    ) -> Restoration:
        try:
            restoration = await self._stages.restore(work, deadline=deadline)
        except (InternalError, BadImage) as error:
            logger.error("restorer failed", extra={"reason": error.reason, "error": error.message})
            raise ServiceUnavailable("The restorer failed.") from error
        if request.use_face_restoration and not restoration.applied and restoration.reason in _BROKEN:
            if restoration.reason is SkipReason.OUT_OF_MEMORY:
                raise OutOfMemory()
            raise ServiceUnavailable(f"The restorer restored no face: {restoration.reason}.")
        return restoration

    async def _encode(self, drawing: Generation, encoding: Encoding) -> Generation:
        timer = StageTimer()
        picture = await asyncio.to_thread(_encode, drawing.picture, encoding, self._max_pixels, timer)
        return replace(drawing, picture=picture, stages=(*drawing.stages, *timer.reports))


def _encode(picture: StagePicture, encoding: Encoding, max_pixels: int, timer: StageTimer) -> StagePicture:
    if picture.format != "raw" or encoding.format == "raw":
        raise InternalError(f"The generator sent {picture.format}; raw was asked for.")
    with timer.stage("encode"):
        pixels = images.from_raw(
            picture.data, picture.width, picture.height, max_pixels=max_pixels, field="generator's picture"
        )
        data = images.encode(pixels, encoding.format, encoding.quality)
    return replace(picture, data=data, format=encoding.format)


def _fallback_warning(request: GenerateRequest, reason: SkipReason) -> str:
    undone = ["faces were not restored"] if request.use_face_restoration else []
    undone += [f"the picture was not enlarged x{request.upscale}"] if request.upscale > 1 else []
    return f"The restorer did not do its work ({reason}): {' and '.join(undone)}. This is the drawn picture."


def _rename_fields(error: InvalidRequest, order: Order) -> InvalidRequest:
    return rename_fields(error, lambda field: order.name_of(_FIELD_OF_STAGE_FIELD.get(field, field)))


def _finish(
    request: GenerateRequest,
    drawing: Generation,
    restoration: Restoration | SkipReason | None,
    warnings: list[str],
    request_id: str,
    started: float,
) -> Finished:
    """Put together what happened. `restoration` None: not asked for; a reason: asked for and not done."""
    restored, undone = (restoration, None) if isinstance(restoration, Restoration) else (None, restoration)
    picture = restored.picture if restored else drawing.picture
    applied = restored is not None and request.use_face_restoration and restored.applied
    reason = restored.reason if restored else undone
    stages = (*drawing.stages, *(restored.stages if restored else ()))
    upscalers = dict.fromkeys(
        name for name in (drawing.upscaler, restored.upscaler if restored else "") if name
    )
    report = Report(
        seed=drawing.seed,
        model=SDXL if drawing.model_set.upper() == SDXL else drawing.model_set,
        request_id=request_id,
        final_resolution=f"{picture.width}x{picture.height}",
        generation_time_seconds=round(time.monotonic() - started, 3),
        refiner_applied=drawing.refiner_applied,
        refiner_reason=drawing.refiner_reason,
        hires_fix_applied=drawing.hires_fix_applied,
        hires_fix_reason=drawing.hires_fix_reason,
        upscaler=" + ".join(upscalers) or None,
        upscale_applied=restored.upscale_applied if restored else 1,
        face_restoration_applied=applied,
        face_restoration_reason=None if applied or not request.use_face_restoration else reason,
        tone_matched=restored is not None and restored.tone_matched,
        faces=_faces(restored) if restored and request.use_face_restoration else [],
        warnings=[*warnings, *drawing.warnings, *(restored.warnings if restored else ())],
        stages=[stage_answer(report) for report in stages],
    )
    return Finished(picture, report)


def _faces(restoration: Restoration) -> list[FaceAnswer]:
    return [
        FaceAnswer(
            box=rounded_box(outcome.face.box, 1),
            confidence=round(outcome.face.confidence, 4),
            restored=outcome.restored,
            reason=outcome.reason,
        )
        for outcome in restoration.faces
    ]
