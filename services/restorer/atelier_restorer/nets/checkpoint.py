"""Loads checkpoints exactly: no tensor may be missing, unexpected or of another shape."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

_MAX_LISTED = 10


def with_counters(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors, with batch normalization's counters set to 0 where a conversion has omitted them.

    `num_batches_tracked` counts the batches seen in training. Inference does not read it, so a file without
    it is complete; a file without any other tensor is not.
    """
    norms = (key.removesuffix("running_mean") for key in state if key.endswith(".running_mean"))
    return {f"{norm}num_batches_tracked": torch.tensor(0) for norm in norms} | dict(state)


def load_exactly(network: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Assign the tensors of `state` to the network, without copying them.

    The network may be on torch's meta device. Tensors keep their dtype.

    Raises:
        ValueError: tensors are missing, unexpected or of another shape; the first ten are listed, the rest
            counted.
    """
    if differences := _differences(network.state_dict(), state):
        listed = "; ".join(differences[:_MAX_LISTED])
        rest = f"; and {len(differences) - _MAX_LISTED} more" if len(differences) > _MAX_LISTED else ""
        raise ValueError(f"the tensors do not match this {type(network).__name__}: {listed}{rest}")
    network.load_state_dict(state, strict=True, assign=True)


def _differences(expected: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> list[str]:
    missing = [f"{key} is missing" for key in expected if key not in state]
    unexpected = [f"{key} is unexpected" for key in state if key not in expected]
    shapes = [
        f"{key} has shape {tuple(state[key].shape)}, not {tuple(tensor.shape)}"
        for key, tensor in expected.items()
        if key in state and state[key].shape != tensor.shape
    ]
    return [*missing, *unexpected, *shapes]
