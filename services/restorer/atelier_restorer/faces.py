"""The faces of one request: aligned, restored together with those of other requests, parsed if requested.

A face that fails is reported and left as it was; the others continue.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from atelier_restorer.align import CROP_SIZE, TEMPLATE, cut_crop, face_to_crop, sharpness
from atelier_restorer.batching import FaceBatcher, RestoredFace
from atelier_restorer.gray import Recoloring
from atelier_restorer.models import Models
from atelier_restorer.paste import restored_parts
from atelier_restorer.request import Face, MaskKind, RestoreRequest
from atelier_restorer.selection import apply_face_edits
from atelier_restorer.tone import match_tone
from atelier_runtime.device import is_out_of_memory
from atelier_runtime.device_job import Job
from atelier_runtime.device_worker import DeviceWorker
from atelier_runtime.errors import BadImage
from atelier_runtime.images import RgbArray
from atelier_runtime.metrics import StageReport, StageTimer
from atelier_runtime.outcomes import SkipReason

logger = logging.getLogger(__name__)


@dataclass
class Candidate:
    """A face on its way through the stages, and its options."""

    face: Face
    reason: SkipReason | None
    fidelity: float
    visibility: float
    matrix: np.ndarray | None = None
    crop: RgbArray | None = None
    restored: RgbArray | None = None
    parts: np.ndarray | None = None
    tone_matched: bool = False
    similarity: float | None = None
    unknown: bool = False
    fidelity_requested: float | None = None
    visibility_requested: float | None = None
    rejected: RgbArray | None = None
    """The restored crop that the guard of the likeness did not let through."""

    def skip(self, reason: SkipReason) -> None:
        """Leave the face as it was, for this reason."""
        self.reason, self.restored, self.parts = reason, None, None


def aligned_candidate(rgb: RgbArray, request: RestoreRequest) -> Candidate:
    """Return the only face of an aligned image, which is trusted: nothing is detected."""
    side = float(CROP_SIZE)
    landmarks = tuple((float(x), float(y)) for x, y in TEMPLATE)
    face = Face(index=0, box=(0.0, 0.0, side, side), landmarks=landmarks, confidence=1.0)
    return Candidate(face, None, request.fidelity, request.visibility, crop=rgb)


def edited_candidates(request: RestoreRequest) -> list[Candidate]:
    """Return the faces that a request lists, each with its own options where it has them."""
    return [
        Candidate(
            edit.face,
            reason,
            request.fidelity if edit.fidelity is None else edit.fidelity,
            request.visibility if edit.visibility is None else edit.visibility,
        )
        for edit, reason in zip(request.faces, apply_face_edits(request), strict=True)
    ]


def align(candidate: Candidate, rgb: RgbArray, max_sharpness: float | None) -> None:
    """Cut a candidate's crop and measure its sharpness. It is skipped if sharper than `max_sharpness`."""
    try:
        candidate.matrix = face_to_crop(candidate.face.landmarks)
    except ValueError as error:
        logger.warning("a face cannot be aligned", extra={"error": str(error)})
        candidate.skip(SkipReason.FAILED)
        return
    candidate.crop = cut_crop(rgb, candidate.matrix)
    measured = sharpness(candidate.crop)
    candidate.face = replace(candidate.face, sharpness=measured)
    if max_sharpness is not None and measured > max_sharpness:
        candidate.skip(SkipReason.SKIPPED)


def with_sharpness(face: Face, rgb: RgbArray) -> Face:
    """Return a face with its measured sharpness, if a crop can be cut from its landmarks."""
    try:
        return replace(face, sharpness=sharpness(cut_crop(rgb, face_to_crop(face.landmarks))))
    except ValueError:
        return face


def is_visible(visibility: float) -> bool:
    """Return whether a face that is blended at this visibility, 0 to 1, may differ by a level of its mask."""
    return 255 * visibility > 0.5


def skip_invisible(candidates: list[Candidate], request: RestoreRequest) -> list[Candidate]:
    """Skip the candidates that no level of the mask would show, unless their crops are requested."""
    for candidate in candidates:
        if candidate.reason is None and not is_visible(candidate.visibility) and not request.return_crops:
            candidate.skip(SkipReason.NOT_VISIBLE)
    return candidates


class FaceNetworks:
    """The face restorer and the face parser."""

    def __init__(
        self,
        models: Models,
        worker: DeviceWorker,
        batcher: FaceBatcher,
        max_batch: int,
        free_memory: Callable[[], None],
    ) -> None:
        """`max_batch`: faces that are parsed together; `free_memory` is called after a batch has failed."""
        self._models = models
        self._worker = worker
        self._batcher = batcher
        self._max_batch = max_batch
        self._free_memory = free_memory

    async def restore(
        self,
        candidates: Sequence[Candidate],
        fidelities: Sequence[Sequence[float]],
        reports: list[StageReport],
        deadline: float | None,
    ) -> list[list[Candidate]]:
        """Restore the candidates that have not been skipped, each at one or several fidelities of its own.

        Returns for each candidate a list of versions of it, one for each of its fidelities, with its
        `restored` crop or the reason why there is none.
        """
        pending = [i for i, candidate in enumerate(candidates) if candidate.reason is None]
        crops = [crop for i in pending if (crop := candidates[i].crop) is not None]
        results = await self._batcher.restore(crops, [fidelities[i] for i in pending], deadline)
        _report_batches(results, reports)
        versions = [[replace(c, fidelity=w) for w in f] for c, f in zip(candidates, fidelities, strict=True)]
        for i, result in zip(pending, results, strict=True):
            for version, restored in zip(versions[i], result.crops, strict=True):
                if isinstance(restored, SkipReason):
                    version.skip(restored)
                else:
                    version.restored = restored
        return versions

    async def parse(
        self,
        candidates: Sequence[Candidate],
        request: RestoreRequest,
        timer: StageTimer,
        deadline: float | None,
    ) -> None:
        """Segment the restored faces if the request pastes only parts of them."""
        restored = [candidate for candidate in candidates if candidate.restored is not None]
        if request.mask is not MaskKind.PARSE or not restored:
            return

        def work(job: Job[None]) -> None:
            with timer.stage("parse"):
                for start in range(0, len(restored), self._max_batch):
                    self._parse_batch(job, restored[start : start + self._max_batch])

        await self._worker.submit(work, deadline=deadline, has_slot=True).result()

    def _parse_batch(self, job: Job[None], batch: list[Candidate]) -> None:
        """Segment restored faces. A face that cannot be segmented is reported and not pasted."""
        assert self._models.parser is not None, "checked by the pipeline"
        job.check()
        try:
            crops = [candidate.restored for candidate in batch if candidate.restored is not None]
            parsed = restored_parts(self._models.parser().classify(np.stack(crops)))
        except Exception as error:  # whatever a network raises is this batch's failure, not the request's
            logger.exception("parsing a batch of faces failed", extra={"faces": len(batch)})
            reason = _failure(error)
        else:
            for candidate, parts in zip(batch, parsed, strict=True):
                if parts.any():
                    candidate.parts = parts
                else:
                    candidate.skip(SkipReason.NO_FACE)  # a false positive of the detector
            return
        self._free_memory()  # outside the handler, whose traceback keeps the tensors alive
        if len(batch) == 1:
            batch[0].skip(reason)
        else:  # a single face may have failed the whole batch: retry each by itself
            for candidate in batch:
                self._parse_batch(job, [candidate])


def recolor(rounds: Sequence[Sequence[Candidate]], recoloring: Recoloring | None) -> None:
    """Convert the restored faces of a gray or toned image to its tone."""
    if recoloring is None:
        return
    for candidate in (candidate for row in rounds for candidate in row):
        if candidate.restored is not None and candidate.crop is not None:
            candidate.restored = recoloring(candidate.restored, candidate.crop)


def match_tones(rounds: Sequence[Sequence[Candidate]], width: int, height: int) -> None:
    """Match the tone of restored faces to their surroundings; `width` and `height` of the image, in px."""
    for candidate in (candidate for row in rounds for candidate in row):
        restored, crop, matrix = candidate.restored, candidate.crop, candidate.matrix
        if restored is not None and crop is not None and matrix is not None:
            candidate.restored = match_tone(restored, crop, matrix, width, height)
            candidate.tone_matched = True


def _report_batches(results: Sequence[RestoredFace], reports: list[StageReport]) -> None:
    """Append the cost of the batches that the faces ran in, whether shared with other requests or not."""
    batches = list({id(result.batch): result.batch for result in results}.values())
    if not batches:
        return
    peaks = [batch.peak_vram_bytes for batch in batches if batch.peak_vram_bytes is not None]
    seconds = sum(batch.seconds for batch in batches)
    reports.append(StageReport(batches[0].stage, seconds, max(peaks) if peaks else None))


def _failure(error: Exception) -> SkipReason:
    if is_out_of_memory(error):
        return SkipReason.OUT_OF_MEMORY
    return SkipReason.NOT_FINITE if isinstance(error, BadImage) else SkipReason.FAILED
