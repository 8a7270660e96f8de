"""How a picture's faces are restored: detect, align, restore and parse in batches, enlarge, paste.

`RestorerPipeline.detect` and `restore` run networks and belong on the device thread; `paste` works on the
processor alone. Each stage of the work is timed in the ledger that the caller brings.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace

import cv2
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
from atelier_restorer.faces import Candidate, FaceNetworks
from atelier_restorer.gray import is_gray, recolouring, to_gray
from atelier_restorer.models import Models
from atelier_restorer.paste import blend_aligned, paste_face, soften_parts
from atelier_restorer.request import (
    DetectRequest,
    Face,
    FaceOutcome,
    MaskKind,
    RestoreRequest,
    RestoreResult,
)
from atelier_restorer.settings import RestorerSettings
from atelier_restorer.upscale import LANCZOS, Enlarged, enlarge, enlarge_plane
from atelier_runtime import metrics
from atelier_runtime.device import Job
from atelier_runtime.errors import BadPicture, InvalidRequest, NotDoneReason, StageUnavailable
from atelier_runtime.images import Format, Picture, PixelArray, RgbArray, to_depth, to_eight_bit
from atelier_runtime.metrics import StageLedger
from atelier_runtime.settings import StartupError

log = logging.getLogger(__name__)

_LARGEST_SIDE_PX: dict[Format, int] = {"jpeg": 65_500, "webp": 16_383}  # that the formats' encoders take


@dataclass(frozen=True)
class Patch:
    """A restored crop and the place in the enlarged picture where it belongs.

    `parts` (512, 512) tells where in the crop it replaces the picture; None: everywhere.
    """

    crop: RgbArray
    matrix: np.ndarray
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
    reason: NotDoneReason | None
    warnings: tuple[str, ...]


class RestorerPipeline:
    """Restores faces with the networks it is given; holds nothing of a request between calls."""

    def __init__(self, models: Models, settings: RestorerSettings) -> None:
        self._models = models
        self._settings = settings
        self._faces = FaceNetworks(models, settings.max_batch, self._free_memory)

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

    def detect(self, job: Job, rgb: PixelArray, request: DetectRequest, ledger: StageLedger) -> list[Face]:
        """Find the faces of a picture, the surest first, with their sharpness.

        Raises `StageUnavailable` if the model set has no detector.
        """
        if self._models.detector is None:
            raise StageUnavailable("The model set has no face detector.")
        rgb = to_eight_bit(rgb)
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

        Raises `InvalidRequest` if a parsed mask is asked for and there is no face parser.
        """
        if request.mask is MaskKind.PARSE and self._models.parser is None:
            raise InvalidRequest.of(
                "mask", f"parse needs a face parser, and the model set {self._models.name} has none"
            )
        rgb = picture.eight_bit()
        loaded = self._models.codeformer is not None and (
            request.aligned or self._models.detector is not None
        )
        warnings: list[str] = []
        candidates: list[Candidate] = []
        if request.max_faces == 0:
            pass  # enlarge only: nothing is looked for
        elif not loaded:
            missing = "CodeFormer" if self._models.codeformer is None else "face detector"
            warnings.append(f"The model set has no {missing}; no face was restored.")
        elif request.aligned:
            candidates = [_aligned_candidate(rgb)]
        else:
            candidates = self._find(job, rgb, request, ledger)
        gray = picture.gray or is_gray(rgb)
        if candidates:
            self._faces.run(job, candidates, request, recolouring(rgb, gray), ledger)
        changed = None
        background_picture = picture
        if request.aligned and candidates and candidates[0].restored is not None:
            parts = None if candidates[0].parts is None else soften_parts(candidates[0].parts)
            blended, changed = blend_aligned(picture.rgb, candidates[0].restored, request.visibility, parts)
            background_picture = picture.with_pixels(blended, picture.alpha)
        background = self._enlarge(job, background_picture, request, gray, ledger, warnings)
        for candidate in candidates:
            metrics.FACES.labels(candidate.reason or "restored").inc()
        return Restoration(
            background=background,
            changed=changed,
            patches=tuple(
                Patch(
                    candidate.restored,
                    crop_to_picture(candidate.matrix, request.upscale),
                    candidate.parts,
                )
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
            if restoration.changed is None:
                mask = np.zeros(rgb.shape[:2], np.uint8)
            else:
                mask = _enlarged_mask(restoration.changed, request.upscale)
            for patch in restoration.patches:
                parts = None if patch.parts is None else soften_parts(patch.parts)
                paste_face(rgb, mask, patch.crop, patch.matrix, request.upscale, request.visibility, parts)
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
        )

    def _find(self, job: Job, rgb: RgbArray, request: RestoreRequest, ledger: StageLedger) -> list[Candidate]:
        detector = self._models.detector
        assert detector is not None, "restore() has looked"
        with ledger.stage("detect"):
            job.check()
            floor = min(request.min_confidence, self._settings.report_confidence)
            faces = detector.detect([rgb], size_px=DetectRequest().detect_size_px, min_confidence=floor)[0]
        reasons = choose_faces(faces, request, rgb.shape[1], rgb.shape[0])
        candidates = [Candidate(face, reason) for face, reason in zip(faces, reasons, strict=True)]
        if all(candidate.reason is NotDoneReason.LOW_CONFIDENCE for candidate in candidates):
            log.info("No faces detected")
            return candidates
        with ledger.stage("align"):
            for candidate in candidates:
                if candidate.reason is None:
                    _align(rgb, candidate)
        return candidates

    def _enlarge(
        self,
        job: Job,
        picture: Picture,
        request: RestoreRequest,
        gray: bool,
        ledger: StageLedger,
        warnings: list[str],
    ) -> Enlarged:
        if request.upscale == 1:
            return Enlarged(picture.rgb, "")
        rgb = picture.eight_bit()
        if picture.bits > 8:
            warnings.append(f"The picture was enlarged in 8 bits a channel, of its {picture.bits}.")
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
                result = result._replace(picture=to_gray(result.picture))
        return result._replace(picture=to_depth(result.picture, picture.bits))

    def _free_memory(self) -> None:
        """Give cached device memory back, so that the next try has all of it."""
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


def _align(rgb: RgbArray, candidate: Candidate) -> None:
    try:
        candidate.matrix = face_to_crop(candidate.face.landmarks)
    except ValueError as error:
        log.warning("a face cannot be aligned", extra={"error": str(error)})
        candidate.reason = NotDoneReason.FAILED
        return
    candidate.crop = cut_crop(rgb, candidate.matrix)


def _aligned_candidate(rgb: RgbArray) -> Candidate:
    """Return the one face of an aligned crop: nothing is detected, the caller vouches for it."""
    side = float(CROP_SIZE)
    landmarks = tuple((float(x), float(y)) for x, y in TEMPLATE)
    face = Face(index=0, box=(0.0, 0.0, side, side), landmarks=landmarks, confidence=1.0)
    return Candidate(face, None, crop=rgb)


def _overall_reason(
    candidates: list[Candidate], request: RestoreRequest, loaded: bool
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


def _enlarged_mask(mask: RgbArray, scale: int) -> RgbArray:
    """Enlarge a mask without the overshoot that Lanczos has at edges."""
    size = mask.shape[1] * scale, mask.shape[0] * scale
    return np.asarray(cv2.resize(mask, size, interpolation=cv2.INTER_LINEAR), np.uint8)
