"""Restoring faces: decode, detect, align, restore and parse in batches, match tones, upscale, paste.

Networks run as jobs on the device thread, decoding in the image workers, the rest in the CPU pool, so that
the work of several requests overlaps and the event loop stays free. `restoration.paste` is the last step.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch

from atelier_restorer.align import CROP_SIZE
from atelier_restorer.background import BackgroundUpscaler, Upscaled
from atelier_restorer.batching import FaceBatcher
from atelier_restorer.cpu_pool import CpuPool
from atelier_restorer.detect import size_warnings, to_faces
from atelier_restorer.faces import (
    Candidate,
    FaceNetworks,
    align,
    aligned_candidate,
    edited_candidates,
    match_tones,
    recolor,
    skip_invisible,
    with_sharpness,
)
from atelier_restorer.gray import is_gray, recoloring
from atelier_restorer.identity import IdentityNetworkError
from atelier_restorer.likeness import Likeness, choose_versions, likeness_of, likeness_warnings
from atelier_restorer.limits import check_picture
from atelier_restorer.looks import find_faces
from atelier_restorer.models import Models, batch_for
from atelier_restorer.request import (
    DetectRequest,
    DetectResult,
    Face,
    FaceOutcome,
    MaskKind,
    RestoreRequest,
    RestoreResult,
)
from atelier_restorer.restoration import (
    Restoration,
    blend_face,
    outcome_of,
    overall_reason,
    paste,
    patches_of,
)
from atelier_restorer.selection import select_faces
from atelier_restorer.settings import RestorerSettings
from atelier_restorer.single_restorer import fidelity_warnings
from atelier_runtime import defaults
from atelier_runtime.device_job import Job
from atelier_runtime.device_worker import DeviceWorker
from atelier_runtime.errors import BadImage, InvalidRequest, ServiceUnavailable
from atelier_runtime.images import InputImage, Picture, RgbArray
from atelier_runtime.images.workers import ImageWorkers
from atelier_runtime.metrics import StageTimer
from atelier_runtime.outcomes import ResponseWarning, SkipReason, WarningCode
from atelier_runtime.settings import StartupError
from atelier_runtime.vram import probe_for

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Call:
    """What belongs to one call: its deadline (on the clock of `time.monotonic`) and its timers.

    `cpu` times the work in the CPU pool, `device` that of the networks; both append to one list of reports.
    """

    deadline: float | None
    cpu: StageTimer
    device: StageTimer


class RestorerPipeline:
    """Restores faces with the networks of a model set; keeps no state of a request between calls.

    A call holds a slot in the worker's queue from before its image is decoded until its last network has run,
    a comparison until its last image is taken.
    """

    def __init__(
        self,
        models: Models,
        settings: RestorerSettings,
        worker: DeviceWorker,
        image_workers: ImageWorkers,
        cpu_pool: CpuPool,
    ) -> None:
        self._models = models
        self._settings = settings
        self._worker = worker
        self._image_workers = image_workers
        self._cpu_pool = cpu_pool
        self._background = BackgroundUpscaler(models, worker, self._free_memory)
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
        """Run every network once on a synthetic image. Raises `StartupError` if one fails."""
        y, x = np.mgrid[0:CROP_SIZE, 0:CROP_SIZE]
        rgb = np.stack([y // 2, x // 2, (x + y) // 4], axis=2).astype(np.uint8)
        models = self._models
        try:
            if models.detector:
                size = DetectRequest().detect_size_px
                models.detector.detect([rgb], size_px=size, min_confidence=1.0)
            if models.upscaler:
                models.upscaler.upscale(rgb[:64, :64], lambda: None)
        except BadImage as error:
            raise StartupError(f"MODEL_SET: the warm-up image failed: {error}") from error
        if models.codeformer:
            crop = models.codeformer.restore(rgb[None], [(0, RestoreRequest().fidelity)])[0]
            if isinstance(crop, SkipReason):
                raise StartupError("MODEL_SET: the face restorer's warm-up output has non-finite values")
        if models.identifier:
            try:
                models.identifier.embed(rgb)
            except IdentityNetworkError as error:
                raise StartupError(f"MODEL_SET: the identity network's warm-up failed: {error}") from error

    async def detect(
        self, image: InputImage, request: DetectRequest, deadline: float | None = None
    ) -> DetectResult:
        """Find the faces of an image, highest confidence first, and measure their sharpness.

        `deadline` is on the clock of `time.monotonic`. Raises `ServiceUnavailable` if the model set does not
        have a detector.
        """
        call = self._call(deadline)
        async with self._worker.reserve_slot(deadline):
            picture = await self._image_workers.decode(image, call.cpu.stage("decode"))
            if self._models.detector is None:
                raise ServiceUnavailable("The model set does not have a face detector.")
            rgb = await self._cpu_pool.run(picture.eight_bit)
            detected, warnings = await self._detect(rgb, request, call)
            measured = partial(with_sharpness, rgb=rgb)
            faces = await self._cpu_pool.run_each(measured, detected, call.cpu.stage("align"))
        reports = tuple(call.cpu.reports)
        warnings += [ResponseWarning(WarningCode.IMAGE_DAMAGED, fault) for fault in picture.faults]
        return DetectResult(tuple(faces), picture.width, picture.height, reports, tuple(warnings))

    async def restore(
        self, image: InputImage, request: RestoreRequest, deadline: float | None = None
    ) -> RestoreResult:
        """Restore the faces of an image, each at its own fidelity, and upscale it.

        A face that fails is reported and left as it was; the others continue. A canceled or late call stops
        between batches of faces and between tiles. `deadline` is on the clock of `time.monotonic`.

        Raises `InvalidRequest` if a parsed mask is requested and there is no face parser.
        """
        async with self._worker.reserve_slot(deadline):
            picture, [restoration] = await self._run_networks(image, request, None, deadline)
        return await self._cpu_pool.run(lambda: paste(picture, request, restoration, in_place=True))

    async def compare(
        self,
        image: InputImage,
        request: RestoreRequest,
        fidelities: Sequence[float],
        deadline: float | None = None,
    ) -> AsyncGenerator[tuple[float, RestoreResult], None]:
        """Restore an image at each of the fidelities, with a single detection and encoding.

        Yields each fidelity with its result, in their order. Raises like `restore`. The slot in the queue is
        held until the last result is taken: what a slow reader has not taken yet stays in memory.
        """
        async with self._worker.reserve_slot(deadline) as work_is_done:
            picture, restorations = await self._run_networks(image, request, fidelities, deadline)
            work_is_done()
            for fidelity in fidelities:
                restoration = restorations.pop(0)
                yield fidelity, await self._cpu_pool.run(partial(paste, picture, request, restoration))

    async def _run_networks(
        self,
        image: InputImage,
        request: RestoreRequest,
        sweep: Sequence[float] | None,
        deadline: float | None,
    ) -> tuple[Picture, list[Restoration]]:
        """Decode the image and run the networks; one restoration, or one for each fidelity of `sweep`."""
        call = self._call(deadline)
        picture = await self._image_workers.decode(image, call.cpu.stage("decode"))
        await self._cpu_pool.run(lambda: check_picture(picture, request, self._settings.max_pixels))
        return picture, await self._restorations(picture, request, call, sweep)

    def _call(self, deadline: float | None) -> Call:
        cpu = StageTimer()
        return Call(deadline, cpu, StageTimer(probe_for(self._models.device), cpu.reports))

    async def _restorations(
        self, picture: Picture, request: RestoreRequest, call: Call, sweep: Sequence[float] | None
    ) -> list[Restoration]:
        if request.mask is MaskKind.PARSE and self._models.parser is None:
            raise InvalidRequest.of(
                "mask", f"parse needs a face parser, and the model set {self._models.name} has none"
            )
        likeness = likeness_of(request, self._models)
        rgb, gray = await self._cpu_pool.run(lambda: _eight_bit_and_gray(picture))
        warnings: list[ResponseWarning] = []
        missing = self._missing(request)
        candidates: list[Candidate] = []
        if missing and request.max_faces:
            message = f"The model set does not have a {missing}; no face was restored."
            warnings.append(ResponseWarning(WarningCode.NOT_LOADED, message))
        elif request.max_faces:
            candidates = await self._candidates(rgb, request, call, warnings)
            warnings += fidelity_warnings(self._models.codeformer, request, sweep)
        background = None
        if not request.aligned:  # an aligned face is upscaled together with its image
            background = self._background.submit(picture, request, gray, call.device, call.deadline)
        try:
            rounds = await self._restore_faces(candidates, request, rgb, gray, sweep, likeness, call)
            warnings += likeness_warnings(likeness, rounds)
            restorations = [
                await self._restoration(picture, request, row, gray, background, call, warnings, missing)
                for row in rounds
            ]
            return [replace(r, min_similarity=likeness.guard if likeness else None) for r in restorations]
        except BaseException:
            if background is not None:
                background.cancel()
            raise

    def _missing(self, request: RestoreRequest) -> str | None:
        """Return the network without which no face can be restored as requested."""
        if self._models.codeformer is None:
            return "face restorer"
        detects = not request.aligned and not request.faces
        return "face detector" if detects and self._models.detector is None else None

    async def _candidates(
        self, rgb: RgbArray, request: RestoreRequest, call: Call, warnings: list[ResponseWarning]
    ) -> list[Candidate]:
        """Detect the faces, or take those of the request, and cut their crops."""
        if request.aligned:
            return skip_invisible([aligned_candidate(rgb, request)], request)
        if request.faces:
            candidates = edited_candidates(request)
        else:
            floor = min(request.min_confidence, self._settings.report_confidence)
            where = DetectRequest(floor, request.detect_size_px, request.look)
            faces, omitted = await self._detect(rgb, where, call)
            warnings += omitted
            reasons = select_faces(faces, request, rgb.shape[1], rgb.shape[0])
            candidates = [
                Candidate(face, reason, request.fidelity, request.visibility)
                for face, reason in zip(faces, reasons, strict=True)
            ]
        if all(candidate.reason is SkipReason.LOW_CONFIDENCE for candidate in candidates):
            logger.info("No faces detected")
        chosen = [c for c in skip_invisible(candidates, request) if c.reason is None]
        if chosen:
            cut = partial(align, rgb=rgb, max_sharpness=request.max_sharpness)
            await self._cpu_pool.run_each(cut, chosen, call.cpu.stage("align"))
        return candidates

    async def _detect(
        self, rgb: RgbArray, request: DetectRequest, call: Call
    ) -> tuple[list[Face], list[ResponseWarning]]:
        """Return the faces, at most as many as a response may hold, and a warning if there are more."""
        detector = self._models.detector
        assert detector is not None, "checked by the caller"

        def work(job: Job[tuple[list[Face], bool]]) -> tuple[list[Face], bool]:
            with call.device.stage("detect"):
                found = find_faces(
                    detector,
                    rgb,
                    size_px=request.detect_size_px,
                    min_confidence=request.min_confidence,
                    look=request.look,
                    check=job.check,
                )
            faces = to_faces(found.faces, rgb.shape[1], rgb.shape[0])
            clear_or_not = zip(faces, found.unclear, strict=True)
            return [
                replace(f, orientation_unclear=bool(unclear)) for f, unclear in clear_or_not
            ], found.in_tiles

        faces, in_tiles = await self._worker.submit(work, deadline=call.deadline, has_slot=True).result()
        warnings = size_warnings(rgb.shape[1], rgb.shape[0], request.detect_size_px)
        if in_tiles:
            message = "Small faces were looked for in parts of the image: for all of it there was no memory."
            warnings.append(ResponseWarning(WarningCode.MEMORY_FALLBACK, message))
        limit = defaults.MAX_DETECTED_FACES
        if len(faces) <= limit:
            return faces, warnings
        message = f"{len(faces)} faces were found; the {limit} of the highest confidence are considered."
        return faces[:limit], [*warnings, ResponseWarning(WarningCode.FACES_OMITTED, message)]

    async def _restore_faces(
        self,
        candidates: list[Candidate],
        request: RestoreRequest,
        rgb: RgbArray,
        gray: bool,
        sweep: Sequence[float] | None,
        likeness: Likeness | None,
        call: Call,
    ) -> list[list[Candidate]]:
        if self._faces is None or all(candidate.reason is not None for candidate in candidates):
            return [candidates] * (1 if sweep is None else len(sweep))
        fidelities = [
            list(sweep)
            if sweep is not None
            else likeness.fidelities(c.fidelity)
            if likeness
            else [c.fidelity]
            for c in candidates
        ]
        versions = await self._faces.restore(candidates, fidelities, call.device.reports, call.deadline)
        await self._cpu_pool.run(lambda: recolor(versions, recoloring(rgb, gray)))
        chosen = versions
        if likeness is not None:
            timers = (call.cpu, call.device)
            chosen = await choose_versions(
                likeness, versions, self._cpu_pool, self._worker, timers, call.deadline
            )
        rounds = [[face[number] for face in chosen] for number in range(len(sweep or (0,)))]
        for row in rounds:
            await self._faces.parse(row, request, call.device, call.deadline)
        enabled = self._models.match_tone if request.match_tone is None else request.match_tone
        if enabled and not request.aligned:  # a crop that is not pasted has no border to match

            def match() -> None:
                with call.cpu.stage("tone"):
                    match_tones(rounds, rgb.shape[1], rgb.shape[0])

            await self._cpu_pool.run(match)
        return rounds

    async def _restoration(
        self,
        picture: Picture,
        request: RestoreRequest,
        candidates: list[Candidate],
        gray: bool,
        upscaling: Job[tuple[Upscaled, list[ResponseWarning]]] | None,
        call: Call,
        warnings: list[ResponseWarning],
        missing: str | None,
    ) -> Restoration:
        changed = None
        if request.aligned:
            if candidates and candidates[0].restored is not None:
                picture, changed = await self._cpu_pool.run(lambda: blend_face(picture, candidates[0]))
            upscaling = self._background.submit(picture, request, gray, call.device, call.deadline)
        background, more = Upscaled(picture.rgb, ""), list[ResponseWarning]()
        if upscaling is not None:
            background, more = await upscaling.result()
        return Restoration(
            background=background,
            changed=changed,
            patches=patches_of(candidates, request.upscale),
            outcomes=tuple(self._outcome(candidate, request) for candidate in candidates),
            reason=overall_reason(candidates, request, missing),
            warnings=(*warnings, *more),
            tone_matched=any(c.tone_matched for c in candidates if c.restored is not None),
            stages=tuple(call.cpu.reports),
        )

    def _outcome(self, candidate: Candidate, request: RestoreRequest) -> FaceOutcome:
        outcome = outcome_of(candidate, request)
        takes = self._models.codeformer is None or self._models.codeformer.takes_fidelity
        return outcome if takes else replace(outcome, fidelity=None)

    def _free_memory(self) -> None:
        """Release cached device memory, so that the next attempt has all of it."""
        if self._models.device.type == "cuda":
            torch.cuda.empty_cache()


def _eight_bit_and_gray(picture: Picture) -> tuple[RgbArray, bool]:
    """Return an image in 8 bits, and whether it is gray. Takes a while for a large one."""
    rgb = picture.eight_bit()
    return rgb, picture.gray or is_gray(rgb)
