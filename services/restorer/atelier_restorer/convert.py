"""Between protobuf messages and this stage's dataclasses. Nothing past this module knows protobuf."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from google.protobuf.duration_pb2 import Duration

from atelier.common.v1 import error_reason_pb2, image_pb2, service_status_pb2, stage_report_pb2
from atelier.restorer.v1 import restorer_service_pb2 as pb
from atelier_restorer.request import (
    DetectRequest,
    Face,
    FaceOutcome,
    FaceRule,
    MaskKind,
    RestoreRequest,
    RestoreResult,
)
from atelier_runtime import images
from atelier_runtime.errors import FieldViolation, InvalidRequest, NotDoneReason
from atelier_runtime.health import StageState
from atelier_runtime.images import Format, Picture
from atelier_runtime.metrics import StageReport

T = TypeVar("T")

_RULES: Mapping[pb.FaceRule, FaceRule] = {
    pb.FACE_RULE_UNSPECIFIED: FaceRule.ALL,
    pb.FACE_RULE_ALL: FaceRule.ALL,
    pb.FACE_RULE_LARGEST: FaceRule.LARGEST,
    pb.FACE_RULE_CENTER: FaceRule.CENTER,
}
_MASKS: Mapping[pb.MaskKind, MaskKind] = {
    pb.MASK_KIND_UNSPECIFIED: MaskKind.FEATHER,
    pb.MASK_KIND_FEATHER: MaskKind.FEATHER,
    pb.MASK_KIND_PARSE: MaskKind.PARSE,
}
_FILE_FORMATS: Mapping[image_pb2.ImageFormat, Format] = {
    image_pb2.IMAGE_FORMAT_PNG: "png",
    image_pb2.IMAGE_FORMAT_JPEG: "jpeg",
    image_pb2.IMAGE_FORMAT_WEBP: "webp",
}
_FORMAT_NUMBERS = {name: number for number, name in _FILE_FORMATS.items()}
# Total, or this module could not be imported.
_REASONS: Mapping[NotDoneReason, error_reason_pb2.NotDoneReason] = {
    reason: getattr(error_reason_pb2, f"NOT_DONE_REASON_{reason.name}") for reason in NotDoneReason
}
_OPTIONAL = ("fidelity", "max_faces", "min_face_px", "max_face_px", "min_confidence", "visibility", "upscale")
_OPTIONAL_FLAGS = ("use_realesrgan", "aligned", "return_mask")


def restore_request(message: pb.RestoreFacesRequest) -> RestoreRequest:
    """Read a request. Raises `InvalidRequest` naming every field that is out of range or not built yet."""
    violations = _not_built(message)
    known: dict[str, Any] = _given(message, _OPTIONAL + _OPTIONAL_FLAGS)
    if message.rule in _RULES:
        known["rule"] = _RULES[message.rule]
    else:
        violations.append(FieldViolation("rule", f"{message.rule} is unknown"))
    if message.mask in _MASKS:
        known["mask"] = _MASKS[message.mask]
    else:
        violations.append(FieldViolation("mask", f"{message.mask} is unknown"))
    output = message.output.format
    if output in _FILE_FORMATS:
        known["output_format"] = _FILE_FORMATS[output]
    elif output == image_pb2.IMAGE_FORMAT_RAW_RGB8:
        known["raw_output"] = True
    elif output != image_pb2.IMAGE_FORMAT_UNSPECIFIED:
        violations.append(FieldViolation("output.format", f"{output} is unknown"))
    if message.output.HasField("quality"):
        known["quality"] = message.output.quality
    return _build(RestoreRequest, known, violations)


def detect_request(message: pb.DetectFacesRequest) -> DetectRequest:
    """Read a request. Raises `InvalidRequest` naming every field that is out of range."""
    return _build(DetectRequest, _given(message, ("min_confidence", "detect_size_px")), [])


def picture(message: image_pb2.Image, max_pixels: int) -> Picture:
    """Decode a request's picture. Takes time: not for the event loop. Raises `InvalidRequest`."""
    if message.format == image_pb2.IMAGE_FORMAT_RAW_RGB8:
        width = message.width_px if message.HasField("width_px") else None
        height = message.height_px if message.HasField("height_px") else None
        return images.from_raw(message.data, width, height, max_pixels=max_pixels, field="image")
    if message.format not in (image_pb2.IMAGE_FORMAT_UNSPECIFIED, *_FILE_FORMATS):
        raise InvalidRequest.of("image.format", f"{message.format} is unknown")
    decoded = images.decode(message.data, max_pixels=max_pixels, field="image", deep=True)
    said = _FILE_FORMATS.get(message.format, decoded.format)
    if said != decoded.format:
        raise InvalidRequest.of("image.format", f"says {said}, but the data is {decoded.format}")
    return decoded


def encode(result: Picture, request: RestoreRequest) -> image_pb2.Image:
    """Encode the answer's picture: as asked, else as the input was. Takes time: not for the event loop."""
    file_format = request.output_format or result.format
    if request.raw_output or file_format is None:
        data, number = result.eight_bit().tobytes(), image_pb2.IMAGE_FORMAT_RAW_RGB8
    else:
        data, number = images.encode(result, file_format, request.quality), _FORMAT_NUMBERS[file_format]
    return _image(data, number, result.width, result.height)


def encoding_warnings(result: RestoreResult, request: RestoreRequest) -> list[str]:
    """Tell what the output format cannot keep."""
    raw = request.raw_output or not (request.output_format or result.picture.format)
    file_format = None if raw else request.output_format or result.picture.format
    return images.losses(result.picture, file_format, request.quality)


def restore_response(
    result: RestoreResult,
    image: image_pb2.Image,
    warnings: list[str],
    stages: list[StageReport],
    model_set: str,
) -> pb.RestoreFacesResponse:
    """Build the answer, without the mask."""
    return pb.RestoreFacesResponse(
        image=image,
        faces=[_outcome(outcome) for outcome in result.outcomes],
        face_restoration_applied=result.reason is None,
        reason=_reason(result.reason),
        upscale_applied=result.upscale_applied,
        upscaler=result.upscaler,
        warnings=[*result.warnings, *warnings],
        stages=[_stage(report) for report in stages],
        model_set=model_set,
    )


def mask_image(result: RestoreResult) -> image_pb2.Image:
    """Encode the mask as a gray PNG. Takes time: not for the event loop."""
    data = images.encode_gray_png(result.mask)
    return _image(data, image_pb2.IMAGE_FORMAT_PNG, result.mask.shape[1], result.mask.shape[0])


def detect_response(faces: list[Face], picture: Picture, stages: list[StageReport]) -> pb.DetectFacesResponse:
    """Build the answer."""
    return pb.DetectFacesResponse(
        faces=[_face(face) for face in faces],
        width_px=picture.width,
        height_px=picture.height,
        stages=[_stage(report) for report in stages],
    )


def status_response(state: StageState) -> pb.GetStatusResponse:
    """Build the answer."""
    status = service_status_pb2.ServiceStatus(
        version=state.version,
        ready=state.ready,
        model_set=state.model_set,
        networks=[service_status_pb2.LoadedNetwork(role=n.role, name=n.name) for n in state.networks],
        device=state.device,
        device_name=state.device_name,
        dtype=state.dtype,
        vram_free_bytes=state.vram_free_bytes,
        vram_total_bytes=state.vram_total_bytes,
        process_memory_bytes=state.process_memory_bytes,
        queue_depth=state.queue_depth,
        queue_capacity=state.queue_capacity,
        running=state.running,
    )
    return pb.GetStatusResponse(status=status)


def _not_built(message: pb.RestoreFacesRequest) -> list[FieldViolation]:
    """Name what the contract has and this version cannot do: refused rather than ignored."""
    violations = []
    if message.faces:
        violations.append(FieldViolation("faces", "orders for single faces are not supported yet"))
    if message.HasField("max_sharpness"):
        violations.append(FieldViolation("max_sharpness", "is not supported yet"))
    if message.return_crops:
        violations.append(FieldViolation("return_crops", "is not supported yet"))
    return violations


def _given(message: Any, names: tuple[str, ...]) -> dict[str, Any]:
    return {name: getattr(message, name) for name in names if message.HasField(name)}


def _build(request_class: type[T], known: dict[str, Any], violations: list[FieldViolation]) -> T:
    try:
        request = request_class(**known)
    except InvalidRequest as error:
        raise InvalidRequest([*violations, *error.fields]) from None
    if violations:
        raise InvalidRequest(violations)
    return request


def _image(data: bytes, number: image_pb2.ImageFormat, width: int, height: int) -> image_pb2.Image:
    return image_pb2.Image(data=data, format=number, width_px=width, height_px=height)


def _face(face: Face) -> pb.Face:
    x1, y1, x2, y2 = face.box
    return pb.Face(
        index=face.index,
        box=pb.Box(x1_px=x1, y1_px=y1, x2_px=x2, y2_px=y2),
        landmarks=[pb.Point(x_px=x, y_px=y) for x, y in face.landmarks],
        confidence=face.confidence,
        size_px=face.size_px,
        sharpness=face.sharpness,
        roll_degrees=face.roll_degrees,
    )


def _outcome(outcome: FaceOutcome) -> pb.FaceResult:
    return pb.FaceResult(
        face=_face(outcome.face),
        restored=outcome.reason is None,
        reason=_reason(outcome.reason),
        fidelity=outcome.fidelity,
    )


def _reason(reason: NotDoneReason | None) -> error_reason_pb2.NotDoneReason:
    return _REASONS[reason] if reason else error_reason_pb2.NOT_DONE_REASON_UNSPECIFIED


def _stage(report: StageReport) -> stage_report_pb2.StageReport:
    duration = Duration()
    duration.FromNanoseconds(int(report.seconds * 1e9))
    return stage_report_pb2.StageReport(
        stage=report.stage, duration=duration, peak_vram_bytes=report.peak_vram_bytes
    )
