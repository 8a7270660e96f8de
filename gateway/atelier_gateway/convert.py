"""Between the gateway's values and protobuf messages. Past it and the channels nothing knows it."""

from __future__ import annotations

from typing import Any

from atelier.common.v1 import error_reason_pb2, image_pb2, service_status_pb2, stage_report_pb2
from atelier.generator.v1 import generator_service_pb2 as generator_pb
from atelier.restorer.v1 import restorer_service_pb2 as restorer_pb
from atelier_gateway.photo_schema import (
    CompareRequest,
    DetectRequest,
    FaceEdit,
    RestoreOptions,
    RestoreRequest,
)
from atelier_gateway.schema import GenerateRequest
from atelier_gateway.work import (
    Detection,
    Generation,
    Encoding,
    Face,
    FaceOutcome,
    Restoration,
    RestorationOrder,
    StagePicture,
    StageStatus,
)
from atelier_runtime import metrics
from atelier_runtime.errors import InternalError
from atelier_runtime.outcomes import SkipReason
from atelier_runtime.images import Format

_FORMAT_TO_PB: dict[str, image_pb2.ImageFormat] = {
    "png": image_pb2.IMAGE_FORMAT_PNG,
    "jpeg": image_pb2.IMAGE_FORMAT_JPEG,
    "webp": image_pb2.IMAGE_FORMAT_WEBP,
    "raw": image_pb2.IMAGE_FORMAT_RAW_RGB8,
}
_FILE_FORMATS: dict[int, Format] = {
    image_pb2.IMAGE_FORMAT_PNG: "png",
    image_pb2.IMAGE_FORMAT_JPEG: "jpeg",
    image_pb2.IMAGE_FORMAT_WEBP: "webp",
}
_RULE_TO_PB: dict[str, restorer_pb.FaceRule] = {
    "all": restorer_pb.FACE_RULE_ALL,
    "largest": restorer_pb.FACE_RULE_LARGEST,
    "center": restorer_pb.FACE_RULE_CENTER,
}
_MASK_TO_PB: dict[str, restorer_pb.MaskKind] = {
    "feather": restorer_pb.MASK_KIND_FEATHER,
    "parse": restorer_pb.MASK_KIND_PARSE,
}
_SAME_NAME = (
    *("max_faces", "min_face_px", "max_face_px", "min_confidence", "max_sharpness", "visibility", "upscale"),
    *("use_realesrgan", "aligned", "match_tone", "return_mask", "return_crops"),
)


def _output(encoding: Encoding) -> image_pb2.OutputOptions:
    return image_pb2.OutputOptions(format=_FORMAT_TO_PB[encoding.format], quality=encoding.quality)


def drawing_order(request: GenerateRequest, encoding: Encoding) -> generator_pb.GenerateImageRequest:
    """Build the generator's order."""
    return generator_pb.GenerateImageRequest(
        prompt=request.prompt,
        negative_prompt=request.negative_prompt,
        width_px=request.width,
        height_px=request.height,
        num_inference_steps=request.num_inference_steps,
        guidance_scale=request.guidance_scale,
        seed=None if request.seed == -1 else request.seed,
        use_refiner=request.use_refiner,
        hires_fix=request.hires_fix,
        use_realesrgan=request.use_realesrgan,
        hires_fix_simple=request.hires_fix_simple,
        hires_scale=request.hires_scale,
        output=_output(encoding),
    )


def restoration_order(order: RestorationOrder) -> restorer_pb.RestoreFacesRequest:
    """Build the restorer's order for a drawn picture."""
    return restorer_pb.RestoreFacesRequest(
        image=image_pb2.Image(
            data=order.picture.data,
            format=_FORMAT_TO_PB[order.picture.format],
            width_px=order.picture.width,
            height_px=order.picture.height,
        ),
        fidelity=order.fidelity,
        max_faces=None if order.restore_faces else 0,
        match_tone=order.match_tone,
        upscale=order.upscale,
        use_realesrgan=order.use_realesrgan,
        output=_output(order.encoding),
    )


def restore_order(request: RestoreRequest, output_format: Format | None) -> restorer_pb.RestoreFacesRequest:
    """Build the restorer's order for a client's photograph. What the client left open stays unset."""
    message = _photo_order(request, output_format)
    if "fidelity" in request.model_fields_set:
        message.fidelity = request.fidelity
    return message


def compare_order(request: CompareRequest) -> restorer_pb.CompareFidelitiesRequest:
    """Build the restorer's order for several fidelities."""
    return restorer_pb.CompareFidelitiesRequest(
        restore=_photo_order(request, request.output_format), fidelities=request.fidelities
    )


def detect_order(request: DetectRequest) -> restorer_pb.DetectFacesRequest:
    """Build the restorer's order to find faces."""
    given = request.model_fields_set
    return restorer_pb.DetectFacesRequest(
        image=image_pb2.Image(data=request.image),
        min_confidence=request.min_confidence if "min_confidence" in given else None,
        detect_size_px=request.detect_size if "detect_size" in given else None,
    )


def _photo_order(request: RestoreOptions, output_format: Format | None) -> restorer_pb.RestoreFacesRequest:
    given = request.model_fields_set
    rule = "center" if request.only_center_face else request.rule if "rule" in given else None
    return restorer_pb.RestoreFacesRequest(
        image=image_pb2.Image(data=request.image),
        faces=[_face_order(face, position) for position, face in enumerate(request.faces)],
        rule=None if rule is None else _RULE_TO_PB[rule],
        mask=_MASK_TO_PB[request.mask] if "mask" in given else None,
        output=image_pb2.OutputOptions(
            format=None if output_format is None else _FORMAT_TO_PB[output_format],
            quality=request.quality if "quality" in given else None,
        ),
        **{name: getattr(request, name) for name in _SAME_NAME if name in given},
    )


def _face_order(order: FaceEdit, position: int) -> restorer_pb.FaceEdit:
    x1, y1, x2, y2 = order.box
    face = restorer_pb.Face(
        index=position if order.index is None else order.index,
        box=restorer_pb.Box(x1_px=x1, y1_px=y1, x2_px=x2, y2_px=y2),
        landmarks=[restorer_pb.Point(x_px=x, y_px=y) for x, y in order.landmarks],
        confidence=1.0 if order.confidence is None else order.confidence,
        size_px=order.size_px,
        sharpness=order.sharpness,
        roll_degrees=order.roll_degrees,
    )
    return restorer_pb.FaceEdit(
        face=face, fidelity=order.fidelity, visibility=order.visibility, skip=order.skip
    )


def drawing(result: generator_pb.GenerateImageResult, asked: Encoding) -> Generation:
    """Read the generator's answer."""
    return Generation(
        picture=_picture(result.image, asked),
        seed=result.effective_request.seed,
        model_set=result.model_set,
        refiner_applied=result.refiner_applied,
        refiner_reason=_reason(result.refiner_reason),
        hires_fix_applied=result.hires_fix_applied,
        hires_fix_reason=_reason(result.hires_fix_reason),
        upscaler=result.upscaler,
        warnings=tuple(result.warnings),
        stages=tuple(_report(report) for report in result.stages),
    )


def restoration(response: restorer_pb.RestoreFacesResponse, asked: Encoding | None) -> Restoration:
    """Read the restorer's answer. `asked` None: a file of any format is right."""
    return Restoration(
        picture=_file(response.image) if asked is None else _picture(response.image, asked),
        mask=_file(response.mask) if response.HasField("mask") else None,
        model_set=response.model_set,
        faces=tuple(_face_outcome(face) for face in response.faces),
        applied=response.face_restoration_applied,
        reason=_reason(response.reason),
        upscale_applied=response.upscale_applied,
        upscaler=response.upscaler,
        tone_matched=response.tone_matched,
        warnings=tuple(response.warnings),
        stages=tuple(_report(report) for report in response.stages),
    )


def comparison(response: restorer_pb.CompareFidelitiesResponse) -> tuple[Restoration, ...]:
    """Read the restorer's answers, one for each fidelity."""
    return tuple(restoration(result, None) for result in response.results)


def detection(response: restorer_pb.DetectFacesResponse) -> Detection:
    """Read the faces that the restorer found."""
    return Detection(
        faces=tuple(_face(face) for face in response.faces),
        width=response.width_px,
        height=response.height_px,
        stages=tuple(_report(report) for report in response.stages),
    )


def _picture(image: image_pb2.Image, asked: Encoding) -> StagePicture:
    if image.format != _FORMAT_TO_PB[asked.format] or not image.data:
        raise InternalError(f"A stage answered without a picture as {asked.format}.")
    return StagePicture(image.data, asked.format, image.width_px, image.height_px)


def _file(image: image_pb2.Image) -> StagePicture:
    file_format = _FILE_FORMATS.get(image.format)
    if file_format is None or not image.data:
        raise InternalError("The restorer answered without a picture's file.")
    return StagePicture(image.data, file_format, image.width_px, image.height_px)


def _face_outcome(result: restorer_pb.FaceResult) -> FaceOutcome:
    return FaceOutcome(
        face=_face(result.face),
        restored=result.restored,
        reason=_reason(result.reason),
        fidelity=_optional(result, "fidelity"),
        crop_before=_file(result.crop_before) if result.HasField("crop_before") else None,
        crop_after=_file(result.crop_after) if result.HasField("crop_after") else None,
    )


def _face(face: restorer_pb.Face) -> Face:
    box = face.box
    return Face(
        index=face.index,
        box=(box.x1_px, box.y1_px, box.x2_px, box.y2_px),
        landmarks=tuple((point.x_px, point.y_px) for point in face.landmarks),
        confidence=face.confidence,
        size_px=_optional(face, "size_px"),
        sharpness=_optional(face, "sharpness"),
        roll_degrees=_optional(face, "roll_degrees"),
    )


def _optional(message: Any, name: str) -> Any:
    return getattr(message, name) if message.HasField(name) else None


def _reason(value: error_reason_pb2.SkipReason) -> SkipReason | None:
    if value == error_reason_pb2.SKIP_REASON_UNSPECIFIED:
        return None
    try:
        name = error_reason_pb2.SkipReason.Name(value)
    except ValueError:  # a stage of a newer version has a reason that we do not know
        return SkipReason.FAILED
    return SkipReason[name.removeprefix("SKIP_REASON_")]


def _report(report: stage_report_pb2.StageReport) -> metrics.StageReport:
    return metrics.StageReport(
        stage=report.stage,
        seconds=report.duration.ToNanoseconds() / 1e9,
        peak_vram_bytes=_optional(report, "peak_vram_bytes"),
    )


def stage_status(status: service_status_pb2.ServiceStatus) -> StageStatus:
    """Read what a stage says of itself."""
    return StageStatus(
        version=status.version,
        ready=status.ready,
        model_set=status.model_set,
        device=status.device,
        device_name=status.device_name,
        vram_free_bytes=_optional(status, "vram_free_bytes"),
        vram_total_bytes=_optional(status, "vram_total_bytes"),
        networks={network.role: network.name for network in status.networks},
    )
