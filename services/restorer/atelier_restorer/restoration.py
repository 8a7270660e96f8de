"""What the networks made of a picture, and how that becomes the answer: paste, mask, reasons."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from atelier_restorer.align import crop_to_picture
from atelier_restorer.faces import Candidate
from atelier_restorer.paste import blend_aligned, paste_face, soften_parts
from atelier_restorer.request import FaceOutcome, RestoreRequest, RestoreResult
from atelier_restorer.upscale import Enlarged, enlarge_plane
from atelier_runtime.outcomes import SkipReason
from atelier_runtime.images import Picture, RgbArray, to_depth, to_eight_bit
from atelier_runtime.metrics import StageTimer


@dataclass(frozen=True)
class Patch:
    """A restored crop and the place in the enlarged picture where it belongs.

    `parts` (512, 512) tells where in the crop it replaces the picture; None: everywhere.
    """

    crop: RgbArray
    matrix: np.ndarray
    visibility: float
    parts: np.ndarray | None


@dataclass(frozen=True)
class Restoration:
    """What the networks made of a picture. What remains is to paste the patches; see `paste`.

    `changed` is the mask (H, W) of what differs from the input in the background already: the face of an
    aligned crop. None: nothing does.
    """

    background: Enlarged
    changed: RgbArray | None
    patches: tuple[Patch, ...]
    outcomes: tuple[FaceOutcome, ...]
    reason: SkipReason | None
    warnings: tuple[str, ...]
    tone_matched: bool


def paste(
    picture: Picture,
    request: RestoreRequest,
    restoration: Restoration,
    timer: StageTimer,
    *,
    in_place: bool = False,
) -> RestoreResult:
    """Paste the restored faces, the surest first, and gather the answer. Runs no network.

    `in_place`: into the background itself, which nobody needs afterwards, if it can be written to; else into
    a copy, so that it stays whole for other fidelities.
    """
    with timer.stage("paste"):
        background, upscaler = restoration.background
        rgb = background if in_place and background.flags.writeable else background.copy()
        mask = None
        if request.return_mask and restoration.changed is None:
            mask = np.zeros(rgb.shape[:2], np.uint8)
        elif request.return_mask and restoration.changed is not None:
            mask = _enlarged_mask(restoration.changed, request.upscale)
        for patch in restoration.patches:
            parts = None if patch.parts is None else soften_parts(patch.parts)
            paste_face(rgb, mask, patch.crop, patch.matrix, request.upscale, patch.visibility, parts)
        alpha = picture.alpha
        if alpha is not None and request.upscale > 1:
            alpha = to_depth(enlarge_plane(to_eight_bit(alpha), request.upscale), picture.bits)
    return RestoreResult(
        picture=picture.with_pixels(rgb, alpha),
        mask=mask,
        outcomes=restoration.outcomes,
        reason=restoration.reason,
        upscale_applied=request.upscale,
        upscaler=upscaler,
        warnings=restoration.warnings,
        tone_matched=restoration.tone_matched,
    )


def blend_face(picture: Picture, candidate: Candidate) -> tuple[Picture, RgbArray]:
    """Return an aligned picture with its restored face, and the mask (512, 512) of what was changed."""
    assert candidate.restored is not None, "the caller has looked"
    parts = None if candidate.parts is None else soften_parts(candidate.parts)
    blended, changed = blend_aligned(picture.rgb, candidate.restored, candidate.visibility, parts)
    return picture.with_pixels(blended, picture.alpha), changed


def patches_of(candidates: Sequence[Candidate], scale: int) -> tuple[Patch, ...]:
    """Return what is to be pasted into the picture enlarged `scale` times."""
    return tuple(
        Patch(c.restored, crop_to_picture(c.matrix, scale), c.visibility, c.parts)
        for c in candidates
        if c.restored is not None and c.matrix is not None
    )


def outcome_of(candidate: Candidate, request: RestoreRequest) -> FaceOutcome:
    """Return what became of a face."""
    restored = candidate.reason is None
    return FaceOutcome(
        face=candidate.face.enlarged(request.upscale),
        reason=candidate.reason,
        fidelity=candidate.fidelity if restored else None,
        before=candidate.crop if request.return_crops else None,
        after=candidate.restored if request.return_crops else None,
    )


def overall_reason(
    candidates: Sequence[Candidate], request: RestoreRequest, missing: str | None
) -> SkipReason | None:
    """Return None if a face was restored, else what kept the surest one from it; `missing`: a network."""
    if request.max_faces == 0:
        return SkipReason.SKIPPED
    if missing:
        return SkipReason.NOT_LOADED
    if any(candidate.reason is None for candidate in candidates):
        return None
    return candidates[0].reason if candidates else SkipReason.NO_FACE


def _enlarged_mask(mask: RgbArray, scale: int) -> RgbArray:
    """Enlarge a mask without the overshoot that Lanczos has at edges."""
    size = mask.shape[1] * scale, mask.shape[0] * scale
    return np.asarray(cv2.resize(mask, size, interpolation=cv2.INTER_LINEAR), np.uint8)
