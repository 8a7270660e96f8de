"""SDXL in diffusers' layout, as it is published: one folder per network, each with its configuration."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import diffusers
from torch import Tensor
from transformers import CLIPTokenizer

from atelier_generator.nets.published import Kind
from atelier_generator.nets.stored import CLASSES, Origin, StoredNetwork
from atelier_generator.nets.stored_pipeline import StoredPipeline
from atelier_runtime.weights import CheckpointError, read_checkpoint

_PIPELINES = ("StableDiffusionXLPipeline", "StableDiffusionXLImg2ImgPipeline")
_TOKENIZERS = ("CLIPTokenizer", "CLIPTokenizerFast")
_VARIANTS = ("", "fp16", "bf16")  # if a folder has several, the first of these is read
_OLD_ATTENTION = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}


def read_folder(folder: Path) -> StoredPipeline:
    """Read configurations and headers. Raises `CheckpointError` for anything but SDXL, saying what it is."""
    index = _json(folder / "model_index.json")
    pipeline = index.get("_class_name")
    if pipeline not in _PIPELINES:
        raise CheckpointError(f"{folder} is a {pipeline}, not one of {', '.join(_PIPELINES)}")
    kind: Kind = "base" if (index.get("text_encoder") or [None])[0] else "refiner"
    parts = [part for part in CLASSES if (index.get(part) or [None])[0]]
    if kind == "refiner":
        # The VAE and the text encoder come from the base. If the folder has its own, they are checked too.
        parts = [part for part in parts if part == "unet" or list((folder / part).glob("*.safetensors"))]
    elif missing := [part for part in CLASSES if part not in parts]:
        raise CheckpointError(f"{folder}: its model_index.json does not list {', '.join(missing)}")
    return StoredPipeline(
        path=folder,
        layout="folder",
        kind=kind,
        networks={part: _network(folder, part, index) for part in parts},
        settings={name: value for name, value in index.items() if isinstance(value, bool)},
        scheduler=partial(_scheduler, folder, index),
        tokenizer=partial(_tokenizer, folder, index),
    )


def weight_files(folder: Path) -> tuple[Path, ...]:
    """Return the weights of a network's preferred variant: one file, or all of its shard_index.

    Raises `CheckpointError` if there are none.
    """
    for variant in _VARIANTS:
        middle = f".{variant}" if variant else ""
        for stem in ("diffusion_pytorch_model", "model"):
            shard_index = folder / f"{stem}.safetensors.index{middle}.json"
            if shard_index.is_file():
                return tuple(folder / name for name in sorted(set(_json(shard_index)["weight_map"].values())))
            if (path := folder / f"{stem}{middle}.safetensors").is_file():
                return (path,)
    others = (
        sorted(path.name for path in folder.glob("*") if path.name != "config.json")
        if folder.is_dir()
        else []
    )
    found = f"; it has {', '.join(others[:10])}" if others else ""
    raise CheckpointError(f"there are no safetensors weights in {folder}{found}")


def _network(folder: Path, part: str, index: Mapping[str, Any]) -> StoredNetwork:
    if index[part][1] != CLASSES[part]:
        raise CheckpointError(f"{folder}: its {part} is a {index[part][1]}, not a {CLASSES[part]}")
    config = _json(folder / part / "config.json")
    files = weight_files(folder / part)
    tensors: dict[str, Tensor] = {}
    for path in files:
        tensors |= read_checkpoint(path, shapes_only=True)
    return StoredNetwork(part, config, files, tensors, partial(_origins, tensors), _is_leftover)


def _origins(tensors: Mapping[str, Tensor], names: Iterable[str]) -> dict[str, Origin]:
    """Find each tensor by its current name, or by its name in older versions of the libraries."""
    stored = {_current_name(key): key for key in tensors}
    return {name: Origin(stored.get(_current_name(name), name)) for name in names}


def _current_name(key: str) -> str:
    first, _, rest = key.removeprefix("text_model.").rpartition(".mid_block.attentions.0.")
    module, _, kind = rest.rpartition(".")
    if first and module in _OLD_ATTENTION:
        return f"{first}.mid_block.attentions.0.{_OLD_ATTENTION[module]}.{kind}"
    return key.removeprefix("text_model.")


def _is_leftover(key: str) -> bool:
    return key.endswith("position_ids")  # saved by transformers before 4.31


def _scheduler(folder: Path, index: Mapping[str, Any]) -> Any:
    name = (index.get("scheduler") or [None, None])[1]
    scheduler = getattr(diffusers, str(name), None)
    if scheduler is None or not issubclass(scheduler, diffusers.SchedulerMixin):
        raise CheckpointError(f"{folder}: {name} in its model_index.json is not a scheduler of diffusers")
    return scheduler.from_config(_json(folder / "scheduler" / "scheduler_config.json"))


def _tokenizer(folder: Path, index: Mapping[str, Any], part: str) -> CLIPTokenizer:
    name = (index.get(part) or [None, None])[1]
    if name not in _TOKENIZERS:
        raise CheckpointError(f"{folder}: its {part} is a {name}, not a CLIPTokenizer")
    try:
        tokenizer: CLIPTokenizer = CLIPTokenizer.from_pretrained(folder / part, local_files_only=True)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{folder}: the {part} cannot be read: {error}") from error
    return tokenizer


def _json(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error
    if not isinstance(data, dict):
        raise CheckpointError(f"{path} does not contain a JSON object")
    return data
