"""Upscaling the background: the image that the restored faces are pasted into.

It is a job of its own on the device thread, so that it runs before, between or after the batches of faces.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, NamedTuple

from atelier_restorer.gray import to_gray
from atelier_restorer.models import Models
from atelier_restorer.request import RestoreRequest
from atelier_runtime.device import is_out_of_memory
from atelier_runtime.device_job import Job
from atelier_runtime.device_worker import DeviceWorker
from atelier_runtime.errors import BadImage
from atelier_runtime.images import Picture, PixelArray, to_depth
from atelier_runtime.metrics import StageTimer
from atelier_runtime.outcomes import ResponseWarning, WarningCode
from atelier_runtime.sizes import Size
from atelier_runtime.upscaler import LANCZOS, upscale_to

logger = logging.getLogger(__name__)


class Upscaled(NamedTuple):
    """Pixels (H, W, 3) of the input's depth, and the name of what upscaled them; empty if nothing did."""

    pixels: PixelArray
    upscaler: str


class BackgroundUpscaler:
    """Upscales images with the upscaler of the model set; by Lanczos if it has none or if that fails."""

    def __init__(self, models: Models, worker: DeviceWorker, free_memory: Callable[[], None]) -> None:
        """`free_memory` is called after the network has failed."""
        self._models = models
        self._worker = worker
        self._free_memory = free_memory

    def submit(
        self,
        picture: Picture,
        request: RestoreRequest,
        gray: bool,
        timer: StageTimer,
        deadline: float | None,
    ) -> Job[tuple[Upscaled, list[ResponseWarning]]] | None:
        """Queue the upscaling of an image; None if none is requested. The caller holds a slot of the queue.

        `gray`: the image is gray, and stays so. Canceling the job stops it between tiles.
        """
        if request.upscale == 1:
            return None
        return self._worker.submit(
            lambda job: self._upscale(job, picture, request, gray, timer), deadline=deadline, has_slot=True
        )

    def _upscale(
        self, job: Job[Any], picture: Picture, request: RestoreRequest, gray: bool, timer: StageTimer
    ) -> tuple[Upscaled, list[ResponseWarning]]:
        rgb, warnings = picture.eight_bit(), list[ResponseWarning]()
        size = Size(picture.width * request.upscale, picture.height * request.upscale)

        def warn(code: WarningCode, message: str) -> None:
            warnings.append(ResponseWarning(code, message))

        if picture.bits > 8:
            warn(
                WarningCode.BIT_DEPTH_REDUCED,
                f"The image was upscaled in 8 bits per channel, of its {picture.bits}.",
            )
        upscaler = self._models.upscaler if request.use_upscaler else None
        if request.use_upscaler and upscaler is None:
            warn(
                WarningCode.UPSCALER_FALLBACK,
                "The model set does not have an upscaler; the image was upscaled by Lanczos.",
            )
        with timer.stage("upscale"):
            job.check()
            try:
                pixels = upscale_to(rgb, size, upscaler, job.check)
            except Exception as error:  # a lack of memory has many classes
                if not (isinstance(error, BadImage) or is_out_of_memory(error)):
                    raise
                logger.warning("the upscaler failed", extra={"error": str(error)})
                pixels = None
            if pixels is None:
                self._free_memory()
                warn(
                    WarningCode.UPSCALER_FALLBACK,
                    "The upscaler network failed; the image was upscaled by Lanczos.",
                )
                upscaler = None
                pixels = upscale_to(rgb, size, None, job.check)
            if gray and upscaler is not None:
                pixels = to_gray(pixels)
        name = upscaler.name if upscaler else LANCZOS
        return Upscaled(to_depth(pixels, picture.bits), name), warnings
