"""How a picture's faces are restored: detect, align, restore and parse in batches, match tones, enlarge.

What comes out is pasted by `restoration.paste`.

Networks run as jobs on the device thread, the rest in threads of the host, so that the work of several
requests overlaps and the event loop stays free. Each stage of the work is timed in the timers that the
caller brings.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from atelier_restorer.align import CROP_SIZE, cut_crop, face_to_crop, sharpness
from atelier_restorer.batching import FaceBatcher
from atelier_restorer.selection import select_faces, apply_face_edits
from atelier_restorer.faces import (
    Candidate,
    FaceNetworks,
    align,
    aligned_candidate,
    match_tones,
    recolour,
)
from atelier_restorer.gray import is_gray, recolouring, to_gray
from atelier_restorer.cpu_pool import CpuPool
from atelier_restorer.models import Models, batch_for
from atelier_restorer.request import DetectRequest, Face, MaskKind, RestoreRequest
from atelier_restorer.restoration import Restoration, blend_face, outcome_of, overall_reason, patches_of
from atelier_restorer.settings import RestorerSettings
from atelier_restorer.upscale import LANCZOS, Enlarged, enlarge
from atelier_runtime import metrics
from atelier_runtime.device import DeviceWorker, Job
from atelier_runtime.errors import (BadImage, InvalidRequest, ServiceUnavailable)
from atelier_runtime.outcomes import SkipReason
from atelier_runtime.images import Picture, RgbArray, to_depth
from atelier_runtime.metrics import StageTimer
from atelier_runtime.settings import StartupError
from atelier_runtime.vram import probe_for

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Call:
    """What belongs to one call: its deadline (on the clock of `time.monotonic`) and its timers.

    `host` times work of the processor, `device` that of the networks; both write to one list of reports.
    """

    deadline: float | None
    host: StageTimer
    device: StageTimer


class RestorerPipeline:
    """Restores faces with the networks it is given; holds nothing of a request between calls.

    The caller holds a place in the worker's queue (`DeviceWorker.reserve_slot`) while networks run for it.
    """

    def __init__(
        self, models: Models, settings: RestorerSettings, worker: DeviceWorker, host: CpuPool
    ) -> None:
        self._models = models
        self._settings = settings
        self._worker = worker
        self._host = host
        max_batch = settings.max_batch or batch_for(models.device)
        self._faces: FaceNetworks | None = None
        if models.codeformer is not None:
            batcher = FaceBatcher(
                worker,
                models.codeformer,
                max_batch=max_batch,
                new_timer=lambda: StageTimer(probe_for(models.device)),
                free_memory=self._free_memory,
            )
            self._faces = FaceNetworks(models, worker, batcher, max_batch, self._free_memory)

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
        except BadImage as error:
            raise StartupError(f"MODEL_SET: the warm-up picture failed: {error}") from error
        if models.codeformer:
            crop = models.codeformer.restore(rgb[None], [(0, RestoreRequest().fidelity)])[0]
            if isinstance(crop, SkipReason):
                raise StartupError("MODEL_SET: CodeFormer's warm-up picture has non-finite values")

    async def detect(self, picture: Picture, request: DetectRequest, call: Call) -> list[Face]:
        """Find the faces of a picture, the surest first, with their sharpness.

        Raises `ServiceUnavailable` if the model set has no detector.
        """
        if self._models.detector is None:
            raise ServiceUnavailable("The model set has no face detector.")
        rgb = await self._host.run(picture.eight_bit)
        found = await self._detect(rgb, request, call)

        def measure() -> list[Face]:
            with call.host.stage("align"):
                return [replace(face, sharpness=_sharpness(rgb, face)) for face in found]

        return await self._host.run(measure)

    async def restore(
        self, picture: Picture, request: RestoreRequest, call: Call, sweep: Sequence[float] | None = None
    ) -> list[Restoration]:
        """Run the networks: find and restore the faces, enlarge the picture.

        Each face is restored at its own fidelity, and there is one restoration; or at each fidelity of
        `sweep`, and there are as many, for one detection and one encoding. A face that fails is reported and
        left out; the others go on. A cancelled or late call stops between batches of faces and between tiles.

        Raises `InvalidRequest` if a parsed mask is asked for and there is no face parser.
        """
        if request.mask is MaskKind.PARSE and self._models.parser is None:
            raise InvalidRequest.of(
                "mask", f"parse needs a face parser, and the model set {self._models.name} has none"
            )
        rgb, gray = await self._host.run(lambda: _looked_at(picture))
        warnings: list[str] = []
        missing = self._missing(request)
        candidates: list[Candidate] = []
        if missing and request.max_faces:
            warnings.append(f"The model set has no {missing}; no face was restored.")
        elif request.max_faces:
            candidates = await self._candidates(rgb, request, call)
        background = None
        if not request.aligned:  # an aligned face is enlarged with its picture
            background = self._submit_enlarging(picture, request, gray, call)
        try:
            rounds = await self._restore_faces(candidates, request, rgb, gray, sweep, call)
            return [
                await self._restoration(picture, request, row, gray, background, call, warnings, missing)
                for row in rounds
            ]
        except BaseException:
            if background is not None:
                background.cancel()
            raise

    def _missing(self, request: RestoreRequest) -> str | None:
        """Return the network without which no face can be restored as asked."""
        if self._models.codeformer is None:
            return "CodeFormer"
        found_here = not request.aligned and not request.faces
        return "face detector" if found_here and self._models.detector is None else None

    async def _candidates(self, rgb: RgbArray, request: RestoreRequest, call: Call) -> list[Candidate]:
        """Find the faces, or take those that the request names, and cut their crops."""
        if request.aligned:
            return [aligned_candidate(rgb, request)]
        if request.faces:
            candidates = [
                Candidate(
                    order.face,
                    reason,
                    request.fidelity if order.fidelity is None else order.fidelity,
                    request.visibility if order.visibility is None else order.visibility,
                )
                for order, reason in zip(request.faces, apply_face_edits(request), strict=True)
            ]
        else:
            floor = min(request.min_confidence, self._settings.report_confidence)
            faces = await self._detect(rgb, DetectRequest(min_confidence=floor), call)
            reasons = select_faces(faces, request, rgb.shape[1], rgb.shape[0])
            candidates = [
                Candidate(face, reason, request.fidelity, request.visibility)
                for face, reason in zip(faces, reasons, strict=True)
            ]
        if all(candidate.reason is SkipReason.LOW_CONFIDENCE for candidate in candidates):
            log.info("No faces detected")
        if any(candidate.reason is None for candidate in candidates):

            def work() -> None:
                with call.host.stage("align"):
                    align(rgb, candidates, request.max_sharpness)

            await self._host.run(work)
        return candidates

    async def _detect(self, rgb: RgbArray, request: DetectRequest, call: Call) -> list[Face]:
        detector = self._models.detector
        assert detector is not None, "the caller has looked"

        def work(job: Job[list[Face]]) -> list[Face]:
            with call.device.stage("detect"):
                job.check()
                return detector.detect(
                    [rgb], size_px=request.detect_size_px, min_confidence=request.min_confidence
                )[0]

        return await self._worker.submit(work, deadline=call.deadline, has_slot=True).result()

    async def _restore_faces(
        self,
        candidates: list[Candidate],
        request: RestoreRequest,
        rgb: RgbArray,
        gray: bool,
        sweep: Sequence[float] | None,
        call: Call,
    ) -> list[list[Candidate]]:
        if self._faces is None or all(candidate.reason is not None for candidate in candidates):
            return [candidates] * (1 if sweep is None else len(sweep))
        rounds = await self._faces.restore(candidates, sweep, call.device.reports, call.deadline)
        await self._host.run(lambda: recolour(rounds, recolouring(rgb, gray)))
        for row in rounds:
            await self._faces.parse(row, request, call.device, call.deadline)
        wanted = self._models.match_tone if request.match_tone is None else request.match_tone
        if wanted and not request.aligned:  # a crop that is not pasted has no border to match

            def match() -> None:
                with call.host.stage("tone"):
                    match_tones(rounds, rgb.shape[1], rgb.shape[0])

            await self._host.run(match)
        return rounds

    def _submit_enlarging(
        self, picture: Picture, request: RestoreRequest, gray: bool, call: Call
    ) -> Job[tuple[Enlarged, list[str]]] | None:
        if request.upscale == 1:
            return None
        return self._worker.submit(
            lambda job: self._enlarge(job, picture, request, gray, call.device),
            deadline=call.deadline,
            has_slot=True,
        )

    async def _restoration(
        self,
        picture: Picture,
        request: RestoreRequest,
        candidates: list[Candidate],
        gray: bool,
        enlarging: Job[tuple[Enlarged, list[str]]] | None,
        call: Call,
        warnings: list[str],
        missing: str | None,
    ) -> Restoration:
        changed = None
        if request.aligned:
            if candidates and candidates[0].restored is not None:
                picture, changed = await self._host.run(lambda: blend_face(picture, candidates[0]))
            enlarging = self._submit_enlarging(picture, request, gray, call)
        background, more = Enlarged(picture.rgb, ""), list[str]()
        if enlarging is not None:
            background, more = await enlarging.result()
        for candidate in candidates:
            metrics.FACES.labels(candidate.reason or "restored").inc()
        return Restoration(
            background=background,
            changed=changed,
            patches=patches_of(candidates, request.upscale),
            outcomes=tuple(outcome_of(candidate, request) for candidate in candidates),
            reason=overall_reason(candidates, request, missing),
            warnings=(*warnings, *more),
            tone_matched=any(c.tone_matched for c in candidates if c.restored is not None),
        )

    def _enlarge(
        self, job: Job[Any], picture: Picture, request: RestoreRequest, gray: bool, timer: StageTimer
    ) -> tuple[Enlarged, list[str]]:
        rgb, warnings = picture.eight_bit(), list[str]()
        if picture.bits > 8:
            warnings.append(f"The picture was enlarged in 8 bits a channel, of its {picture.bits}.")
        upscaler = self._models.upscaler if request.use_upscaler else None
        if request.use_upscaler and upscaler is None:
            warnings.append("The model set has no upscaler; the picture was enlarged by Lanczos.")
        with timer.stage("upscale"):
            job.check()
            try:
                result = enlarge(rgb, request.upscale, upscaler, job.check)
            except (BadImage, torch.OutOfMemoryError) as error:
                log.warning("the upscaler failed", extra={"error": str(error)})
                result = None
            if result is None:
                self._free_memory()
                warnings.append("The upscaler network failed; the picture was enlarged by Lanczos.")
                result = enlarge(rgb, request.upscale, None, job.check)
            if gray and result.upscaler != LANCZOS:
                result = result._replace(picture=to_gray(result.picture))
        return result._replace(picture=to_depth(result.picture, picture.bits)), warnings

    def _free_memory(self) -> None:
        """Give cached device memory back, so that the next try has all of it."""
        if self._models.device.type == "cuda":
            torch.cuda.empty_cache()


def _looked_at(picture: Picture) -> tuple[RgbArray, bool]:
    """Return a picture in 8 bits, and whether it is gray. Of a large one both take a while."""
    rgb = picture.eight_bit()
    return rgb, picture.gray or is_gray(rgb)


def _sharpness(rgb: RgbArray, face: Face) -> float | None:
    try:
        return sharpness(cut_crop(rgb, face_to_crop(face.landmarks)))
    except ValueError:
        return None
