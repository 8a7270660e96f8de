"""The likeness of restored faces to the faces before, and the guard that keeps faces from becoming others.

The guard has each face decoded at a ladder of fidelities, from the one asked for to 1, with a single encoding
and in one batch, and takes the lowest that keeps the likeness. The encoder and the transformer run once; each
further step costs one decode more. A face restorer without a fidelity has one answer for a face; there the
steps are of its visibility, from the one asked for downward, and cost nothing but blending.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np

from atelier_restorer import cpu_pool
from atelier_restorer.cpu_pool import CpuPool
from atelier_restorer.faces import Candidate, is_visible
from atelier_restorer.identity import Embedding, FaceIdentifier, IdentityNetworkError
from atelier_restorer.models import Models
from atelier_restorer.request import IdentityMode, RestoreRequest
from atelier_runtime.device_job import Job
from atelier_runtime.device_worker import DeviceWorker
from atelier_runtime.errors import InvalidRequest
from atelier_runtime.images import RgbArray
from atelier_runtime.metrics import StageTimer
from atelier_runtime.outcomes import ResponseWarning, SkipReason, WarningCode

logger = logging.getLogger(__name__)

_STAGE = "identity"
LADDER_STEPS = 4
"""What the guard tries for a face: the fidelity asked for, and evenly from there to 1; or the visibility
asked for, and evenly from there toward 0."""


@dataclass(frozen=True)
class Likeness:
    """What one request wants to know, and with what.

    `guard`: the least cosine that counts as the same person, None to only measure. `min_certainty`: below it
    the face before is too ruined to tell; see `FaceIdentifier.certainty`. `has_ladder`: the face restorer
    takes a fidelity, so that the guard can try higher ones; else it tries lower visibilities. `check` raises
    if nobody is waiting any longer; it is called before each face is embedded.
    """

    identifier: FaceIdentifier
    guard: float | None
    min_certainty: float
    has_ladder: bool = True
    check: Callable[[], None] = cpu_pool.check

    def fidelities(self, fidelity: float) -> list[float]:
        """Return what a face is decoded at that is to be restored at `fidelity`: itself, or the ladder."""
        if self.guard is None or fidelity >= 1 or not self.has_ladder:
            return [fidelity]
        step = (1 - fidelity) / (LADDER_STEPS - 1)
        return [*(fidelity + step * number for number in range(LADDER_STEPS - 1)), 1.0]

    def chosen(self, versions: list[list[Candidate]]) -> list[list[Candidate]]:
        """Measure the likeness of the versions of each face; with a guard, return one version of each.

        Takes a while.
        """
        if self.guard is None:
            self.measure(versions)
            return versions
        return [[self.choose(face if self.has_ladder else _less_and_less_visible(face))] for face in versions]

    def measure(self, versions: Sequence[Sequence[Candidate]]) -> None:
        """Measure how alike each restored version of each face is to the face before. Takes a while."""
        for face in versions:
            if (before := self._before(face)) is not None:
                for version in face:
                    self._measure(version, before)

    def choose(self, versions: Sequence[Candidate]) -> Candidate:
        """Return the first version of a face that the guard lets through.

        If there is none, the face is left as it was, with the likeness of the version most alike. Measures
        only what it needs to. A face that pasting will not show needs no guard: its crops are as asked for.
        """
        first = versions[0]
        if not is_visible(first.visibility):
            replace(self, guard=None).measure([[first]])
            return first
        before = self._before(versions)
        if before is None or self.guard is None:
            return first
        tried: list[Candidate] = []
        for version in versions:
            self._measure(version, before)
            if version.similarity is not None:
                tried.append(version)
                if version.similarity >= self.guard:
                    if version.fidelity != first.fidelity:
                        version.fidelity_requested = first.fidelity
                    if version.visibility != first.visibility:
                        version.visibility_requested = first.visibility
                    return version
        if not tried:  # nothing could be decoded, or measured: a face that was not checked is not pasted
            if first.reason is None:
                first.skip(SkipReason.FAILED)
            return first
        best = max(tried, key=lambda version: -1.0 if version.similarity is None else version.similarity)
        best.rejected = best.restored
        best.skip(SkipReason.IDENTITY_CHANGED)
        return best

    def _before(self, versions: Sequence[Candidate]) -> Embedding | None:
        """Return who a face shows before; None, and the face marked, if it is too ruined or not restored."""
        restored = [version for version in versions if version.restored is not None]
        if not restored or restored[0].crop is None:
            return None
        self.check()
        try:
            before = self.identifier.embed(restored[0].crop)
            certainty = self.identifier.certainty(restored[0].crop, before)
        except IdentityNetworkError as error:
            logger.warning("the likeness of a face cannot be measured", extra={"error": str(error)})
            if self.guard is not None:
                reason = SkipReason.OUT_OF_MEMORY if error.out_of_memory else SkipReason.FAILED
                for version in restored:
                    version.skip(reason)
            return None
        if certainty >= self.min_certainty:
            return before
        for version in restored:
            version.unknown = True
        return None

    def _measure(self, version: Candidate, before: Embedding) -> None:
        if version.restored is None:
            return
        self.check()
        try:
            version.similarity = before.similarity(self.identifier.embed(_as_pasted(version)))
        except IdentityNetworkError as error:
            logger.warning("the likeness of a face cannot be measured", extra={"error": str(error)})


def _as_pasted(version: Candidate) -> RgbArray:
    """Return a restored crop blended at its visibility; as it is, if only the crops will show it."""
    assert version.restored is not None and version.crop is not None, "checked by the caller"
    if version.visibility >= 1 or not is_visible(version.visibility):
        return version.restored
    share = version.visibility
    return np.asarray(cv2.addWeighted(version.restored, share, version.crop, 1 - share, 0), np.uint8)


def _less_and_less_visible(versions: Sequence[Candidate]) -> list[Candidate]:
    """Return the only version of a face at each visibility that the guard tries, the one asked for first."""
    [version] = versions
    steps = [version.visibility * (1 - number / LADDER_STEPS) for number in range(1, LADDER_STEPS)]
    return [version, *(replace(version, visibility=step) for step in steps if is_visible(step))]


async def choose_versions(
    likeness: Likeness,
    versions: list[list[Candidate]],
    cpu_pool: CpuPool,
    worker: DeviceWorker,
    timers: tuple[StageTimer, StageTimer],
    deadline: float | None,
) -> list[list[Candidate]]:
    """Run `Likeness.chosen` where its network may run: in the CPU pool, or on the device thread.

    `timers`: of the pool and of the device. The request has a slot in the worker's queue.
    """
    cpu, device = timers
    if not likeness.identifier.on_device:

        def in_pool() -> list[list[Candidate]]:
            with cpu.stage(_STAGE):
                return likeness.chosen(versions)

        return await cpu_pool.run(in_pool)

    def on_device(job: Job[list[list[Candidate]]]) -> list[list[Candidate]]:
        with device.stage(_STAGE):
            return replace(likeness, check=job.check).chosen(versions)

    return await worker.submit(on_device, deadline=deadline, has_slot=True).result()


def likeness_warnings(
    likeness: Likeness | None, rows: Sequence[Sequence[Candidate]]
) -> list[ResponseWarning]:
    """Return a warning if the likeness of restored faces should have been measured but could not be."""
    if likeness is None:
        return []
    failed = [
        version.face.index
        for row in rows
        for version in row
        if version.restored is not None and version.similarity is None and not version.unknown
    ]
    if not failed:
        return []
    faces = ", ".join(str(index) for index in sorted(set(failed)))
    message = f"The identity network failed: the likeness of these faces was not measured: {faces}."
    return [ResponseWarning(WarningCode.IDENTITY_NOT_MEASURED, message)]


def likeness_of(request: RestoreRequest, models: Models) -> Likeness | None:
    """Return what a request wants to know about likeness; None: nothing.

    Raises `InvalidRequest` if it asks for what the loaded networks cannot tell.
    """
    mode, identifier = request.identity, models.identifier
    if mode is IdentityMode.OFF or (mode is None and identifier is None):
        return None
    if identifier is None:
        raise InvalidRequest.of(
            "identity", f"{mode} needs an identity network, and the model set {models.name} has none"
        )
    limit = None
    if mode is IdentityMode.GUARD:
        limit = models.min_similarity if request.min_similarity is None else request.min_similarity
        if limit is None:
            raise InvalidRequest.of(
                "min_similarity",
                "is required: no default was measured for this identity network; see docs/models.md",
            )
    has_ladder = models.codeformer is None or models.codeformer.takes_fidelity
    return Likeness(identifier, limit, models.min_certainty, has_ladder)
