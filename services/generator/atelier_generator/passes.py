"""A pass: the denoising steps of the requests of a batch, which share the UNet's forward passes."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch

from atelier_generator.denoising import Denoising, predict
from atelier_generator.generation import Batch, ForwardPass, Progress, Run, free_memory
from atelier_generator.previews import preview
from atelier_runtime import metrics
from atelier_runtime.device import is_out_of_memory
from atelier_runtime.latent_colors import SDXL_COLORS, LatentColors

logger = logging.getLogger(__name__)


class Denoiser:
    """Runs passes, at most `max_batch` requests in one forward pass; of a request's images see `images`.

    Requests whose prompts differ in length take their steps at the same time, in forward passes of their own.
    If the device runs out of memory, a forward pass is halved, and the others of the pass stay that small.
    """

    def __init__(self, device: torch.device, max_batch: int, colors: LatentColors = SDXL_COLORS) -> None:
        """`colors`: for previews."""
        self.max_batch = max_batch
        self._colors = colors
        self._device = device

    def denoise(self, unet: Any, batch: Batch, stage: str, steps: int) -> None:
        """Denoise `Run.denoising` of each run into `Run.latents`, in as many steps as were announced.

        Raises `EveryRequestEnded` if all are canceled or fail.
        """
        metrics.BATCH_SIZE.observe(len(batch.runs))
        for run in batch.runs:
            run.steps_done = run.steps_finished
        first = _denoising(batch.runs[0])
        height, width = first.latents.shape[-2:]
        kind = ForwardPass(stage, height, width, first.guided, first.text.embeddings.shape[1])
        size = batch.most_together(kind, self.max_batch)
        total = len(first.timesteps)
        del first  # or the first run's latents would stay in memory until the end of the pass
        for index in range(total):
            for runs in _of_equal_length(batch.runs):
                while runs:
                    group, runs = runs[:size], runs[size:]
                    fitting = self._predict(unet, batch, group, index)
                    if fitting is not None and fitting < size:
                        size = fitting
                        batch.ran_short(kind, fitting)
            # Second-order schedulers take two of these for each step.
            done = min(steps, (index + 1) * steps // total)
            batch.each(
                partial(self._step, index=index, done=done, progress=Progress(stage, index + 1, total))
            )
        for run in batch.runs:
            run.latents, run.denoising = _denoising(run).latents, None
            run.steps_finished += steps

    def _step(self, run: Run, *, index: int, done: int, progress: Progress) -> None:
        interval = run.request.preview_interval_steps
        wanted = interval is not None and progress.step % interval == 0
        end = _denoising(run).step(index, estimated=wanted)
        run.steps_done = run.steps_finished + done
        previews = () if end is None else (preview(end, self._colors),)
        run.emit(replace(progress, previews=previews))
        run.check()

    def _predict(self, unet: Any, batch: Batch, runs: Sequence[Run], index: int) -> int | None:
        """Set the predictions of some runs; one for which that fails leaves the batch.

        Returns how many fit into the device's memory, if these did not.
        """

        def forward() -> None:
            parts = [_denoising(run) for run in runs]
            for part, prediction in zip(parts, predict(unet, parts, index), strict=True):
                part.prediction = prediction

        if len(runs) == 1:
            batch.attempt(runs[0], lambda run: run.retried(forward))
            return None
        try:
            forward()
        except Exception as error:  # whatever a network raises is this forward pass's failure
            out_of_memory = is_out_of_memory(error)
            if not out_of_memory:
                logger.exception("a forward pass for several requests failed", extra={"requests": len(runs)})
        else:
            return None
        if out_of_memory:
            runs[0].free()  # of a batch all use the same
        free_memory(self._device)
        # Out of memory, half of them may fit. Otherwise a single one may have failed all: each by itself.
        size = (len(runs) + 1) // 2 if out_of_memory else 1
        if out_of_memory:
            logger.warning(
                "the device ran short of memory; fewer requests share a forward pass",
                extra={"requests": len(runs), "now": size},
            )
        fitting = [
            self._predict(unet, batch, runs[start : start + size], index)
            for start in range(0, len(runs), size)
        ]
        return min([size, *(fit for fit in fitting if fit is not None)]) if out_of_memory else None


def _of_equal_length(runs: Sequence[Run]) -> list[list[Run]]:
    """Return the runs by the number of tokens of their text, which one forward pass has in common."""
    groups: dict[int, list[Run]] = {}
    for run in runs:
        groups.setdefault(_denoising(run).text.embeddings.shape[1], []).append(run)
    return list(groups.values())


def _denoising(run: Run) -> Denoising:
    assert run.denoising is not None, "a pass starts with what it denoises"
    return run.denoising
