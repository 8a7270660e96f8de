"""Decide which of the faces found are restored, and say of each other one why not."""

from __future__ import annotations

import math
from collections.abc import Sequence

from atelier_restorer.request import Face, FaceRule, RestoreRequest
from atelier_runtime.defaults import MIN_EYE_DISTANCE_PX
from atelier_runtime.outcomes import SkipReason


def select_faces(
    faces: Sequence[Face], request: RestoreRequest, width: int, height: int
) -> list[SkipReason | None]:
    """Return for each face None, if it is to be restored, or why it is left alone.

    Args:
        faces: As the detector gave them, the surest first.
        request: Its confidence and size limits come first, then the rule, then the number of faces.
        width: Of the picture, px.
        height: Of the picture, px.
    """
    reasons = [_unfit(face, request) for face in faces]
    fit = [i for i, reason in enumerate(reasons) if reason is None]
    if fit and request.rule is not FaceRule.ALL:
        if request.rule is FaceRule.LARGEST:
            chosen = max(fit, key=lambda i: _area(faces[i]))
        else:
            chosen = min(fit, key=lambda i: _distance_to(faces[i], width / 2, height / 2))
        for i in fit:
            reasons[i] = None if i == chosen else SkipReason.SKIPPED
        fit = [chosen]
    for i in fit[request.max_faces :]:
        reasons[i] = SkipReason.OVER_LIMIT
    return reasons


def apply_face_edits(request: RestoreRequest) -> list[SkipReason | None]:
    """Return for each face that the request names None, if it is to be restored, or why it is left alone."""
    reasons = [SkipReason.SKIPPED if order.skip else None for order in request.faces]
    wanted = [number for number, reason in enumerate(reasons) if reason is None]
    for number in wanted[request.max_faces :]:
        reasons[number] = SkipReason.OVER_LIMIT
    return reasons


def _unfit(face: Face, request: RestoreRequest) -> SkipReason | None:
    if face.confidence <= request.min_confidence:
        return SkipReason.LOW_CONFIDENCE
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
