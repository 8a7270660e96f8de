"""The restorer's stand-in: it inverts the image, and reports the faces that the script says."""

from __future__ import annotations

from collections.abc import AsyncIterator

import grpc
import numpy as np
from grpc_status import rpc_status

from atelier.common.v1 import image_pb2
from atelier.restorer.v1 import restorer_service_pb2 as pb
from atelier.restorer.v1 import restorer_service_pb2_grpc
from atelier_runtime import defaults, images, wire
from atelier_runtime.errors import AtelierError
from atelier_runtime.metrics import StageReport
from atelier_runtime.outcomes import SkipReason
from atelier_runtime.rpc_errors import to_status
from tests.contract.script import MODEL_SET_HASH, Scripted, encoded, gradient, set_fields

MAX_PIXELS = 2_000_000
MAX_RAW_PIXELS = 50_000_000
LANDMARKS = [(40, 60), (80, 60), (60, 80), (45, 110), (75, 110)]


class ScriptedRestorer(Scripted, restorer_service_pb2_grpc.RestorerServiceServicer):
    async def RestoreFaces(
        self, request: pb.RestoreFacesRequest, context: grpc.aio.ServicerContext
    ) -> pb.RestoreFacesResponse:
        await self.begin(request, context)
        return self._restored(request, await _decoded(request.image, context), request.fidelity)

    async def CompareFidelities(
        self, request: pb.CompareFidelitiesRequest, context: grpc.aio.ServicerContext
    ) -> AsyncIterator[pb.CompareFidelitiesResponse]:
        await self.begin(request, context)
        image = await _decoded(request.restore.image, context)
        for fidelity in request.fidelities[: self.script.max_results]:
            result = self._restored(request.restore, image, fidelity)
            yield pb.CompareFidelitiesResponse(fidelity=fidelity, result=result)

    async def DetectFaces(
        self, request: pb.DetectFacesRequest, context: grpc.aio.ServicerContext
    ) -> pb.DetectFacesResponse:
        await self.begin(request, context)
        image = await _decoded(request.image, context)
        return pb.DetectFacesResponse(
            faces=[face(index, confidence) for index, (confidence, _, _) in enumerate(self.script.faces)],
            width_px=image.width,
            height_px=image.height,
            stages=wire.stages_to_proto([StageReport("decode", 0.125), StageReport("detect", 0.5)]),
        )

    async def GetStatus(
        self, request: pb.GetStatusRequest, context: grpc.aio.ServicerContext
    ) -> pb.GetStatusResponse:
        return pb.GetStatusResponse(status=await self.status())

    def _restored(
        self, request: pb.RestoreFacesRequest, image: images.Picture, fidelity: float
    ) -> pb.RestoreFacesResponse:
        scale = request.upscale or 1
        pixels = 255 - image.rgb.repeat(scale, axis=0).repeat(scale, axis=1)
        output = wire.output_from_proto(request.output, [])
        detects = not request.HasField("max_faces") or request.max_faces > 0
        faces = self._outcomes(request, fidelity) if detects else []
        reason = None if faces else SkipReason.NO_FACE if detects else SkipReason.SKIPPED
        response = pb.RestoreFacesResponse(
            image=encoded(pixels, output.format or image.format or "png", output.quality or defaults.QUALITY),
            face_restoration_applied=any(outcome.restored for outcome in faces),
            reason=wire.skip_reason_to_proto(reason),
            upscale_applied=scale,
            upscaler="demo_x2" if scale > 1 else "",
            stages=wire.stages_to_proto([StageReport("detect", 0.5), StageReport("restore", 0.25)]),
            faces=faces,
            model_set="demo",
            model_set_hash=MODEL_SET_HASH,
            restored_on="two cores, float32",
        )
        if request.identity == pb.IDENTITY_MODE_GUARD and not self.script.guardless:
            response.min_similarity = wire.optional(request, "min_similarity") or 0.4
        if request.return_mask:
            mask = images.encode_mask(np.full(pixels.shape[:2], 128, np.uint8))
            response.mask.CopyFrom(wire.image_to_proto(mask))
        if self.script.image is not None:
            response.image.CopyFrom(self.script.image)
        if self.script.no_image:
            response.ClearField("image")
        set_fields(response, self.script.result)
        return response

    def _outcomes(self, request: pb.RestoreFacesRequest, fidelity: float) -> list[pb.FaceResult]:
        if request.faces:
            outcomes = [_edited(edit, fidelity) for edit in request.faces]
        else:
            outcomes = [
                _outcome(face(index, confidence), restored, reason, fidelity)
                for index, (confidence, restored, reason) in enumerate(self.script.faces)
            ]
        for outcome in outcomes:
            if request.return_crops and outcome.restored:
                outcome.crop_before.CopyFrom(encoded(gradient(8, 8), "png", 92))
                outcome.crop_after.CopyFrom(encoded(255 - gradient(8, 8), "png", 92))
        return outcomes


def face(index: int, confidence: float) -> pb.Face:
    return pb.Face(
        index=index,
        box=pb.Box(x1_px=10 + index, y1_px=20, x2_px=110.04 + index, y2_px=140),
        landmarks=[pb.Point(x_px=x + index + 1 / 3, y_px=y) for x, y in LANDMARKS],
        confidence=confidence,
        size_px=100.04,
        sharpness=None if index == 1 else 41.75,
        roll_degrees=-0.125,
    )


def _edited(edit: pb.FaceEdit, fidelity: float) -> pb.FaceResult:
    used = edit.fidelity if edit.HasField("fidelity") else fidelity
    return _outcome(edit.face, not edit.skip, SkipReason.SKIPPED if edit.skip else None, used)


def _outcome(found: pb.Face, restored: bool, reason: SkipReason | None, fidelity: float) -> pb.FaceResult:
    return pb.FaceResult(
        face=found,
        restored=restored,
        reason=wire.skip_reason_to_proto(reason),
        fidelity=fidelity if restored else None,
    )


async def _decoded(image: image_pb2.Image, context: grpc.aio.ServicerContext) -> images.Picture:
    """Decode a request's image as the restorer does, and refuse it with the same message."""
    is_raw = image.format == image_pb2.IMAGE_FORMAT_RAW_RGB8
    try:
        return images.decode_input(
            wire.input_image_from_proto(image), max_pixels=MAX_RAW_PIXELS if is_raw else MAX_PIXELS
        )
    except AtelierError as error:
        await context.abort_with_status(rpc_status.to_status(to_status(error, "service")))
        raise AssertionError("aborted") from error
