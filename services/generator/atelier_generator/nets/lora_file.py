"""A LoRA in a safetensors file: its header, compared with the layers of the base, and its tensors.

For a layer of weight W a file has a matrix `down` (rank, in), one `up` (out, rank), and perhaps `alpha`:
W + weight * alpha / rank * up @ down (Hu et al., arXiv:2106.09685, section 4.1). Without an alpha that is the
rank. For a convolution `down` is a convolution of the same kernel, and `up` one of 1x1 (LoCon).
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from atelier_generator.nets import lora_kinds
from atelier_generator.nets.lora_layers import PARTS, Kind, Layer, split_key
from atelier_runtime.snapshot import Reader, open_regular, take
from atelier_runtime.weights import CheckpointError, read_checkpoint, read_snapshot

_MOST_HEADER_BYTES = (
    16 << 20
)  # of the largest LoRAs, some hundred kB; with the tags of their images, a few MB
_MOST_TRIGGER_WORDS = 20
_MOST_TRIGGER_CHARS = 100


class NotALora(ValueError):
    """A file is no LoRA for this base; the message says what it is, as a sentence that its name begins."""


@dataclass(frozen=True)
class Pair:
    """Where a file has one layer's matrices: their keys, the rank, and alpha, or the key of that.

    `counts`: the number of values under each key.
    """

    down: str
    up: str
    rank: int
    alpha_key: str | None
    alpha: float
    counts: Mapping[str, int]


@dataclass(frozen=True)
class LoraFile:
    """A LoRA whose header has been checked. `stamp`: what tells that the file is still the same."""

    name: str
    path: Path
    stamp: tuple[int, ...]
    pairs: Mapping[Layer, Pair]
    values: int
    trigger_words: tuple[str, ...]

    def bytes_in(self, dtype: torch.dtype) -> int:
        """Return what it takes in memory."""
        return self.values * dtype.itemsize


@dataclass(frozen=True)
class Delta:
    """What a LoRA adds to one layer: `scale` * up @ down, in the shapes of the layer's own weight."""

    down: Tensor
    up: Tensor
    scale: float

    @property
    def rank(self) -> int:
        """The number of rows of `down`."""
        return self.down.shape[0]


def stamp_of(path: Path) -> tuple[int, ...]:
    """Return what changes if a file is changed or replaced. Raises `CheckpointError`."""
    try:
        status = path.stat()
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}") from error
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def read_lora(path: Path, layers: Mapping[str, Layer]) -> LoraFile:
    """Read and check a file's header. Raises `NotALora` or `CheckpointError`."""
    stamp = stamp_of(path)
    tensors, metadata = _read_header(path)
    pairs = _pairs(tensors, metadata, layers)
    values = sum(pair.counts[pair.down] + pair.counts[pair.up] for pair in pairs.values())
    return LoraFile(path.stem, path, stamp, pairs, values, _trigger_words(metadata))


def read_deltas(file: LoraFile, dtype: torch.dtype, read: Reader = take) -> dict[Layer, Delta]:
    """Read a LoRA's tensors, on the CPU and in `dtype`.

    Raises `NotALora` for values that are not finite in it, or a file that changed since it was checked.
    """
    if stamp_of(file.path) != file.stamp:
        raise NotALora("has changed since the service started")
    stored = read_checkpoint(file.path, read=read)
    deltas = {}
    for layer, pair in file.pairs.items():
        if any(key not in stored or stored[key].numel() != count for key, count in pair.counts.items()):
            raise NotALora("has changed since the service started")
        alpha = float(stored[pair.alpha_key].float()) if pair.alpha_key else pair.alpha
        down, up = (stored[key].to(dtype) for key in (pair.down, pair.up))
        if not (math.isfinite(alpha) and torch.isfinite(down).all() and torch.isfinite(up).all()):
            raise NotALora(f"has values that are not finite in {str(dtype).removeprefix('torch.')}")
        kernel = layer.shape[2:]
        deltas[layer] = Delta(
            down.reshape(pair.rank, layer.shape[1], *kernel),
            up.reshape(layer.shape[0], pair.rank, *(1 for _ in kernel)),
            alpha / pair.rank,
        )
    return deltas


def _read_header(path: Path) -> tuple[dict[str, Tensor], Mapping[str, str]]:
    with open_regular(path) as file:
        length = int.from_bytes(file.read(8), "little")
    with take(path, beginning=8 + min(length, _MOST_HEADER_BYTES)) as snapshot:
        tensors = read_snapshot(snapshot, shapes_only=True)
        with safe_open(snapshot.path, "numpy") as header:
            return tensors, header.metadata() or {}


def _pairs(
    tensors: Mapping[str, Tensor], metadata: Mapping[str, str], layers: Mapping[str, Layer]
) -> dict[Layer, Pair]:
    if (problem := lora_kinds.special_kind(tensors)) is not None:
        raise NotALora(problem)
    found: dict[str, dict[Kind, str]] = {}
    others = []
    for key in sorted(tensors):
        if (split := split_key(key)) is None:
            others.append(key)
        elif split[1] in found.setdefault(split[0], {}):
            raise NotALora(
                f"has two tensors for one: {_quoted(key)} and {_quoted(found[split[0]][split[1]])}"
            )
        else:
            found[split[0]][split[1]] = key
    downs = {name: tuple(tensors[keys["down"]].shape) for name, keys in found.items() if "down" in keys}
    if not downs:
        raise NotALora(lora_kinds.kind_of_weights(tensors))
    if problem := lora_kinds.other_base(downs, _text_width(layers)):
        raise NotALora(problem)
    if others:
        raise NotALora(f"has tensors that are not a LoRA's: {_listed(others)}")
    if unknown := sorted(name for name in found if name not in layers):
        raise NotALora(f"is a LoRA for another network: this base does not have {_listed(unknown)}")
    stated = _stated_alphas(metadata)
    pairs: dict[Layer, Pair] = {}
    for name, keys in found.items():
        layer = layers[name]
        if layer in pairs:
            raise NotALora(f"has two names for one layer, {_quoted(name)} among them")
        pairs[layer] = _pair(name, layer, keys, tensors, stated)
    return pairs


def _pair(
    name: str, layer: Layer, keys: Mapping[Kind, str], tensors: Mapping[str, Tensor], stated: _Alphas
) -> Pair:
    for kind in ("down", "up"):
        if kind not in keys:
            raise NotALora(f"is incomplete: {_quoted(name)} has no {kind} matrix")
    down, up = tensors[keys["down"]], tensors[keys["up"]]
    rank = down.shape[0] if down.ndim else 0
    wanted = (rank, *layer.shape[1:]), (layer.shape[0], rank, *(1 for _ in layer.shape[2:]))
    for kind, tensor, shape in (("down", down, wanted[0]), ("up", up, wanted[1])):
        # 1x1 convolutions are stored as linear layers, and the other way round.
        if not rank or _without_ones(tensor.shape) != _without_ones(shape):
            raise NotALora(
                f"does not fit this base: {kind} of {_quoted(name)} has shape {_shape(tensor.shape)}; "
                f"for this layer it must be {_shape(shape)}"
            )
        if not tensor.is_floating_point():
            raise NotALora(f"has numbers of the type {tensor.dtype}, not floating point, in {_quoted(name)}")
    alpha_key = keys.get("alpha")
    if alpha_key is not None and tensors[alpha_key].numel() != 1:
        raise NotALora(f"has an alpha that is not one number: {_quoted(alpha_key)}")
    counts = {key: tensors[key].numel() for key in keys.values()}
    return Pair(keys["down"], keys["up"], rank, alpha_key, stated.of(layer, rank), counts)


class _Alphas:
    """What `save_lora_weights` of diffusers states in the metadata: alpha, for all layers or for some."""

    def __init__(self, stated: Mapping[str, Any]) -> None:
        self._stated = stated

    def of(self, layer: Layer, rank: int) -> float:
        """Return alpha; the rank if none is stated."""
        options = {key: self._stated.get(f"{layer.part}.{key}") for key in ("lora_alpha", "alpha_pattern")}
        alpha = rank if options["lora_alpha"] is None else options["lora_alpha"]
        pattern = options["alpha_pattern"]
        if isinstance(pattern, dict):
            matching = [key for key in pattern if layer.name == key or layer.name.endswith(f".{key}")]
            alpha = pattern[max(matching, key=len)] if matching else alpha
        if not isinstance(alpha, int | float) or not math.isfinite(alpha):
            raise NotALora(f"states an alpha that is not a number for {_quoted(layer.name)}")
        # Rank-stabilized LoRA (arXiv:2312.03732) divides by the root of the rank.
        return alpha * math.sqrt(rank) if self._stated.get(f"{layer.part}.use_rslora") else float(alpha)


def _stated_alphas(metadata: Mapping[str, str]) -> _Alphas:
    text = metadata.get("lora_adapter_metadata")
    if text is None:
        return _Alphas({})
    try:
        stated = json.loads(text)
    except (ValueError, RecursionError):
        stated = None
    if not isinstance(stated, dict):
        raise NotALora("has metadata that are not a JSON object (lora_adapter_metadata)")
    for part in PARTS:
        if stated.get(f"{part}.use_dora"):
            raise NotALora("is a DoRA, which is not read here")
    return _Alphas(stated)


def _trigger_words(metadata: Mapping[str, str]) -> tuple[str, ...]:
    """Return what the ModelSpec standard calls trigger phrases."""
    words = (word.strip() for word in metadata.get("modelspec.trigger_phrase", "").split(","))
    printable = (word for word in words if word.isprintable() and 0 < len(word) <= _MOST_TRIGGER_CHARS)
    return tuple(islice(printable, _MOST_TRIGGER_WORDS))


def _text_width(layers: Mapping[str, Layer]) -> int:
    return next(layer.shape[1] for name, layer in layers.items() if name.endswith("attn2.to_k"))


def _without_ones(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the first two sides of a weight, and its kernel unless that is 1x1."""
    kernel = tuple(shape[2:])
    return (*shape[:2], *(() if set(kernel) <= {1} else kernel))


def _shape(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) or "none"


def _quoted(key: str) -> str:
    return ascii(key[:100])


def _listed(keys: list[str]) -> str:
    more = f" and {len(keys) - 3} more" if len(keys) > 3 else ""
    return ", ".join(map(_quoted, keys[:3])) + more
