"""Names and shapes of the tensors of Real-ESRGAN's RRDBNet in its published files.

spandrel runs the network, but renames the tensors on the way and reports missing ones by its own names, or
not at all; these are the names that a file contains.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from torch import Tensor

_WIDTH, _GROWTH = 64, 32  # of the published files, for when the tensor that determines it is missing
_DENSE_BLOCKS, _CONVOLUTIONS = 3, 5  # in a block of the body, in a dense block
_MAX_BLOCKS = 100  # published ones have 6 and 23; a bogus number must not result in an endless list


def rrdbnet_shapes(state: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    """Return name -> shape of an RRDBNet with the sizes that a checkpoint's tensors imply."""
    width = _size(state, "conv_body.weight", 0, _WIDTH)
    growth = _size(state, "body.0.rdb1.conv2.weight", 0, _GROWTH)
    outer = _size(state, "conv_last.weight", 0, 3)
    last_block = max((number for number in _numbers(state, "body.") if number < _MAX_BLOCKS), default=-1)
    convolutions = {"conv_first": (_size(state, "conv_first.weight", 1, outer), width)}
    for block in range(last_block + 1):
        for dense in range(1, _DENSE_BLOCKS + 1):
            for number in range(1, _CONVOLUTIONS + 1):
                in_channels = width + (number - 1) * growth
                out_channels = width if number == _CONVOLUTIONS else growth
                convolutions[f"body.{block}.rdb{dense}.conv{number}"] = (in_channels, out_channels)
    convolutions |= dict.fromkeys(("conv_body", "conv_up1", "conv_up2", "conv_hr"), (width, width))
    convolutions["conv_last"] = (width, outer)
    shapes: dict[str, tuple[int, ...]] = {}
    for name, (in_channels, out_channels) in convolutions.items():
        shapes[f"{name}.weight"] = (out_channels, in_channels, 3, 3)
        shapes[f"{name}.bias"] = (out_channels,)
    return shapes


def _size(state: Mapping[str, Tensor], key: str, axis: int, default: int) -> int:
    shape = state[key].shape if key in state else ()
    return int(shape[axis]) if len(shape) == 4 else default


def _numbers(state: Mapping[str, Tensor], prefix: str) -> Iterator[int]:
    for key in state:
        number = key.removeprefix(prefix).partition(".")[0]
        if key.startswith(prefix) and number.isdigit():
            yield int(number)
