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
    FaceEdit,
    FaceOutcome,
    FaceRule,
    MaskKind,
    RestoreRequest,
    RestoreResult,
)
from atelier_runtime import defaults, images
from atelier_runtime.errors import (FieldViolation, InvalidRequest)
from atelier_runtime.outcomes import SkipReason
from atelier_runtime.health import ServiceStatus
from atelier_runtime.images import Format, Picture, RgbArray
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
_REASONS: Mapping[SkipReason, error_reason_pb2.SkipReason] = {
    reason: getattr(error_reason_pb2, f"SKIP_REASON_{reason.name}") for reason in SkipReason
}
_OPTIONAL = (
    *("fidelity", "max_faces", "min_face_px", "max_face_px", "min_confidence", "max_sharpness"),
    *("visibility", "upscale", "use_upscaler", "aligned", "match_tone", "return_mask", "return_crops"),
)


def restore_request(message: pb.RestoreFacesRequest) -> RestoreRequest:
    """Read a request. Raises `InvalidRequest` naming every field that is out of range."""
    violations: list[FieldViolation] = []
    known: dict[str, Any] = _given(message, _OPTIONAL)
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
    known["faces"] = _orders(message)
    return _build(RestoreRequest, known, violations)


def compare_request(message: pb.CompareFidelitiesRequest) -> tuple[RestoreRequest, tuple[float, ...]]:
    """Read a request and its fidelities. Raises `InvalidRequest` naming every field that is out of range."""
    violations = []
    fidelities = tuple(message.fidelities)
    if not 1 <= len(fidelities) <= defaults.MAX_FIDELITIES:
        violations.append(
            FieldViolation(
                "fidelities", f"are {len(fidelities)}; 1 to {defaults.MAX_FIDELITIES} can be compared"
            )
        )
    low, high = defaults.FIDELITY_RANGE
    for number, fidelity in enumerate(fidelities[: defaults.MAX_FIDELITIES]):
        if not low <= fidelity <= high:  # false for NaN as well
            violations.append(
                FieldViolation(f"fidelities[{number}]", f"must be between {low} and {high}, is {fidelity}")
            )
    if message.restore.HasField("fidelity"):
        violations.append(FieldViolation("restore.fidelity", "has no meaning beside fidelities"))
    for number in (n for n, order in enumerate(message.restore.faces) if order.HasField("fidelity")):
        violations.append(
            FieldViolation(f"restore.faces[{number}].fidelity", "has no meaning beside fidelities")
        )
    try:
        request = restore_request(message.restore)
    except InvalidRequest as error:
        violations += [FieldViolation(f"restore.{v.field}", v.message) for v in error.fields]
    if violations:
        raise InvalidRequest(violations)
    return request, fidelities


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
    file_format = None if request.raw_output else request.output_format or result.picture.format
    return images.losses(result.picture, file_format, request.quality)


def restore_response(
    result: RestoreResult,
    image: image_pb2.Image,
    mask: image_pb2.Image | None,
    warnings: list[str],
    stages: list[StageReport],
    model_set: str,
) -> pb.RestoreFacesResponse:
    """Build the answer. Encodes the crops that were asked for: not for the event loop."""
    return pb.RestoreFacesResponse(
        image=image,
        faces=[_outcome(outcome) for outcome in result.outcomes],
        face_restoration_applied=result.reason is None,
        reason=_reason(result.reason),
        mask=mask,
        upscale_applied=result.upscale_applied,
        upscaler=result.upscaler,
        warnings=[*result.warnings, *warnings],
        stages=[_stage(report) for report in stages],
        model_set=model_set,
        tone_matched=result.tone_matched,
    )


def mask_image(result: RestoreResult) -> image_pb2.Image | None:
    """Encode the mask, if there is one, as a gray PNG. Takes time: not for the event loop."""
    if result.mask is None:
        return None
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


def status_response(state: ServiceStatus) -> pb.GetStatusResponse:
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


def _orders(message: pb.RestoreFacesRequest) -> tuple[FaceEdit, ...]:
    return tuple(
        FaceEdit(
            face=_known_face(number, order.face),
            fidelity=order.fidelity if order.HasField("fidelity") else None,
            visibility=order.visibility if order.HasField("visibility") else None,
            skip=order.skip,
        )
        for number, order in enumerate(message.faces)
    )


def _known_face(number: int, face: pb.Face) -> Face:
    return Face(
        index=number,
        box=(face.box.x1_px, face.box.y1_px, face.box.x2_px, face.box.y2_px),
        landmarks=tuple((point.x_px, point.y_px) for point in face.landmarks),
        confidence=face.confidence,
    )


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
        crop_before=_crop(outcome.before),
        crop_after=_crop(outcome.after),
    )


def _crop(crop: RgbArray | None) -> image_pb2.Image | None:
    if crop is None:
        return None
    data = images.encode(Picture(rgb=crop), "png", defaults.QUALITY)
    return _image(data, image_pb2.IMAGE_FORMAT_PNG, crop.shape[1], crop.shape[0])


def _reason(reason: SkipReason | None) -> error_reason_pb2.SkipReason:
    return _REASONS[reason] if reason else error_reason_pb2.SKIP_REASON_UNSPECIFIED


def _stage(report: StageReport) -> stage_report_pb2.StageReport:
    duration = Duration()
    duration.FromNanoseconds(int(report.seconds * 1e9))
    return stage_report_pb2.StageReport(
        stage=report.stage, duration=duration, peak_vram_bytes=report.peak_vram_bytes
    )
