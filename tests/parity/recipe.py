"""Weights and pictures from a seed, the same on every machine.

The published checkpoints are not available here, but their shapes are. Each tensor is drawn from a generator
of its own, seeded with the tensor's name, and scaled so that the networks' outputs stay in a sane range. The
goldens in this folder are the reference implementations' outputs with these weights. numpy does not promise
the same stream forever, so what is drawn is compared with the goldens' fingerprints before it is used.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

FOLDER = Path(__file__).parent

# The first of these substrings that a key contains decides its gain; otherwise it is 1.
_GAINS = (
    ("body.conv1.", 1 / 48),
    ("body.stage1.0.0.", 1 / 48),
    ("body.stage", 1.5),
    ("fpn.", 1.4),
    ("ssh", 1.4),
    ("Head.", 1.5),
    ("rdb", 0.6),
    ("conv_last", 0.2),
    ("conv_hr", 0.5),
    ("generator.blocks.24.", 0.45),
    ("fuse_convs_dict", 0.7),
    ("out_proj", 0.3),
    ("linear2", 0.5),
    ("feat_emb", 4.0),
    ("idx_pred_layer", 2.0),
)
_BACKGROUND_LOGIT = 0.5

# The images that the goldens are outputs for: name of the stream, height, width.
_PICTURES = {
    "codeformer": ("codeformer", 512, 512),
    "parsenet": ("parsenet", 512, 512),
    "retinaface_resnet50": ("retinaface", 256, 320),
    "retinaface_mobile025": ("retinaface", 256, 320),
    "realesrgan_x2plus": ("realesrgan", 48, 64),
    "realesrgan_x4plus": ("realesrgan", 48, 64),
}


class StreamChanged(AssertionError):
    """numpy draws other numbers than when the goldens were made, so they are not comparable."""


def manifest(network: str) -> dict[str, dict[str, Any]]:
    """Return key -> {"shape", "dtype"} of a published checkpoint."""
    text = (FOLDER / "manifests" / f"{network}.json").read_text(encoding="utf-8")
    entries: dict[str, dict[str, Any]] = json.loads(text)
    return entries


def golden(name: str) -> Any:
    """Return the arrays of a golden file by name."""
    return np.load(FOLDER / "goldens" / f"{name}.npz")


def weights(entries: Mapping[str, Mapping[str, Any]], seed: int) -> dict[str, np.ndarray]:
    """Return arrays of the manifest's shapes."""
    return {key: _tensor(key, tuple(e["shape"]), e["dtype"], seed) for key, e in sorted(entries.items())}


def state_dict(network: str, seed: int) -> dict[str, torch.Tensor]:
    """Return a checkpoint of a published network's keys and shapes.

    Raises `StreamChanged` if there are goldens for this seed and they were made with other weights.
    """
    arrays = weights(manifest(network), seed)
    digest = hashlib.sha256()
    for key, array in arrays.items():
        digest.update(key.encode())
        digest.update(array.tobytes())
    _compare(f"the weights of {network}", network, "weights", seed, digest.hexdigest()[:16])
    return {key: torch.from_numpy(array) for key, array in arrays.items()}


def picture(network: str, seed: int) -> np.ndarray:
    """Return the image (uint8 RGB) that a network's golden is the output for.

    Raises `StreamChanged` as `state_dict` does.
    """
    name, height, width = _PICTURES[network]
    pixels = image(name, seed, height, width)
    _compare(f"the picture '{name}'", network, "image", seed, fingerprint(pixels))
    return pixels


def _compare(what: str, network: str, entry: str, seed: int, found: str) -> None:
    path = FOLDER / "goldens" / f"meta_s{seed}.json"
    if not path.exists():
        return  # a seed without goldens has nothing to compare with
    expected = json.loads(path.read_text(encoding="utf-8"))[network][entry]
    if found != expected:
        raise StreamChanged(
            f"{what}, seed {seed}, has fingerprint {found}, the goldens were made with {expected}: "
            f"numpy {np.__version__} draws another stream"
        )


def image(name: str, seed: int, height: int, width: int, grid: int = 16, noise: float = 12.0) -> np.ndarray:
    """Return a picture (height, width, 3) of uint8: soft patches of color, and noise."""
    generator = _generator(f"image:{name}", seed)
    corners = generator.uniform(20.0, 235.0, (grid + 1, grid + 1, 3))
    y, x = (np.arange(length) * (grid / length) for length in (height, width))
    i, j = y.astype(int), x.astype(int)
    v, u = (y - i)[:, None, None], (x - j)[None, :, None]
    top = corners[i][:, j] * (1 - u) + corners[i][:, j + 1] * u
    bottom = corners[i + 1][:, j] * (1 - u) + corners[i + 1][:, j + 1] * u
    pixels = top * (1 - v) + bottom * v + noise * generator.standard_normal((height, width, 3))
    return np.asarray(np.clip(np.rint(pixels), 0, 255), np.uint8)


def _generator(key: str, seed: int) -> np.random.Generator:
    digest = hashlib.sha256(f"{seed}:{key}".encode()).digest()
    return np.random.Generator(np.random.PCG64(int.from_bytes(digest[:16], "little")))


def _tensor(key: str, shape: tuple[int, ...], dtype: str, seed: int) -> np.ndarray:
    if not dtype.startswith("float"):
        return np.zeros(shape, dtype)
    draw = _generator(key, seed).standard_normal(shape, dtype=np.float32)
    scale, offset = 0.05, 0.0  # biases and running means
    if key == "position_emb" or "embedding" in key:
        scale = 1.0
    elif len(shape) > 1:
        scale = next((gain for part, gain in _GAINS if part in key), 1.0) / np.sqrt(int(np.prod(shape[1:])))
    elif key.endswith("running_var"):
        draw, scale, offset = np.abs(draw), 0.2, 0.9
    elif key.endswith("weight"):
        scale, offset = 0.1, 1.0
    tensor = draw * np.float32(scale) + np.float32(offset)
    if "Head." in key and len(shape) > 1:
        tensor -= tensor.mean(axis=1, keepdims=True)
    if "ClassHead" in key and key.endswith("bias"):
        tensor[0::2] += np.float32(_BACKGROUND_LOGIT)
    return tensor.astype(np.float32)


def fingerprint(array: np.ndarray) -> str:
    """Return the start of an array's SHA-256."""
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()[:16]
