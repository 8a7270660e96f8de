"""The faces of one request on their way: align, restore with those of other requests, parse if asked for.

A face that fails is reported and left as it was; the others go on.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from atelier_restorer.align import CROP_SIZE, TEMPLATE, cut_crop, face_to_crop, sharpness
from atelier_restorer.batching import FaceBatcher, RestoredFace
from atelier_restorer.gray import Recolouring
from atelier_restorer.models import Models
from atelier_restorer.paste import restored_parts
from atelier_restorer.request import Face, MaskKind, RestoreRequest
from atelier_restorer.tone import match_tone
from atelier_runtime.device import DeviceWorker, Job, is_out_of_memory
from atelier_runtime.errors import BadImage
from atelier_runtime.images import RgbArray
from atelier_runtime.metrics import StageReport, StageTimer
from atelier_runtime.outcomes import SkipReason

log = logging.getLogger(__name__)


@dataclass
class Candidate:
    """A face on its way through the stages, and what the request wants of it."""

    face: Face
    reason: SkipReason | None
    fidelity: float
    visibility: float
    matrix: np.ndarray | None = None
    crop: RgbArray | None = None
    restored: RgbArray | None = None
    parts: np.ndarray | None = None
    tone_matched: bool = False

    def skip(self, reason: SkipReason) -> None:
        """Leave the face as it was."""
        self.reason, self.restored, self.parts = reason, None, None


def aligned_candidate(rgb: RgbArray, request: RestoreRequest) -> Candidate:
    """Return the one face of an aligned crop: nothing is detected, the caller vouches for it."""
    side = float(CROP_SIZE)
    landmarks = tuple((float(x), float(y)) for x, y in TEMPLATE)
    face = Face(index=0, box=(0.0, 0.0, side, side), landmarks=landmarks, confidence=1.0)
    return Candidate(face, None, request.fidelity, request.visibility, crop=rgb)


def align(rgb: RgbArray, candidates: Sequence[Candidate], max_sharpness: float | None) -> None:
    """Cut the crops of the candidates that nothing speaks against yet, and tell how sharp each is.

    One sharper than `max_sharpness` is skipped.
    """
    for candidate in (c for c in candidates if c.reason is None):
        try:
            candidate.matrix = face_to_crop(candidate.face.landmarks)
        except ValueError as error:
            log.warning("a face cannot be aligned", extra={"error": str(error)})
            candidate.skip(SkipReason.FAILED)
            continue
        candidate.crop = cut_crop(rgb, candidate.matrix)
        found = sharpness(candidate.crop)
        candidate.face = replace(candidate.face, sharpness=found)
        if max_sharpness is not None and found > max_sharpness:
            candidate.skip(SkipReason.SKIPPED)


class FaceNetworks:
    """CodeFormer and the face parser."""

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
        sweep: Sequence[float] | None,
        reports: list[StageReport],
        deadline: float | None,
    ) -> list[list[Candidate]]:
        """Restore the candidates that nothing speaks against, each at its own fidelity or at all of `sweep`.

        Returns one list of all candidates for each fidelity of the sweep: each of them has its `restored`
        crop, or the reason why there is none.
        """
        fidelities = [[c.fidelity] if sweep is None else list(sweep) for c in candidates]
        to_do = [i for i, candidate in enumerate(candidates) if candidate.reason is None]
        crops = [crop for i in to_do if (crop := candidates[i].crop) is not None]
        answers = await self._batcher.restore(crops, [fidelities[i] for i in to_do], deadline)
        _report(answers, reports)
        by_index = dict(zip(to_do, answers, strict=True))
        rounds = []
        for number in range(1 if sweep is None else len(sweep)):
            row = [replace(c, fidelity=f[number]) for c, f in zip(candidates, fidelities, strict=True)]
            for i, answer in by_index.items():
                restored = answer.crops[number]
                if isinstance(restored, SkipReason):
                    row[i].skip(restored)
                else:
                    row[i].restored = restored
            rounds.append(row)
        return rounds

    async def parse(
        self,
        candidates: Sequence[Candidate],
        request: RestoreRequest,
        timer: StageTimer,
        deadline: float | None,
    ) -> None:
        """Find the parts of the restored faces if the request wants only those pasted."""
        restored = [candidate for candidate in candidates if candidate.restored is not None]
        if request.mask is not MaskKind.PARSE or not restored:
            return

        def work(job: Job[None]) -> None:
            with timer.stage("parse"):
                for start in range(0, len(restored), self._max_batch):
                    self._parse_batch(job, restored[start : start + self._max_batch])

        await self._worker.submit(work, deadline=deadline, has_slot=True).result()

    def _parse_batch(self, job: Job[None], batch: list[Candidate]) -> None:
        """Find the parts of restored faces. A face whose parts are not known is not pasted, but reported."""
        assert self._models.parser is not None, "the pipeline has looked"
        job.check()
        try:
            crops = [candidate.restored for candidate in batch if candidate.restored is not None]
            parsed = restored_parts(self._models.parser().classify(np.stack(crops)))
        except Exception as error:  # whatever a network raises is this batch's failure, not the request's
            log.exception("parsing a batch of faces failed", extra={"faces": len(batch)})
            reason = _failure(error)
        else:
            for candidate, parts in zip(batch, parsed, strict=True):
                if parts.any():
                    candidate.parts = parts
                else:
                    candidate.skip(SkipReason.NO_FACE)  # in the detector's eyes only
            return
        self._free_memory()  # outside of the handler, whose traceback holds the tensors
        if len(batch) == 1:
            batch[0].skip(reason)
        else:  # one face may have failed its whole batch: each gets a try of its own
            for candidate in batch:
                self._parse_batch(job, [candidate])


def recolour(rounds: Sequence[Sequence[Candidate]], recolouring: Recolouring | None) -> None:
    """Put the restored faces of a gray or toned picture into its tone."""
    if recolouring is None:
        return
    for candidate in (candidate for row in rounds for candidate in row):
        if candidate.restored is not None and candidate.crop is not None:
            candidate.restored = recolouring(candidate.restored, candidate.crop)


def match_tones(rounds: Sequence[Sequence[Candidate]], width: int, height: int) -> None:
    """Give the restored faces of a picture, of that size in px, the tone of their surroundings."""
    for candidate in (candidate for row in rounds for candidate in row):
        restored, crop, matrix = candidate.restored, candidate.crop, candidate.matrix
        if restored is not None and crop is not None and matrix is not None:
            candidate.restored = match_tone(restored, crop, matrix, width, height)
            candidate.tone_matched = True


def _report(answers: Sequence[RestoredFace], reports: list[StageReport]) -> None:
    """Add what the batches cost that the faces were in, shared with other requests or not."""
    batches = list({id(answer.batch): answer.batch for answer in answers}.values())
    if not batches:
        return
    peaks = [batch.peak_vram_bytes for batch in batches if batch.peak_vram_bytes is not None]
    seconds = sum(batch.seconds for batch in batches)
    reports.append(StageReport(batches[0].stage, seconds, max(peaks) if peaks else None))


def _failure(error: Exception) -> SkipReason:
    if is_out_of_memory(error):
        return SkipReason.OUT_OF_MEMORY
    return SkipReason.NOT_FINITE if isinstance(error, BadImage) else SkipReason.FAILED
