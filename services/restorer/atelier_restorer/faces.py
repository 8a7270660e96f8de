"""The faces of one request on their way through CodeFormer and, if asked for, ParseNet: in batches.

A face that fails is reported and left as it was; the others of its batch go on.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from atelier_restorer.gray import Recolouring
from atelier_restorer.models import Models, RestoredCrop
from atelier_restorer.paste import restored_parts
from atelier_restorer.request import Face, MaskKind, RestoreRequest
from atelier_runtime import metrics
from atelier_runtime.device import Job, is_out_of_memory
from atelier_runtime.errors import BadPicture, NotDoneReason
from atelier_runtime.images import RgbArray
from atelier_runtime.metrics import StageLedger

log = logging.getLogger(__name__)


@dataclass
class Candidate:
    """A face on its way through the stages."""

    face: Face
    reason: NotDoneReason | None
    matrix: np.ndarray | None = None
    crop: RgbArray | None = None
    restored: RgbArray | None = None
    parts: np.ndarray | None = None

    def give_up(self, reason: NotDoneReason) -> None:
        """Leave the face as it was."""
        self.reason, self.restored, self.parts = reason, None, None


class FaceNetworks:
    """CodeFormer and the face parser, at most `max_batch` faces at a time."""

    def __init__(self, models: Models, max_batch: int, free_memory: Callable[[], None]) -> None:
        """`free_memory` is called after a batch has failed."""
        self._models = models
        self._max_batch = max_batch
        self._free_memory = free_memory

    def run(
        self,
        job: Job,
        candidates: list[Candidate],
        request: RestoreRequest,
        recolour: Recolouring | None,
        ledger: StageLedger,
    ) -> None:
        """Restore the candidates that nothing speaks against, and parse them if the request asks for it.

        Each gets its `restored` crop, or the reason why there is none. The job is checked between batches.
        """
        to_do = [candidate for candidate in candidates if candidate.reason is None]
        if not to_do:
            return
        with ledger.stage("restore"):
            self._restore_all(job, to_do, request.fidelity)
        restored = [candidate for candidate in to_do if candidate.reason is None]
        if recolour is not None:
            for candidate in restored:
                assert candidate.restored is not None and candidate.crop is not None
                candidate.restored = recolour(candidate.restored, candidate.crop)
        if request.mask is MaskKind.PARSE and restored:
            size = self._max_batch
            with ledger.stage("parse"):
                for start in range(0, len(restored), size):
                    self._parse_batch(job, restored[start : start + size])

    def _parse_batch(self, job: Job, batch: list[Candidate]) -> None:
        """Find the parts of restored faces. A face whose parts are not known is not pasted, but reported."""
        assert self._models.parser is not None, "restore() has looked"
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
                    candidate.give_up(NotDoneReason.NO_FACE)  # in the detector's eyes only
            return
        self._free_memory()  # outside of the handler, whose traceback holds the tensors
        if len(batch) == 1:
            batch[0].give_up(reason)
        else:  # one face may have failed its whole batch: each gets a try of its own
            for candidate in batch:
                self._parse_batch(job, [candidate])

    def _restore_all(self, job: Job, candidates: list[Candidate], fidelity: float) -> None:
        size = self._max_batch
        for start in range(0, len(candidates), size):
            batch = candidates[start : start + size]
            answers = self._restore_batch(job, batch, fidelity)
            if len(batch) > 1 and any(answer is NotDoneReason.FAILED for answer in answers):
                # One face may have failed its whole batch: each gets a try of its own.
                answers = [self._restore_batch(job, [candidate], fidelity)[0] for candidate in batch]
            for candidate, answer in zip(batch, answers, strict=True):
                if isinstance(answer, NotDoneReason):
                    candidate.give_up(answer)
                else:
                    candidate.restored = answer

    def _restore_batch(self, job: Job, batch: list[Candidate], fidelity: float) -> list[RestoredCrop]:
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


def _failure(error: Exception) -> NotDoneReason:
    if is_out_of_memory(error):
        return NotDoneReason.OUT_OF_MEMORY
    return NotDoneReason.NOT_FINITE if isinstance(error, BadPicture) else NotDoneReason.FAILED
