"""Names and shapes of the tensors of Real-ESRGAN's RRDBNet, as its files are published.

spandrel runs the network, but renames the tensors on the way and says what is missing by its own names, or
not at all; a person who looks into a file knows these.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from torch import Tensor

_WIDTH, _GROWTH = 64, 32  # of the published files, where the tensor that tells is missing
_DENSE_BLOCKS, _CONVOLUTIONS = 3, 5  # in a block of the body, in a dense block
_MOST_BLOCKS = 100  # the published have 6 and 23; a false number must not make a list without end


def rrdbnet_shapes(state: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    """Return name -> shape of an RRDBNet of the sizes that a checkpoint's tensors tell."""
    width = _size(state, "conv_body.weight", 0, _WIDTH)
    growth = _size(state, "body.0.rdb1.conv2.weight", 0, _GROWTH)
    outer = _size(state, "conv_last.weight", 0, 3)
    last_block = max((number for number in _numbers(state, "body.") if number < _MOST_BLOCKS), default=-1)
    convolutions = {"conv_first": (_size(state, "conv_first.weight", 1, outer), width)}
    for block in range(last_block + 1):
        for dense in range(1, _DENSE_BLOCKS + 1):
            for number in range(1, _CONVOLUTIONS + 1):
                given = width + (number - 1) * growth
                made = width if number == _CONVOLUTIONS else growth
                convolutions[f"body.{block}.rdb{dense}.conv{number}"] = (given, made)
    convolutions |= dict.fromkeys(("conv_body", "conv_up1", "conv_up2", "conv_hr"), (width, width))
    convolutions["conv_last"] = (width, outer)
    shapes: dict[str, tuple[int, ...]] = {}
    for name, (given, made) in convolutions.items():
        shapes[f"{name}.weight"] = (made, given, 3, 3)
        shapes[f"{name}.bias"] = (made,)
    return shapes


def _size(state: Mapping[str, Tensor], key: str, axis: int, default: int) -> int:
    shape = state[key].shape if key in state else ()
    return int(shape[axis]) if len(shape) == 4 else default


def _numbers(state: Mapping[str, Tensor], prefix: str) -> Iterator[int]:
    for key in state:
        number = key.removeprefix(prefix).partition(".")[0]
        if key.startswith(prefix) and number.isdigit():
            yield int(number)
