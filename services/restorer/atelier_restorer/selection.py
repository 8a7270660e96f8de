"""Selects the faces to restore, and gives the reason for each of the others."""

from __future__ import annotations

import math
from collections.abc import Sequence

from atelier_restorer.request import Face, FaceEdit, FaceRule, RestoreRequest
from atelier_runtime.defaults import MIN_EYE_DISTANCE_PX
from atelier_runtime.outcomes import SkipReason


def select_faces(
    faces: Sequence[Face], request: RestoreRequest, width: int, height: int
) -> list[SkipReason | None]:
    """Return for each face None if it is to be restored, else why it is skipped.

    Args:
        faces: As detected, highest confidence first.
        request: Its confidence and size limits apply first, then the rule, then the maximum number of faces.
        width: Width of the image, px.
        height: Height of the image, px.
    """
    reasons = [_outside_limits(face, request) for face in faces]
    eligible = [i for i, reason in enumerate(reasons) if reason is None]
    if eligible and request.rule is not FaceRule.ALL:
        if request.rule is FaceRule.LARGEST:
            selected = max(eligible, key=lambda i: _area(faces[i]))
        else:
            selected = min(eligible, key=lambda i: _distance_to(faces[i], width / 2, height / 2))
        for i in eligible:
            reasons[i] = None if i == selected else SkipReason.SKIPPED
        eligible = [selected]
    for i in eligible[request.max_faces :]:
        reasons[i] = SkipReason.OVER_LIMIT
    return reasons


def apply_face_edits(request: RestoreRequest) -> list[SkipReason | None]:
    """Return for each of the request's face edits None if it is to be restored, else why it is skipped."""
    reasons = [_reason_of(edit) for edit in request.faces]
    eligible = [number for number, reason in enumerate(reasons) if reason is None]
    for number in eligible[request.max_faces :]:
        reasons[number] = SkipReason.OVER_LIMIT
    return reasons


def _reason_of(edit: FaceEdit) -> SkipReason | None:
    if edit.skip:
        return SkipReason.SKIPPED
    return SkipReason.ORIENTATION_UNCLEAR if edit.face.orientation_unclear else None


def _outside_limits(face: Face, request: RestoreRequest) -> SkipReason | None:
    if face.confidence <= request.min_confidence:
        return SkipReason.LOW_CONFIDENCE
    if face.orientation_unclear:
        return SkipReason.ORIENTATION_UNCLEAR
    if face.eye_distance_px < MIN_EYE_DISTANCE_PX or face.size_px < request.min_face_px:
        return SkipReason.TOO_SMALL
    if request.max_face_px is not None and face.size_px > request.max_face_px:
        return SkipReason.SKIPPED
    return None


def _area(face: Face) -> float:
    x1, y1, x2, y2 = face.box
    return (x2 - x1) * (y2 - y1)


def _distance_to(face: Face, x: float, y: float) -> float:
    x1, y1, x2, y2 = face.box
    return math.dist(((x1 + x2) / 2, (y1 + y2) / 2), (x, y))
