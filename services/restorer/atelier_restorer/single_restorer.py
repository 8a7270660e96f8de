"""Restores aligned crops with a network that has no fidelity: it has one answer for each face.

Such a network runs in float32, whatever the settings say. RestoreFormer selects codes, which CodeFormer does
in float32 for that reason, and what bfloat16 would change in GFPGAN's faces has not been measured on the
published weights (docs/precision.md). See docs/decisions/restorers-without-a-fidelity.md.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from atelier_restorer.batching import FaceNetwork, RestoredCrop
from atelier_restorer.crop_batches import bucket, network_input, restored_crops
from atelier_restorer.nets.codeformer import filled
from atelier_restorer.nets.face_restoration import architecture_of, canonical, load
from atelier_restorer.request import RestoreRequest
from atelier_runtime.images import RgbArray
from atelier_runtime.outcomes import ResponseWarning, WarningCode


class SingleRestorer:
    """GFPGAN or RestoreFormer on uint8 crops."""

    takes_fidelity = False
    dtype = torch.float32

    def __init__(
        self, state: Mapping[str, Tensor], device: torch.device, *, fixed_batches: bool | None = None
    ) -> None:
        """Load a checkpoint. `fixed_batches`: as for `FaceRestorer`.

        Raises `ValueError` if its tensors do not match one of the networks.
        """
        self.architecture, network = load(state)
        self.network = network.to(device)
        self._device = device
        self._fixed_batches = device.type == "cuda" if fixed_batches is None else fixed_batches

    @torch.inference_mode()
    def restore(
        self, crops: RgbArray, decodes: Sequence[tuple[int, float]], *, max_batch: int | None = None
    ) -> list[RestoredCrop]:
        """Return a face for each (index of an aligned crop (N, 512, 512, 3), fidelity).

        The fidelity has no effect: a crop that is asked for several times runs once, and its answers are the
        same array. Otherwise as `FaceRestorer.restore`.
        """
        batch_size = functools.partial(bucket, max_batch=max_batch if self._fixed_batches else 0)
        needed = sorted({index for index, _ in decodes})
        rows = [needed[row] for row in filled(len(needed), batch_size)]
        x = network_input(crops, rows, self._device, torch.contiguous_format)
        output = self.architecture.restore(self.network, x)
        answers = dict(zip(needed, restored_crops(output[: len(needed)].float()), strict=True))
        return [answers[index] for index, _ in decodes]


def fidelity_warnings(
    network: FaceNetwork | None, request: RestoreRequest, sweep: Sequence[float] | None
) -> list[ResponseWarning]:
    """Return a warning if fidelities were given and the network has none."""
    edits = any(edit.fidelity is not None for edit in request.faces)
    if not isinstance(network, SingleRestorer) or not (request.sets_fidelity or edits or sweep):
        return []
    message = f"{network.architecture.name} has no fidelity: the value has no effect."
    if sweep is not None:
        message = f"{network.architecture.name} has no fidelity: the images of all values are the same."
    return [ResponseWarning(WarningCode.FIDELITY_IGNORED, message)]


def is_single(state: Mapping[str, Tensor]) -> bool:
    """Return whether a checkpoint is of a network that `SingleRestorer` runs."""
    return architecture_of(canonical(state)) is not None


def telling_name(name: str, architecture: str) -> str:
    """Return a network's name, with its architecture in brackets unless the name already says it."""
    return name if architecture.lower() in name.lower() else f"{name} ({architecture})"
