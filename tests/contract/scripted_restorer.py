"""The restorer's scripted stand-in: it inverts the picture, and says of its faces what the test tells it."""

from __future__ import annotations

import grpc
import numpy as np
from grpc_status import rpc_status

from atelier.common.v1 import image_pb2
from atelier.restorer.v1 import restorer_service_pb2 as pb
from atelier.restorer.v1 import restorer_service_pb2_grpc
from atelier_runtime import defaults, images
from atelier_runtime.errors import AtelierError
from atelier_runtime.outcomes import SkipReason
from atelier_runtime.rpc_errors import to_status
from tests.contract.script import FORMATS, Scripted, encoded, picture, reason, stage_report

MAX_PIXELS = 2_000_000
_FORMAT_NUMBERS = {name: number for number, name in FORMATS.items()}
_AS_PNG = image_pb2.OutputOptions(format=image_pb2.IMAGE_FORMAT_PNG)


class ScriptedRestorer(Scripted, restorer_service_pb2_grpc.RestorerServiceServicer):
    async def RestoreFaces(
        self, request: pb.RestoreFacesRequest, context: grpc.aio.ServicerContext
    ) -> pb.RestoreFacesResponse:
        await self.begin(request, context)
        return self._restored(request, await _opened(request.image, context), request.fidelity)

    async def CompareFidelities(
        self, request: pb.CompareFidelitiesRequest, context: grpc.aio.ServicerContext
    ) -> pb.CompareFidelitiesResponse:
        await self.begin(request, context)
        sent = await _opened(request.restore.image, context)
        results = [self._restored(request.restore, sent, fidelity) for fidelity in request.fidelities]
        return pb.CompareFidelitiesResponse(results=results[: self.script.most_results])

    async def DetectFaces(
        self, request: pb.DetectFacesRequest, context: grpc.aio.ServicerContext
    ) -> pb.DetectFacesResponse:
        await self.begin(request, context)
        sent = await _opened(request.image, context)
        return pb.DetectFacesResponse(
            faces=[face(index, confidence) for index, (confidence, _, _) in enumerate(self.script.faces)],
            width_px=sent.width,
            height_px=sent.height,
            stages=[stage_report("decode", 0.125), stage_report("detect", 0.5)],
        )

    async def GetStatus(
        self, request: pb.GetStatusRequest, context: grpc.aio.ServicerContext
    ) -> pb.GetStatusResponse:
        return await self.tell_status(pb.GetStatusResponse)

    def _restored(
        self, request: pb.RestoreFacesRequest, sent: images.Picture, fidelity: float
    ) -> pb.RestoreFacesResponse:
        scale = request.upscale or 1
        pixels = 255 - sent.rgb.repeat(scale, axis=0).repeat(scale, axis=1)
        output = image_pb2.OutputOptions(
            format=request.output.format or _FORMAT_NUMBERS[str(sent.format)],
            quality=request.output.quality or defaults.QUALITY,
        )
        response = pb.RestoreFacesResponse(
            image=encoded(pixels, output),
            upscale_applied=scale,
            upscaler="demo_x2" if scale > 1 else "",
            stages=[stage_report("detect", 0.5), stage_report("restore", 0.25)],
            faces=self._outcomes(request, fidelity),
            model_set="demo",
        )
        looks_for_faces = not request.HasField("max_faces") or request.max_faces > 0
        response.face_restoration_applied = any(face.restored for face in response.faces)
        if looks_for_faces and not response.faces:
            response.reason = reason(SkipReason.NO_FACE)
        elif not looks_for_faces:
            response.reason = reason(SkipReason.SKIPPED)
        if request.return_mask:
            mask = images.encode_gray_png(np.full(pixels.shape[:2], 128, np.uint8))
            response.mask.CopyFrom(image_pb2.Image(data=mask, format=image_pb2.IMAGE_FORMAT_PNG))
        if self.script.no_picture:
            response.ClearField("image")
        for name, value in self.script.answer.items():
            if isinstance(value, list):
                getattr(response, name).extend(value)
            else:
                setattr(response, name, value)
        return response

    def _outcomes(self, request: pb.RestoreFacesRequest, fidelity: float) -> list[pb.FaceResult]:
        if request.HasField("max_faces") and request.max_faces == 0:
            return []
        results = []
        if request.faces:
            for order in request.faces:
                result = pb.FaceResult(face=order.face, restored=not order.skip)
                result.reason = reason(SkipReason.SKIPPED) if order.skip else 0
                if result.restored:
                    result.fidelity = order.fidelity if order.HasField("fidelity") else fidelity
                results.append(result)
        else:
            for index, (confidence, restored, why) in enumerate(self.script.faces):
                result = pb.FaceResult(face=face(index, confidence), restored=restored)
                result.reason = reason(why) if why else 0
                if restored:
                    result.fidelity = fidelity
                results.append(result)
        for result in results:
            if request.return_crops and result.restored:
                result.crop_before.CopyFrom(encoded(picture(8, 8), _AS_PNG))
                result.crop_after.CopyFrom(encoded(255 - picture(8, 8), _AS_PNG))
        return results


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


LANDMARKS = [(40, 60), (80, 60), (60, 80), (45, 110), (75, 110)]


async def _opened(image: image_pb2.Image, context: grpc.aio.ServicerContext) -> images.Picture:
    """Read a request's picture as the restorer does, and refuse it in its words."""
    try:
        if image.format == image_pb2.IMAGE_FORMAT_RAW_RGB8:
            return images.from_raw(
                image.data, image.width_px, image.height_px, max_pixels=50_000_000, field="image"
            )
        return images.decode(image.data, max_pixels=MAX_PIXELS, field="image")
    except AtelierError as error:
        await context.abort_with_status(rpc_status.to_status(to_status(error, "stage")))
        raise AssertionError("aborted") from error
