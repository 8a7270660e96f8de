"""Networks of the identity role that tell faces apart by their colors, as ONNX files.

The embedding is the mean of each channel, relative to gray: red and blue are opposite people, and a gray face
shows nobody.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

GRAY = 127.5


def mean_color_network(scale: float = 1.0, *, batch: int | str = 1) -> bytes:
    """Return a network whose embedding is `scale` times the mean color minus gray, (batch, 3)."""
    nodes = [
        helper.make_node("GlobalAveragePool", ["data"], ["mean"]),
        helper.make_node("Flatten", ["mean"], ["flat"], axis=1),
        helper.make_node("Gemm", ["flat", "weight", "bias"], ["embedding"]),
    ]
    weights = {"weight": np.eye(3) * scale, "bias": np.full(3, -GRAY * scale)}
    return _model(nodes, weights, (batch, 3, 112, 112), (batch, 3))


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
    folder: Path, content: bytes, *, min_similarity: float | None = None, min_certainty: float | None = None
) -> Path:
    """Add an identity network to the model set in `folder`, with what was measured for it; return the folder."""
    (folder / "identity.onnx").write_bytes(content)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["components"]["identity"] = {"path": "identity.onnx", "name": "tiny-identity"}
    manifest["files"]["identity.onnx"] = {
        "sha256": hashlib.sha256(content).hexdigest(),
        "bytes": len(content),
    }
    if min_similarity is not None:
        manifest["identity"] = {"min_similarity": min_similarity}
        if min_certainty is not None:
            manifest["identity"]["min_certainty"] = min_certainty
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder
