"""Writes the identity network as ONNX, as networks of face recognition are published: what services load."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from atelier_restorer.recognition_crop import SIDE
from training.identity import DIMENSIONS, Down, IdentityNet, Residual

_OPSET, _IR = 17, 8


class _Graph:
    """Collects nodes and weights; names of values are numbers."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []

    def constant(self, values: Tensor) -> str:
        name = f"w{len(self.weights)}"
        array = np.ascontiguousarray(values.detach().cpu().float().numpy())
        self.weights.append(numpy_helper.from_array(array, name))
        return name

    def add(self, operator: str, *inputs: str, **attributes: Any) -> str:
        name = f"x{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, [*inputs], [name], **attributes))
        return name

    def convolution(self, x: str, conv: nn.Conv2d, norm: nn.BatchNorm2d) -> str:
        """A convolution with the normalization behind it folded in."""
        scale, shift = _folded(norm)
        weight = conv.weight * scale.view(-1, 1, 1, 1)
        (kernel, _), (stride, _), padding = conv.kernel_size, conv.stride, int(str(conv.padding[0]))
        return self.add(
            "Conv", x, self.constant(weight), self.constant(shift), kernel_shape=[kernel] * 2,
            strides=[stride] * 2, pads=[padding] * 4, group=conv.groups,
        )  # fmt: skip

    def prelu(self, x: str, act: nn.PReLU) -> str:
        return self.add("PRelu", x, self.constant(act.weight.view(-1, 1, 1)))


def _folded(norm: nn.BatchNorm2d | nn.BatchNorm1d) -> tuple[Tensor, Tensor]:
    """Scale and shift of a normalization with its running statistics."""
    mean, variance = norm.running_mean, norm.running_var
    assert mean is not None and variance is not None
    scale = norm.weight / (variance + norm.eps).sqrt()
    return scale, norm.bias - mean * scale


def write_onnx(network: IdentityNet, path: Path) -> None:
    """Write the network; its input is RGB (N, 3, 112, 112), 0 to 255, its output (N, 128)."""
    graph = _Graph()
    scaled = graph.add("Sub", "data", _scalar(graph, 127.5))
    x = graph.add("Mul", scaled, _scalar(graph, 1 / 128))
    for layer in network.layers:
        if isinstance(layer, Down):
            x = graph.prelu(graph.convolution(x, layer.conv, layer.norm), layer.act)
        elif isinstance(layer, Residual):
            inner = graph.prelu(graph.convolution(x, layer.conv1, layer.norm1), layer.act1)
            x = graph.add("Add", x, graph.convolution(inner, layer.conv2, layer.norm2))
    x = graph.add("Flatten", graph.convolution(x, network.pool, network.pool_norm), axis=1)
    scale, shift = _folded(network.embed_norm)
    weight = (network.embed.weight * scale.view(-1, 1)).T
    graph.nodes.append(
        helper.make_node("Gemm", [x, graph.constant(weight), graph.constant(shift)], ["embedding"])
    )
    data = helper.make_tensor_value_info("data", TensorProto.FLOAT, ["batch", 3, SIDE, SIDE])
    embedding = helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["batch", DIMENSIONS])
    model = helper.make_model(
        helper.make_graph(graph.nodes, "identity", [data], [embedding], graph.weights),
        opset_imports=[helper.make_opsetid("", _OPSET)],
        ir_version=_IR,
    )
    onnx.checker.check_model(model)
    path.write_bytes(model.SerializeToString())


def _scalar(graph: _Graph, value: float) -> str:
    name = f"w{len(graph.weights)}"
    graph.weights.append(numpy_helper.from_array(np.array([value], np.float32), name))
    return name
