"""From what the networks returned to the finished image: paste, mask, reasons."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np

from atelier_restorer import cpu_pool
from atelier_restorer.align import crop_to_picture
from atelier_restorer.background import Upscaled
from atelier_restorer.faces import Candidate
from atelier_restorer.neighbors import PastedFace
from atelier_restorer.paste import blend_aligned, paste_face, soften_parts
from atelier_restorer.request import FaceOutcome, RestoreRequest, RestoreResult
from atelier_runtime import metrics
from atelier_runtime.images import Picture, RgbArray, to_depth, to_eight_bit
from atelier_runtime.metrics import StageReport, StageTimer
from atelier_runtime.outcomes import ResponseWarning, SkipReason
from atelier_runtime.sizes import Size
from atelier_runtime.upscaler import resample


@dataclass(frozen=True)
class Patch:
    """A restored crop and where it belongs in the upscaled image. `face`: the number of its outcome.

    `parts` (512, 512) tells where in the crop it replaces the image; None: everywhere.
    """

    face: int
    crop: RgbArray
    matrix: np.ndarray
    visibility: float
    parts: np.ndarray | None


@dataclass(frozen=True)
class Restoration:
    """The networks' output for an image. What remains is to paste the patches; see `paste`.

    `outcomes`, `reason` and `tone_matched`: as if every patch were visible. `changed` is the mask (H, W) of
    what already differs from the input in the background: the face of an aligned crop. None: nothing does.
    """

    background: Upscaled
    changed: RgbArray | None
    patches: tuple[Patch, ...]
    outcomes: tuple[FaceOutcome, ...]
    reason: SkipReason | None
    warnings: tuple[ResponseWarning, ...]
    tone_matched: bool
    stages: tuple[StageReport, ...]
    min_similarity: float | None = None


def paste(
    picture: Picture, request: RestoreRequest, restoration: Restoration, *, in_place: bool = False
) -> RestoreResult:
    """Paste the restored faces, highest confidence first, and assemble the result. Runs no network.

    `in_place`: into the background itself, if it is writable and not needed afterward; else into a copy, so
    that it can be used for other fidelities.
    """
    timer = StageTimer()
    with timer.stage("paste"):
        background, upscaler = restoration.background
        pixels = background if in_place and background.flags.writeable else background.copy()
        mask = None
        wants_mask = request.return_mask or request.writes_recipe
        if wants_mask and restoration.changed is None:
            mask = np.zeros(pixels.shape[:2], np.uint8)
        elif wants_mask and restoration.changed is not None:
            mask = _upscaled_mask(restoration.changed, request.upscale)
        unseen = {0} if restoration.changed is not None and not restoration.changed.any() else set[int]()
        pasted: list[PastedFace] = []
        for patch in restoration.patches:
            cpu_pool.check()
            parts = None if patch.parts is None else soften_parts(patch.parts)
            where = (patch.matrix, request.upscale, patch.visibility, parts, pasted)
            covered = paste_face(pixels, mask, patch.crop, *where)
            if covered is None:
                unseen.add(patch.face)
            else:
                pasted.append(covered)
        alpha = picture.alpha
        if alpha is not None and request.upscale > 1:
            size = Size(alpha.shape[1] * request.upscale, alpha.shape[0] * request.upscale)
            alpha = to_depth(resample(to_eight_bit(alpha), size), picture.bits)
    outcomes = tuple(
        replace(
            outcome,
            reason=SkipReason.NOT_VISIBLE,
            fidelity=None,
            fidelity_requested=None,
            visibility=None,
            visibility_requested=None,
        )
        if number in unseen
        else outcome
        for number, outcome in enumerate(restoration.outcomes)
    )
    for outcome in outcomes:
        metrics.FACES.labels(outcome.reason or "restored").inc()
    reason = restoration.reason
    if unseen and all(outcome.reason is not None for outcome in outcomes):
        reason = outcomes[0].reason
    return RestoreResult(
        picture=picture.with_pixels(pixels, alpha),
        mask=mask if request.return_mask else None,
        outcomes=outcomes,
        reason=reason,
        upscale_applied=request.upscale,
        upscaler=upscaler,
        warnings=restoration.warnings,
        tone_matched=restoration.tone_matched and reason is None,
        stages=(*restoration.stages, *timer.reports),
        min_similarity=restoration.min_similarity,
        mask_sha256=hashlib.sha256(np.ascontiguousarray(mask).data).hexdigest()
        if mask is not None and reason is None
        else "",
    )


def blend_face(picture: Picture, candidate: Candidate) -> tuple[Picture, RgbArray]:
    """Return an aligned image with its restored face, and the mask (512, 512) of what was changed."""
    assert candidate.restored is not None, "checked by the caller"
    parts = None if candidate.parts is None else soften_parts(candidate.parts)
    blended, changed = blend_aligned(picture.rgb, candidate.restored, candidate.visibility, parts)
    return picture.with_pixels(blended, picture.alpha), changed


def patches_of(candidates: Sequence[Candidate], scale: int) -> tuple[Patch, ...]:
    """Return what is to be pasted into the image upscaled `scale` times."""
    return tuple(
        Patch(number, c.restored, crop_to_picture(c.matrix, scale), c.visibility, c.parts)
        for number, c in enumerate(candidates)
        if c.restored is not None and c.matrix is not None
    )


def outcome_of(candidate: Candidate, request: RestoreRequest) -> FaceOutcome:
    """Return the outcome for a face."""
    restored = candidate.reason is None
    return FaceOutcome(
        face=candidate.face.scaled(request.upscale),
        reason=candidate.reason,
        fidelity=candidate.fidelity if restored else None,
        before=candidate.crop if request.return_crops else None,
        after=(candidate.rejected if candidate.restored is None else candidate.restored)
        if request.return_crops
        else None,
        similarity=candidate.similarity,
        unknown=candidate.unknown,
        fidelity_requested=candidate.fidelity_requested if restored else None,
        visibility=candidate.visibility if restored else None,
        visibility_requested=candidate.visibility_requested if restored else None,
    )


def overall_reason(
    candidates: Sequence[Candidate], request: RestoreRequest, missing: str | None
) -> SkipReason | None:
    """Return None if a face was restored, else why the one of highest confidence was not.

    `missing`: the network without which none could be.
    """
    if request.max_faces == 0:
        return SkipReason.SKIPPED
    if missing:
        return SkipReason.NOT_LOADED
    if any(candidate.reason is None for candidate in candidates):
        return None
    return candidates[0].reason if candidates else SkipReason.NO_FACE


def _upscaled_mask(mask: RgbArray, scale: int) -> RgbArray:
    """Upscale a mask without the overshoot that Lanczos has at edges."""
    size = mask.shape[1] * scale, mask.shape[0] * scale
    return np.asarray(cv2.resize(mask, size, interpolation=cv2.INTER_LINEAR), np.uint8)
