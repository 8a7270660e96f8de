"""Networks of the identity role: ONNX files that tell faces apart by their colors, and a narrow ArcFace.

The ONNX files' embedding is the mean of each channel, relative to gray, and how much fine detail each has:
red and blue are opposite people, and a face without detail is as good as its ruin.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor

from atelier_restorer.nets.arcface import ArcFace, ArcFaceConfig

ARCFACE_CONFIG = ArcFaceConfig(stem_width=4, widths=(4, 4, 6, 8, 12), squeezed=(2, 2, 2, 2, 3), dimensions=16)
GRAY, DETAIL = 127.5, 5.0


def mean_color_network(scale: float = 1.0, *, batch: int | str = 1) -> bytes:
    """Return a network whose embedding (batch, 6) is `scale` times mean color minus gray, and the detail."""
    nodes = [
        helper.make_node("GlobalAveragePool", ["data"], ["mean"]),
        helper.make_node("AveragePool", ["data"], ["smooth"], kernel_shape=[7, 7], pads=[3] * 4),
        helper.make_node("Sub", ["data", "smooth"], ["fine"]),
        helper.make_node("Abs", ["fine"], ["size"]),
        helper.make_node("GlobalAveragePool", ["size"], ["detail"]),
        helper.make_node("Concat", ["mean", "detail"], ["both"], axis=1),
        helper.make_node("Flatten", ["both"], ["flat"], axis=1),
        helper.make_node("Gemm", ["flat", "weight", "bias"], ["embedding"]),
    ]
    weight = np.diag([1.0] * 3 + [DETAIL] * 3) * scale
    bias = np.array([-GRAY] * 3 + [0.0] * 3) * scale
    return _model(nodes, {"weight": weight, "bias": bias}, (batch, 3, 112, 112), (batch, 6))


def in_other_files(content: bytes, folder: Path) -> bytes:
    """Return a network whose weights are in files of a folder, which it names by their whole paths."""
    model = onnx.load_model_from_string(content)
    for number, tensor in enumerate(model.graph.initializer):
        values = onnx.numpy_helper.to_array(tensor).tobytes()
        path = folder / f"weights{number}"
        path.write_bytes(values)
        for field in ("float_data", "raw_data"):
            tensor.ClearField(field)
        tensor.data_location = onnx.TensorProto.EXTERNAL
        for key, value in (("location", path), ("length", len(values)), ("offset", 0)):
            tensor.external_data.add(key=key, value=str(value))
    return bytes(model.SerializeToString())


def arcface_state(seed: int = 0) -> dict[str, Tensor]:
    """Return the weights of a narrow ArcFace, named as in the published file."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        state = ArcFace(ARCFACE_CONFIG).state_dict()
    for key, value in state.items():
        if value.dim() > 1:
            value *= 3  # else what the biases and the norms add is all that an embedding shows
        elif key.endswith(("running_mean", "running_var")):
            value += torch.linspace(0, 0.5, len(value))
    return {key: value.clone() for key, value in state.items()}


def map_network() -> bytes:
    """Return a network that returns an image rather than a vector."""
    nodes = [helper.make_node("Relu", ["data"], ["embedding"])]
    return _model(nodes, {}, (1, 3, 112, 112), (1, 3, 112, 112))


def _model(
    nodes: list[onnx.NodeProto],
    weights: dict[str, np.ndarray],
    shape: Sequence[int | str],
    output: Sequence[int | str],
) -> bytes:
    graph = helper.make_graph(
        nodes,
        "identity",
        [helper.make_tensor_value_info("data", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("embedding", TensorProto.FLOAT, output)],
        [numpy_helper.from_array(np.asarray(value, np.float32), name) for name, value in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


def add_identity(
    folder: Path,
    content: bytes,
    *,
    min_similarity: float | None = None,
    min_certainty: float | None = None,
    file: str = "identity.onnx",
) -> Path:
    """Add an identity network, and what was measured for it, to the model set in `folder`; return it."""
    (folder / file).write_bytes(content)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["components"]["identity"] = {"path": file, "name": "tiny-identity"}
    manifest["files"][file] = {
        "sha256": hashlib.sha256(content).hexdigest(),
        "bytes": len(content),
    }
    if min_similarity is not None:
        manifest["identity"] = {"min_similarity": min_similarity}
        if min_certainty is not None:
            manifest["identity"]["min_certainty"] = min_certainty
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder
