"""Converts between the messages of `atelier.restorer.v1` and this service's own types."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from atelier.restorer.v1 import restorer_service_pb2 as pb
from atelier_restorer.codec import EncodedResult
from atelier_restorer.request import (
    DetectRequest,
    DetectResult,
    Face,
    FaceEdit,
    FaceOutcome,
    FaceRule,
    IdentityMode,
    Look,
    MaskKind,
    RestoreRequest,
    RestoreResult,
)
from atelier_runtime import defaults, wire
from atelier_runtime.checks import build_checked, check_range, raise_violations
from atelier_runtime.errors import FieldViolation, InvalidRequest
from atelier_runtime.images import EncodedImage
from atelier_runtime.metrics import StageReport

if TYPE_CHECKING:  # it imports torch, which a client of the service does without
    from atelier_runtime.service import LoadedModels

RULES: Mapping[pb.FaceRule, FaceRule] = {
    pb.FACE_RULE_UNSPECIFIED: FaceRule.ALL,
    pb.FACE_RULE_ALL: FaceRule.ALL,
    pb.FACE_RULE_LARGEST: FaceRule.LARGEST,
    pb.FACE_RULE_CENTER: FaceRule.CENTER,
}
LOOKS: Mapping[pb.Look, Look] = {
    pb.LOOK_UNSPECIFIED: Look.AUTO,
    pb.LOOK_AUTO: Look.AUTO,
    pb.LOOK_ONCE: Look.ONCE,
    pb.LOOK_THOROUGH: Look.THOROUGH,
}
MASKS: Mapping[pb.MaskKind, MaskKind] = {
    pb.MASK_KIND_UNSPECIFIED: MaskKind.FEATHER,
    pb.MASK_KIND_FEATHER: MaskKind.FEATHER,
    pb.MASK_KIND_PARSE: MaskKind.PARSE,
}
IDENTITY_MODES: Mapping[pb.IdentityMode, IdentityMode | None] = {
    pb.IDENTITY_MODE_UNSPECIFIED: None,
    pb.IDENTITY_MODE_OFF: IdentityMode.OFF,
    pb.IDENTITY_MODE_REPORT: IdentityMode.REPORT,
    pb.IDENTITY_MODE_GUARD: IdentityMode.GUARD,
}
_OPTIONS = (
    *("fidelity", "max_faces", "min_face_px", "max_face_px", "min_confidence", "max_sharpness"),
    *("visibility", "upscale", "use_upscaler", "aligned", "match_tone", "return_mask", "return_crops"),
    "detect_size_px",
    "min_similarity",
)
"""The options that have the same name in the message and in the dataclass."""


def restore_request_from_proto(message: pb.RestoreFacesRequest) -> RestoreRequest:
    """Read a request. Raises `InvalidRequest` naming every field that is out of range."""
    violations: list[FieldViolation] = []
    options = wire.set_fields(message, _OPTIONS)
    if message.rule in RULES:
        options["rule"] = RULES[message.rule]
    else:
        violations.append(FieldViolation("rule", f"{message.rule} is unknown"))
    if message.mask in MASKS:
        options["mask"] = MASKS[message.mask]
    else:
        violations.append(FieldViolation("mask", f"{message.mask} is unknown"))
    options["look"] = _look_from_proto(message.look, violations)
    if message.identity in IDENTITY_MODES:
        options["identity"] = IDENTITY_MODES[message.identity]
    else:
        violations.append(FieldViolation("identity", f"{message.identity} is unknown"))
    output = wire.output_from_proto(message.output, violations)
    options["output_format"] = output.format
    options["metadata"] = output.metadata
    options["fidelity_given"] = message.HasField("fidelity")
    if output.quality is not None:
        options["quality"] = output.quality
    options["faces"] = tuple(
        _face_edit_from_proto(number, face_edit) for number, face_edit in enumerate(message.faces)
    )
    return build_checked(RestoreRequest, options, violations)


def compare_request_from_proto(
    message: pb.CompareFidelitiesRequest,
) -> tuple[RestoreRequest, tuple[float, ...]]:
    """Read a request and its fidelities. Raises `InvalidRequest` naming every field that is out of range."""
    violations = []
    fidelities = tuple(message.fidelities)
    most = defaults.MAX_FIDELITIES
    if not 1 <= len(fidelities) <= most:
        violations.append(FieldViolation("fidelities", f"must be 1 to {most} values, are {len(fidelities)}"))
    for number, fidelity in enumerate(fidelities[:most]):
        violations += check_range(f"fidelities[{number}]", fidelity, defaults.FIDELITY_RANGE)
    why = "must be unset: every face gets each of the fidelities"
    if message.restore.HasField("fidelity"):
        violations.append(FieldViolation("restore.fidelity", why))
    violations += [
        FieldViolation(f"restore.faces[{number}].fidelity", why)
        for number, face_edit in enumerate(message.restore.faces)
        if face_edit.HasField("fidelity")
    ]
    if message.restore.identity == pb.IDENTITY_MODE_GUARD:
        violations.append(
            FieldViolation(
                "restore.identity",
                "guard would change the fidelities that are compared; report measures each",
            )
        )
    try:
        request = restore_request_from_proto(message.restore)
    except InvalidRequest as error:
        violations += [FieldViolation(f"restore.{v.field}", v.message) for v in error.fields]
        raise InvalidRequest(violations) from None
    raise_violations(violations)
    return request, fidelities


def detect_request_from_proto(message: pb.DetectFacesRequest) -> DetectRequest:
    """Read a request. Raises `InvalidRequest` naming every field that is out of range."""
    violations: list[FieldViolation] = []
    options = wire.set_fields(message, ("min_confidence", "detect_size_px"))
    options["look"] = _look_from_proto(message.look, violations)
    return build_checked(DetectRequest, options, violations)


def restore_response_to_proto(
    result: RestoreResult, encoded: EncodedResult, stages: list[StageReport], loaded: LoadedModels
) -> pb.RestoreFacesResponse:
    """Write a response. `stages`: those of the result, and the encoding."""
    return pb.RestoreFacesResponse(
        image=wire.image_to_proto(encoded.image),
        faces=[
            _outcome_to_proto(outcome, *crops)
            for outcome, crops in zip(result.outcomes, encoded.crops, strict=True)
        ],
        face_restoration_applied=result.reason is None,
        reason=wire.skip_reason_to_proto(result.reason),
        mask=wire.image_to_proto(encoded.mask) if encoded.mask else None,
        upscale_applied=result.upscale_applied,
        upscaler=result.upscaler,
        warnings=wire.warnings_to_proto((*result.warnings, *encoded.warnings)),
        stages=wire.stages_to_proto(stages),
        model_set=loaded.model_set,
        model_set_hash=loaded.model_set_hash,
        restored_on=loaded.works_on,
        mask_sha256=result.mask_sha256,
        tone_matched=result.tone_matched,
        min_similarity=result.min_similarity,
    )


def detect_response_to_proto(result: DetectResult) -> pb.DetectFacesResponse:
    """Write a response."""
    return pb.DetectFacesResponse(
        faces=[_face_to_proto(face) for face in result.faces],
        width_px=result.width,
        height_px=result.height,
        stages=wire.stages_to_proto(result.stages),
        warnings=wire.warnings_to_proto(result.warnings),
    )


def _look_from_proto(look: pb.Look, violations: list[FieldViolation]) -> Look:
    if look not in LOOKS:
        violations.append(FieldViolation("look", f"{look} is unknown"))
    return LOOKS.get(look, Look.AUTO)


def _face_edit_from_proto(number: int, message: pb.FaceEdit) -> FaceEdit:
    box = message.face.box
    return FaceEdit(
        face=Face(
            index=number,
            box=(box.x1_px, box.y1_px, box.x2_px, box.y2_px),
            landmarks=tuple((point.x_px, point.y_px) for point in message.face.landmarks),
            confidence=message.face.confidence,
            orientation_unclear=message.face.orientation_unclear,
        ),
        fidelity=wire.optional(message, "fidelity"),
        visibility=wire.optional(message, "visibility"),
        skip=message.skip,
    )


def _face_to_proto(face: Face) -> pb.Face:
    x1, y1, x2, y2 = face.box
    return pb.Face(
        index=face.index,
        box=pb.Box(x1_px=x1, y1_px=y1, x2_px=x2, y2_px=y2),
        landmarks=[pb.Point(x_px=x, y_px=y) for x, y in face.landmarks],
        confidence=face.confidence,
        size_px=face.size_px,
        sharpness=face.sharpness,
        roll_degrees=face.roll_degrees,
        orientation_unclear=face.orientation_unclear,
    )


def _outcome_to_proto(
    outcome: FaceOutcome, before: EncodedImage | None, after: EncodedImage | None
) -> pb.FaceResult:
    return pb.FaceResult(
        face=_face_to_proto(outcome.face),
        restored=outcome.reason is None,
        reason=wire.skip_reason_to_proto(outcome.reason),
        fidelity=outcome.fidelity,
        crop_before=wire.image_to_proto(before) if before else None,
        crop_after=wire.image_to_proto(after) if after else None,
        identity_similarity=outcome.similarity,
        identity_unknown=outcome.unknown,
        fidelity_requested=outcome.fidelity_requested,
        visibility=outcome.visibility,
        visibility_requested=outcome.visibility_requested,
    )
