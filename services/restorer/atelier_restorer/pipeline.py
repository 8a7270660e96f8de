"""How a picture's faces are restored: detect, align, restore in batches, enlarge, paste.

`RestorerPipeline.detect` and `restore` run networks and belong on the device thread; `paste` works on the
processor alone. Each stage of the work is timed in the ledger that the caller brings.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace

import numpy as np
import torch

from atelier_restorer.align import (
    CROP_SIZE,
    TEMPLATE,
    crop_to_picture,
    cut_crop,
    face_to_crop,
    sharpness,
)
from atelier_restorer.choose import choose_faces
from atelier_restorer.models import Models, RestoredCrop
from atelier_restorer.paste import paste_face
from atelier_restorer.request import DetectRequest, Face, FaceOutcome, RestoreRequest, RestoreResult
from atelier_restorer.settings import RestorerSettings
from atelier_restorer.upscale import LANCZOS, Enlarged, enlarge, enlarge_plane
from atelier_runtime import metrics
from atelier_runtime.device import Job, is_out_of_memory
from atelier_runtime.errors import BadPicture, InvalidRequest, NotDoneReason, StageUnavailable
from atelier_runtime.images import Format, Picture, RgbArray
from atelier_runtime.metrics import StageLedger
from atelier_runtime.settings import StartupError

log = logging.getLogger(__name__)

_LARGEST_SIDE_PX: dict[Format, int] = {"jpeg": 65_500, "webp": 16_383}  # that the formats' encoders take
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R BT.601


@dataclass(frozen=True)
class Patch:
    """A restored crop and the place in the enlarged picture where it belongs."""

    crop: RgbArray
    matrix: np.ndarray


@dataclass(frozen=True)
class Restoration:
    """What the networks made of a picture. What remains is to paste the patches; see `paste`."""

    background: Enlarged
    patches: tuple[Patch, ...]
    outcomes: tuple[FaceOutcome, ...]
    reason: NotDoneReason | None
    warnings: tuple[str, ...]


@dataclass
class _Candidate:
    """A face on its way through the stages."""

    face: Face
    reason: NotDoneReason | None
    matrix: np.ndarray | None = None
    crop: RgbArray | None = None
    restored: RgbArray | None = None


class RestorerPipeline:
    """Restores faces with the networks it is given; holds nothing of a request between calls."""

    def __init__(self, models: Models, settings: RestorerSettings) -> None:
        self._models = models
        self._settings = settings

    def warm_up(self) -> None:
        """Send a synthetic picture through every network. Raises `StartupError` if one fails at it."""
        y, x = np.mgrid[0:CROP_SIZE, 0:CROP_SIZE]
        rgb = np.stack([y // 2, x // 2, (x + y) // 4], axis=2).astype(np.uint8)
        models = self._models
        try:
            if models.detector:
                size = DetectRequest().detect_size_px
                models.detector.detect([rgb], size_px=size, min_confidence=1.0)
            if models.upscaler:
                models.upscaler.enlarge(rgb[:64, :64], lambda: None)
        except BadPicture as error:
            raise StartupError(f"MODEL_SET: the warm-up picture failed: {error}") from error
        if models.codeformer:
            crop = models.codeformer.restore(rgb[None], [RestoreRequest().fidelity])[0]
            if isinstance(crop, NotDoneReason):
                raise StartupError("MODEL_SET: CodeFormer's warm-up picture has non-finite values")

    def detect(self, job: Job, rgb: RgbArray, request: DetectRequest, ledger: StageLedger) -> list[Face]:
        """Find the faces of a picture, the surest first, with their sharpness.

        Raises `StageUnavailable` if the model set has no detector.
        """
        if self._models.detector is None:
            raise StageUnavailable("The model set has no face detector.")
        with ledger.stage("detect"):
            job.check()
            found = self._models.detector.detect(
                [rgb], size_px=request.detect_size_px, min_confidence=request.min_confidence
            )[0]
        with ledger.stage("align"):
            faces = []
            for face in found:  # thousands, where the confidence asked for is 0
                job.check()
                faces.append(replace(face, sharpness=_sharpness(rgb, face)))
        return faces

    def restore(
        self, job: Job, picture: Picture, request: RestoreRequest, ledger: StageLedger
    ) -> Restoration:
        """Run the networks: find and restore the faces, enlarge the picture.

        The job is checked between batches of faces and between tiles, so a cancelled or late request stops
        there. A face that fails is reported and left out; the others go on.
        """
        loaded = self._models.codeformer is not None and (
            request.aligned or self._models.detector is not None
        )
        warnings: list[str] = []
        candidates: list[_Candidate] = []
        if request.max_faces == 0:
            pass  # enlarge only: nothing is looked for
        elif not loaded:
            missing = "CodeFormer" if self._models.codeformer is None else "face detector"
            warnings.append(f"The model set has no {missing}; no face was restored.")
        elif request.aligned:
            candidates = [_aligned_candidate(picture.rgb)]
        else:
            candidates = self._find(job, picture.rgb, request, ledger)
        to_do = [candidate for candidate in candidates if candidate.reason is None]
        gray = picture.gray or _is_gray(picture.rgb)
        if to_do:
            with ledger.stage("restore"):
                self._restore_all(job, to_do, request.fidelity)
            if gray:
                for candidate in to_do:
                    candidate.restored = None if candidate.restored is None else _to_gray(candidate.restored)
        rgb = picture.rgb
        if request.aligned and candidates and candidates[0].restored is not None:
            rgb = _blend_whole(rgb, candidates[0].restored, request.visibility)
        background = self._enlarge(job, rgb, request, gray, ledger, warnings)
        for candidate in candidates:
            metrics.FACES.labels(candidate.reason or "restored").inc()
        return Restoration(
            background=background,
            patches=tuple(
                Patch(candidate.restored, crop_to_picture(candidate.matrix, request.upscale))
                for candidate in candidates
                if candidate.restored is not None and candidate.matrix is not None
            ),
            outcomes=tuple(
                FaceOutcome(
                    face=candidate.face.enlarged(request.upscale),
                    reason=candidate.reason,
                    fidelity=request.fidelity if candidate.reason is None else None,
                )
                for candidate in candidates
            ),
            reason=_overall_reason(candidates, request, loaded),
            warnings=tuple(warnings),
        )

    def paste(
        self, picture: Picture, request: RestoreRequest, restoration: Restoration, ledger: StageLedger
    ) -> RestoreResult:
        """Paste the restored faces, the surest first, and gather the answer. Runs no network."""
        with ledger.stage("paste"):
            background, upscaler = restoration.background
            rgb = background.copy() if background is picture.rgb else background
            changed = request.aligned and restoration.reason is None
            mask = np.full(rgb.shape[:2], _level(request.visibility) if changed else 0, np.uint8)
            for patch in restoration.patches:
                paste_face(rgb, mask, patch.crop, patch.matrix, request.upscale, request.visibility)
            alpha = picture.alpha
            if alpha is not None and request.upscale > 1:
                alpha = enlarge_plane(alpha, request.upscale)
        return RestoreResult(
            picture=picture.with_pixels(rgb, alpha),
            mask=mask,
            outcomes=restoration.outcomes,
            reason=restoration.reason,
            upscale_applied=request.upscale,
            upscaler=upscaler,
            warnings=restoration.warnings,
        )

    def _find(
        self, job: Job, rgb: RgbArray, request: RestoreRequest, ledger: StageLedger
    ) -> list[_Candidate]:
        detector = self._models.detector
        assert detector is not None, "restore() has looked"
        with ledger.stage("detect"):
            job.check()
            floor = min(request.min_confidence, self._settings.report_confidence)
            faces = detector.detect([rgb], size_px=DetectRequest().detect_size_px, min_confidence=floor)[0]
        reasons = choose_faces(faces, request, rgb.shape[1], rgb.shape[0])
        candidates = [_Candidate(face, reason) for face, reason in zip(faces, reasons, strict=True)]
        if all(candidate.reason is NotDoneReason.LOW_CONFIDENCE for candidate in candidates):
            log.info("No faces detected")
            return candidates
        with ledger.stage("align"):
            for candidate in candidates:
                if candidate.reason is None:
                    _align(rgb, candidate)
        return candidates

    def _restore_all(self, job: Job, candidates: list[_Candidate], fidelity: float) -> None:
        size = self._settings.max_batch
        for start in range(0, len(candidates), size):
            batch = candidates[start : start + size]
            answers = self._restore_batch(job, batch, fidelity)
            if len(batch) > 1 and any(answer is NotDoneReason.FAILED for answer in answers):
                # One face may have failed its whole batch: each gets a try of its own.
                answers = [self._restore_batch(job, [candidate], fidelity)[0] for candidate in batch]
            for candidate, answer in zip(batch, answers, strict=True):
                if isinstance(answer, NotDoneReason):
                    candidate.reason = answer
                else:
                    candidate.restored = answer

    def _restore_batch(self, job: Job, batch: list[_Candidate], fidelity: float) -> list[RestoredCrop]:
        network = self._models.codeformer
        assert network is not None, "restore() has looked"
        job.check()
        crops = np.stack([candidate.crop for candidate in batch if candidate.crop is not None])
        try:
            answers = network.restore(crops, [fidelity] * len(batch))
        except Exception as error:  # whatever a network raises is this batch's failure, not the request's
            log.exception("restoring a batch of faces failed", extra={"faces": len(batch)})
            out_of_memory = len(batch) == 1 and is_out_of_memory(error)
            reason = NotDoneReason.OUT_OF_MEMORY if out_of_memory else NotDoneReason.FAILED
            answers = [reason] * len(batch)
        else:
            metrics.BATCH_SIZE.observe(len(batch))
            return answers
        self._free_memory()  # outside of the handler, whose traceback holds the tensors
        return answers

    def _enlarge(
        self,
        job: Job,
        rgb: RgbArray,
        request: RestoreRequest,
        gray: bool,
        ledger: StageLedger,
        warnings: list[str],
    ) -> Enlarged:
        if request.upscale == 1:
            return Enlarged(rgb, "")
        upscaler = self._models.upscaler if request.use_realesrgan else None
        if request.use_realesrgan and upscaler is None:
            warnings.append("The model set has no upscaler; the picture was enlarged by Lanczos.")
        with ledger.stage("upscale"):
            job.check()
            try:
                result = enlarge(rgb, request.upscale, upscaler, job.check)
            except (BadPicture, torch.OutOfMemoryError) as error:
                log.warning("the upscaler failed", extra={"error": str(error)})
                result = None
            if result is None:
                self._free_memory()
                warnings.append("The upscaler network failed; the picture was enlarged by Lanczos.")
                result = enlarge(rgb, request.upscale, None, job.check)
            if gray and result.upscaler != LANCZOS:
                result = result._replace(picture=_to_gray(result.picture))
        return result

    def _free_memory(self) -> None:
        if self._models.device.type == "cuda":
            torch.cuda.empty_cache()


def check_picture(picture: Picture, request: RestoreRequest, max_pixels: int) -> None:
    """Refuse, by `InvalidRequest`, what the request cannot mean for this picture."""
    if request.aligned and (picture.width, picture.height) != (CROP_SIZE, CROP_SIZE):
        raise InvalidRequest.of(
            "aligned",
            f"needs a picture of {CROP_SIZE}x{CROP_SIZE} px, this one has {picture.width}x{picture.height}",
        )
    pixels = picture.width * picture.height * request.upscale**2
    if pixels > max_pixels:
        raise InvalidRequest.of(
            "upscale",
            f"{request.upscale} makes {picture.width * request.upscale}x{picture.height * request.upscale} = "
            f"{pixels} pixels; the limit is {max_pixels} pixels",
        )
    side = max(picture.width, picture.height) * request.upscale
    file_format = None if request.raw_output else request.output_format or picture.format
    limit = _LARGEST_SIDE_PX.get(file_format) if file_format else None
    if limit is not None and side > limit:
        raise InvalidRequest.of(
            "output.format", f"{file_format} holds {limit} px a side, the picture would have {side}"
        )


def _align(rgb: RgbArray, candidate: _Candidate) -> None:
    try:
        candidate.matrix = face_to_crop(candidate.face.landmarks)
    except ValueError as error:
        log.warning("a face cannot be aligned", extra={"error": str(error)})
        candidate.reason = NotDoneReason.FAILED
        return
    candidate.crop = cut_crop(rgb, candidate.matrix)


def _aligned_candidate(rgb: RgbArray) -> _Candidate:
    """Return the one face of an aligned crop: nothing is detected, the caller vouches for it."""
    side = float(CROP_SIZE)
    landmarks = tuple((float(x), float(y)) for x, y in TEMPLATE)
    face = Face(index=0, box=(0.0, 0.0, side, side), landmarks=landmarks, confidence=1.0)
    return _Candidate(face, None, crop=rgb)


def _overall_reason(
    candidates: list[_Candidate], request: RestoreRequest, loaded: bool
) -> NotDoneReason | None:
    """Return None if a face was restored, else what kept the surest one from it."""
    if request.max_faces == 0:
        return NotDoneReason.SKIPPED
    if not loaded:
        return NotDoneReason.NOT_LOADED
    if any(candidate.reason is None for candidate in candidates):
        return None
    return candidates[0].reason if candidates else NotDoneReason.NO_FACE


def _sharpness(rgb: RgbArray, face: Face) -> float | None:
    try:
        return sharpness(cut_crop(rgb, face_to_crop(face.landmarks)))
    except ValueError:
        return None


def _is_gray(rgb: RgbArray) -> bool:
    return bool(np.array_equal(rgb[..., 0], rgb[..., 1]) and np.array_equal(rgb[..., 1], rgb[..., 2]))


def _to_gray(rgb: RgbArray) -> RgbArray:
    luma = np.rint(rgb.astype(np.float32) @ _LUMA).clip(0, 255).astype(np.uint8)
    return np.repeat(luma[..., None], 3, axis=2)


def _level(share: float) -> int:
    return round(255 * share)


def _blend_whole(rgb: RgbArray, restored: RgbArray, visibility: float) -> RgbArray:
    share = np.float32(_level(visibility) / 255.0)
    blended = rgb + share * (restored.astype(np.float32) - rgb)
    return np.asarray(np.rint(blended), dtype=np.uint8)
