"""Checkpoints into networks, exactly: every tensor has a place of its own shape, every place a tensor."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

_NAMED = 10


def load_exactly(network: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Take the tensors of `state` over as the network's own, without copying them.

    The network may be on torch's meta device. Tensors keep their number format.

    Raises:
        ValueError: tensors are missing, left over or of another shape; the first ten are named, the rest
            counted.
    """
    if differences := _differences(network.state_dict(), state):
        named = "; ".join(differences[:_NAMED])
        rest = f"; and {len(differences) - _NAMED} more" if len(differences) > _NAMED else ""
        raise ValueError(f"its tensors are not those of this {type(network).__name__}: {named}{rest}")
    network.load_state_dict(state, strict=True, assign=True)


def _differences(expected: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> list[str]:
    missing = [f"{key} is missing" for key in expected if key not in state]
    extra = [f"{key} does not belong to it" for key in state if key not in expected]
    shapes = [
        f"{key} has shape {tuple(state[key].shape)}, not {tuple(tensor.shape)}"
        for key, tensor in expected.items()
        if key in state and state[key].shape != tensor.shape
    ]
    return [*missing, *extra, *shapes]
