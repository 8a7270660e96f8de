"""SDXL in diffusers' layout, as it is published: one folder per network, each with its configuration."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import diffusers
from torch import Tensor
from transformers import CLIPTokenizer

from atelier_generator.nets.published import Kind
from atelier_generator.nets.stored import CLASSES, Origin, StoredNetwork, check_counts
from atelier_generator.nets.stored_pipeline import StoredPipeline
from atelier_runtime.snapshot import Reader, take
from atelier_runtime.weights import CheckpointError, read_checkpoint

_PIPELINES = (
    "StableDiffusionXLPipeline",
    "StableDiffusionXLImg2ImgPipeline",
    "StableDiffusionXLInpaintPipeline",
)
_TOKENIZERS = ("CLIPTokenizer", "CLIPTokenizerFast")
_VARIANTS = ("", "fp16", "bf16")  # if a folder has several, the first of these is read
_MOST_JSON_BYTES = 16 << 20
_OLD_ATTENTION = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}


def read_folder(folder: Path, read: Reader = take) -> StoredPipeline:
    """Read configurations and headers. Raises `CheckpointError` for anything but SDXL, saying what it is."""
    path = folder / "model_index.json"
    index = _json(path, read)
    for part in (*CLASSES, "scheduler", "tokenizer", "tokenizer_2"):
        if not _is_class_of_part(index.get(part)):
            raise CheckpointError(f"{path}: {part} must be a list of a library and a class")
    pipeline = index.get("_class_name")
    if pipeline not in _PIPELINES:
        raise CheckpointError(f"{folder} is a {pipeline}, not one of {', '.join(_PIPELINES)}")
    kind: Kind = "base" if (index.get("text_encoder") or [None])[0] else "refiner"
    parts = [part for part in CLASSES if (index.get(part) or [None])[0]]
    if kind == "refiner":
        # The VAE and the text encoder come from the base. If the folder has its own, they are checked too.
        parts = [part for part in parts if part == "unet" or list((folder / part).glob("*.safetensors"))]
    networks: dict[str, StoredNetwork] = {}
    if "unet" in parts:
        networks["unet"] = unet = _network(folder, "unet", index, read)
        if _inpaints(unet) and not all(list((folder / part).glob("*.safetensors")) for part in parts):
            parts = ["unet"]  # likewise, with both text encoders
    if kind == "base" and parts != ["unet"] and (missing := [part for part in CLASSES if part not in parts]):
        raise CheckpointError(f"{folder}: its model_index.json does not list {', '.join(missing)}")
    return StoredPipeline(
        path=folder,
        layout="folder",
        kind=kind,
        networks={part: networks.get(part) or _network(folder, part, index, read) for part in parts},
        settings={name: value for name, value in index.items() if isinstance(value, bool)},
        scheduler=partial(_scheduler, folder, index, read),
        tokenizer=partial(_tokenizer, folder, index, read),
    )


def weight_files(folder: Path, read: Reader = take) -> tuple[Path, ...]:
    """Return the weights of a network's preferred variant: one file, or all of its shard_index.

    Raises `CheckpointError` if there are none.
    """
    for variant in _VARIANTS:
        middle = f".{variant}" if variant else ""
        for stem in ("diffusion_pytorch_model", "model"):
            shard_index = folder / f"{stem}.safetensors.index{middle}.json"
            if shard_index.is_file():
                return tuple(folder / name for name in _shards(shard_index, read))
            if (path := folder / f"{stem}{middle}.safetensors").is_file():
                return (path,)
    others = (
        sorted(path.name for path in folder.glob("*") if path.name != "config.json")
        if folder.is_dir()
        else []
    )
    found = f"; it has {', '.join(others[:10])}" if others else ""
    raise CheckpointError(f"there are no safetensors weights in {folder}{found}")


def _inpaints(unet: StoredNetwork) -> bool:
    """Return whether a UNet takes in a mask (1 channel) and a masked image besides the latents."""
    taken, given = unet.config.get("in_channels"), unet.config.get("out_channels", 4)
    return isinstance(taken, int) and isinstance(given, int) and taken == 2 * given + 1


def _is_class_of_part(entry: object) -> bool:
    if entry is None:
        return True
    return isinstance(entry, list) and len(entry) == 2 and all(e is None or isinstance(e, str) for e in entry)


def _shards(shard_index: Path, read: Reader) -> list[str]:
    """Return the names of the files that an index lists, which must be next to it."""
    shards = _json(shard_index, read).get("weight_map")
    if not isinstance(shards, dict) or not shards:
        raise CheckpointError(f"{shard_index}: weight_map must be an object of tensors and their files")
    for name in shards.values():
        if not isinstance(name, str) or name in ("", ".", "..") or Path(name).name != name:
            raise CheckpointError(f"{shard_index}: {name!r:.60} is not the name of a file next to it")
    return sorted(set(shards.values()))


def _network(folder: Path, part: str, index: Mapping[str, Any], read: Reader) -> StoredNetwork:
    if index[part][1] != CLASSES[part]:
        raise CheckpointError(f"{folder}: its {part} is a {index[part][1]}, not a {CLASSES[part]}")
    config = _json(folder / part / "config.json", read)
    files = weight_files(folder / part, read)
    tensors: dict[str, Tensor] = {}
    for path in files:
        tensors |= read_checkpoint(path, shapes_only=True, read=read)
    return StoredNetwork(part, config, files, tensors, partial(_origins, tensors), _is_leftover, read)


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
    # Saved by transformers before 4.31, and for a CLIPTextModelWithProjection, whose projection SDXL's first
    # encoder does not use. The second has it among its own tensors.
    return key.endswith("position_ids") or key == "text_projection.weight"


def _scheduler(folder: Path, index: Mapping[str, Any], read: Reader) -> Any:
    name = (index.get("scheduler") or [None, None])[1]
    scheduler = getattr(diffusers, str(name), None)
    if not isinstance(scheduler, type) or not issubclass(scheduler, diffusers.SchedulerMixin):
        raise CheckpointError(f"{folder}: {name} in its model_index.json is not a scheduler of diffusers")
    path = folder / "scheduler" / "scheduler_config.json"
    config = _json(path, read)
    check_counts(str(path), config)
    try:
        return scheduler.from_config(config)
    except Exception as error:  # whatever a value that makes no sense leads to
        raise CheckpointError(f"{path}: cannot build {name} with this configuration: {error}") from error


def _tokenizer(folder: Path, index: Mapping[str, Any], read: Reader, part: str) -> CLIPTokenizer:
    name = (index.get(part) or [None, None])[1]
    if name not in _TOKENIZERS:
        raise CheckpointError(f"{folder}: its {part} is a {name}, not a CLIPTokenizer")
    # transformers reads a folder: give it one of copies that have been compared with the manifest.
    with tempfile.TemporaryDirectory(prefix="atelier-") as copies:
        for path in sorted((folder / part).glob("*")):
            if path.is_file():
                with read(path) as snapshot:
                    Path(copies, path.name).write_bytes(snapshot.read())
        try:
            tokenizer: CLIPTokenizer = CLIPTokenizer.from_pretrained(copies, local_files_only=True)
        except Exception as error:  # whatever a file that makes no sense leads to
            reason = str(error).replace(copies, str(folder / part))
            raise CheckpointError(f"{folder}: the {part} cannot be read: {reason}") from error
    return tokenizer


def _json(path: Path, read: Reader) -> dict[str, Any]:
    try:
        if path.is_file() and path.stat().st_size > _MOST_JSON_BYTES:
            raise ValueError(f"it has more than {_MOST_JSON_BYTES} bytes")
        with read(path) as snapshot:
            data = json.loads(snapshot.read())
    except CheckpointError:
        raise
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error
    if not isinstance(data, dict):
        raise CheckpointError(f"{path} does not contain a JSON object")
    return data
