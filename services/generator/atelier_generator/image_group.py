"""The images of one request: drawn together, by as few forward passes of the UNet as memory allows.

They begin and end together, and the first that fails ends them all. Unlike waiting requests, which share a
forward pass up to the setting `MAX_BATCH`, they are what one caller waits for as a whole: nobody is served
later because they are many.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace

from atelier_generator.generation import Batch, EveryRequestEnded, ForwardPass, Progress, Run
from atelier_generator.models import Models
from atelier_runtime import defaults
from atelier_runtime.device import is_out_of_memory
from atelier_runtime.errors import AtelierError, BadImage, OutOfMemory
from atelier_runtime.outcomes import WarningCode

_REMEMBERED_S = 600.0  # a shortage may pass, such as that of another process on the same GPU
_MAX_REMEMBERED = 256


class Sharing:
    """How many images of a request share a forward pass, and what fitted into the device's memory."""

    def __init__(
        self,
        *,
        max_images: int | None = None,
        max_latents: int | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`max_images`: in one forward pass. `max_latents`: positions of the latents of all of them.

        `max_latents` is for a CPU, which does not run out of memory with an error that can be handled. It
        limits the tokens of the texts too: cross-attention keeps features for each as for each position.
        None: no limit. `clock`: seconds that never run backwards.
        """
        self._max_images = max_images
        self._max_latents = max_latents
        self._clock = clock
        self._fitting: dict[ForwardPass, tuple[int, float]] = {}

    def limit(self, kind: ForwardPass, images: int) -> int:
        """Return how many of some images may share a forward pass, whatever memory there is."""
        most = images if self._max_images is None else min(images, self._max_images)
        if self._max_latents is not None:
            most = min(most, self._max_latents // max(kind.height * kind.width, kind.tokens))
        return max(1, most)

    def most(self, kind: ForwardPass, images: int) -> int:
        """Return how many are to share one: the limit, or what fitted when more had been tried."""
        fitting, until = self._fitting.get(kind, (images, 0.0))
        limit = self.limit(kind, images)
        return min(limit, fitting) if self._clock() < until else limit

    def remember(self, kind: ForwardPass, fitting: int) -> None:
        """Remember for some minutes how many fit."""
        self._fitting.pop(kind, None)
        self._fitting[kind] = fitting, self._clock() + _REMEMBERED_S
        if len(self._fitting) > _MAX_REMEMBERED:
            del self._fitting[next(iter(self._fitting))]  # the oldest


def sharing_on(models: Models, max_images: int | None) -> Sharing:
    """Return the rule for the networks' device; `max_images`: in one forward pass, None: no limit."""
    side = defaults.SIDE_PX_RANGE[1] // models.text_to_image.vae_scale_factor
    return Sharing(max_images=max_images, max_latents=side**2 if models.device.type == "cpu" else None)


class ImageGroup(Batch):
    """The images of one request as a batch. One that fails ends them all, with an error that names it."""

    def __init__(
        self, runs: Sequence[Run], end: Callable[[Run, Exception | None], None], sharing: Sharing
    ) -> None:
        """See `Batch`."""
        super().__init__(runs, end)
        self._sharing = sharing

    def most_together(self, kind: ForwardPass, max_batch: int) -> int:
        """Return how many images are to share a forward pass; `max_batch` is for several requests."""
        most = self._sharing.most(kind, len(self.runs))
        if most < self._sharing.limit(kind, len(self.runs)):
            self._disclose(kind, most)
        return most

    def ran_short(self, kind: ForwardPass, fitting: int) -> None:
        """Remember how many fit into memory, and tell the caller."""
        self._sharing.remember(kind, fitting)
        self._disclose(kind, fitting)

    def fail(self, run: Run, error: Exception) -> None:
        """End all images with the error of one of them. Raises `EveryRequestEnded`."""
        named = named_error(run, error)
        for each in list(self.runs):
            super().fail(each, named)
        raise EveryRequestEnded

    def _disclose(self, kind: ForwardPass, together: int) -> None:
        """Warn in each image's result, once for a pass, in the words of the last that is known."""
        start = f"The device ran short of memory in the {kind.stage} pass: "
        for run in self.runs:
            run.warnings[:] = [warning for warning in run.warnings if not warning.message.startswith(start)]
            run.warn(
                WarningCode.MEMORY_FALLBACK,
                f"{start}of {run.images} images at most {together} at a time were denoised together.",
            )


class ProgressTogether:
    """Makes one event of those of each image; they take their steps in turn, in the order of their seeds."""

    def __init__(self, images: int, emit: Callable[[Progress], None]) -> None:
        self._images = images
        self._emit = emit
        self._events: list[Progress] = []

    def emit(self, progress: Progress) -> None:
        """Send the last image's event, with the previews of all."""
        self._events.append(progress)
        if len(self._events) == self._images:
            events, self._events = self._events, []
            self._emit(replace(progress, previews=sum((event.previews for event in events), ())))


def named_error(run: Run, error: Exception) -> Exception:
    """Return the error of one of several images, with a message that names the image."""
    if run.images == 1:
        return error
    if is_out_of_memory(error):
        error = OutOfMemory()
    if not isinstance(error, BadImage | OutOfMemory):
        return error
    kind: type[AtelierError] = type(error)
    return kind(f"Image {run.number} of {run.images} (seed {run.request.seed}): {error.message}")
