"""What `atelier-generator inspect` reports about a model set, a folder in diffusers' layout or a single file.

Only headers are parsed, and each file is read once for its SHA-256, so a checkpoint of any size needs little
memory. The exception is a set's upscaler, which spandrel must build to identify; known ones are below 0.1 GB.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from atelier_generator.lora_folder import LoraFolder
from atelier_generator.nets.lora_layers import PARTS, layers_by_name
from atelier_generator.nets.published import Kind, configuration
from atelier_generator.nets.reading import read_pipeline
from atelier_generator.nets.stored import StoredNetwork, empty_network
from atelier_generator.nets.stored_pipeline import Role, StoredPipeline
from atelier_generator.samplers import sampler_of
from atelier_generator.scheduling import names_of, options_of
from atelier_runtime.service_status import NetworkRole
from atelier_runtime.snapshot import take
from atelier_runtime.upscaler import Upscaler
from atelier_runtime.weights import (
    CheckpointError,
    Component,
    ModelSet,
    describe_checkpoint,
    read_checkpoint,
    sha256,
)

# Fields of a configuration that describe its origin and its storage, not the network.
_FILE_FIELDS = (
    *("_class_name", "_diffusers_version", "_name_or_path", "_use_default_values"),
    *("architectures", "dtype", "torch_dtype", "transformers_version"),
)


def inspect(path: Path) -> dict[str, Any]:
    """Describe the model set, folder or file at `path` in plain JSON values.

    Raises `CheckpointError` or `StartupError` if it is not SDXL, is incomplete or contradicts its manifest.
    """
    if path.is_dir() and (path / "manifest.json").is_file():
        return _describe_set(ModelSet.open(str(path)))
    if path.is_dir() and not (path / "model_index.json").is_file():
        raise CheckpointError(
            f"{path} has neither a manifest.json (a model set) "
            "nor a model_index.json (a folder in diffusers' layout)"
        )
    stored = read_pipeline(path)
    stored.check()
    return _describe(stored)


def _describe_set(model_set: ModelSet) -> dict[str, Any]:
    description: dict[str, Any] = {"model_set": model_set.name, "folder": str(model_set.folder)}
    model_set.check_files(NetworkRole.BASE, NetworkRole.REFINER, NetworkRole.INPAINT, NetworkRole.UPSCALER)
    base = read_pipeline(model_set.require(NetworkRole.BASE).path)
    base.check_for("base")
    description["base"] = _describe(base)
    roles: tuple[Role, ...] = ("refiner", "inpaint")
    for role in roles:
        if component := model_set.component(NetworkRole(role)):
            stored = read_pipeline(component.path)
            stored.check_for(role, base)
            description[role] = _describe(stored)
    if component := model_set.component(NetworkRole.UPSCALER):
        description["upscaler"] = _describe_upscaler(component)
    description["loras"] = _describe_loras(model_set, base)
    _compare_with_manifest(model_set, description)
    return description


def _describe(stored: StoredPipeline) -> dict[str, Any]:
    kind: Role = "inpaint" if stored.inpaints else stored.kind
    description: dict[str, Any] = {"path": str(stored.path), "pipeline": kind, "layout": stored.layout}
    files = {path: _describe_file(path) for network in stored.networks.values() for path in network.files}
    if stored.layout == "single file":
        description["files"] = list(files.values())
    description["scheduler"] = _describe_scheduler(stored.scheduler())
    description["parameters"] = 0
    description["components"] = {}
    for part, network in stored.networks.items():
        component = _describe_network(network, stored.kind)
        if stored.layout != "single file":
            component["files"] = [files[path] for path in network.files]
        description["components"][part] = component
        description["parameters"] += component["parameters"]
    return description


def _describe_scheduler(scheduler: Any) -> dict[str, Any]:
    options = options_of(scheduler)
    _, schedule = names_of(scheduler)
    return {
        "class": type(scheduler).__name__,
        "sampler": sampler_of(type(scheduler).__name__, options),
        "schedule": schedule,
        "prediction_type": options.get("prediction_type"),
        "zero_terminal_snr": bool(options.get("rescale_betas_zero_snr")),
    }


def _describe_loras(model_set: ModelSet, base: StoredPipeline) -> dict[str, Any]:
    """Describe the files of the set's folder of LoRAs: those that requests may name, and what others are."""
    layers = layers_by_name({part: base.networks[part].empty() for part in PARTS})
    folder = LoraFolder.open("", model_set, layers, sys.maxsize, torch.float32)
    offered = [
        {
            "name": file.name,
            "layers": len(file.pairs),
            "parameters": file.values,
            "trigger_words": file.trigger_words,
            "files": [_describe_file(file.path)] if folder.is_listed(file) else [],
        }
        for file in folder.offered.values()
    ]
    return {"offered": offered, "not_offered": dict(folder.refused)}


def _describe_network(network: StoredNetwork, kind: Kind) -> dict[str, Any]:
    empty = network.empty()
    published = empty_network(network.part, configuration(kind, network.part))
    return {
        "class": network.class_name,
        "configuration": _plain_config(empty),
        "as_published": _enabled_options(empty) == _enabled_options(published),
        "parameters": sum(parameter.numel() for parameter in empty.parameters()),
        "dtype": _dtypes(network.tensors),
    }


def _plain_config(network: Any) -> dict[str, Any]:
    """Return the full configuration: what a file omits has the class's default."""
    config = network.config
    values = dict(config) if isinstance(config, Mapping) else config.to_diff_dict()
    return {name: value for name, value in sorted(values.items()) if name not in _FILE_FIELDS}


def _enabled_options(network: Any) -> dict[str, Any]:
    """Return the options that are not off: files store "off" as null, as false, or not at all."""
    return {name: value for name, value in _plain_config(network).items() if value not in (None, False)}


def _describe_upscaler(component: Component) -> dict[str, Any]:
    unverified = replace(component, read=take)  # the whole set is compared in the end
    upscaler = Upscaler.load(unverified, torch.device("cpu"), torch.float32)
    tensors = read_checkpoint(component.path, shapes_only=True)
    description = describe_checkpoint(component.path, tensors)
    files = [{key: description[key] for key in ("file", "bytes", "sha256")}]
    return {
        "name": component.name,
        "architecture": upscaler.architecture,
        "scale": upscaler.factor,
        "parameters": description["parameters"],
        "dtype": description["dtype"],
        "files": files,
    }


def _describe_file(path: Path) -> dict[str, Any]:
    return {"file": str(path), "bytes": path.stat().st_size, "sha256": sha256(path)}


def _dtypes(tensors: Mapping[str, Tensor]) -> str:
    found = {
        str(tensor.dtype).removeprefix("torch.") for tensor in tensors.values() if tensor.is_floating_point()
    }
    return ", ".join(sorted(found))


def _compare_with_manifest(model_set: ModelSet, description: Any) -> None:
    """Raise `CheckpointError` if a file's SHA-256, just computed, differs from the manifest's."""
    if isinstance(description, dict) and "sha256" in description:
        name = Path(description["file"]).relative_to(model_set.folder).as_posix()
        expected = model_set.files.get(name, {}).get("sha256")
        if description["sha256"] != expected:
            raise CheckpointError(
                f"{description['file']} has SHA-256 {description['sha256']}, "
                f"the manifest lists {expected or 'none'}"
            )
    elif isinstance(description, dict | list):
        for value in description.values() if isinstance(description, dict) else description:
            _compare_with_manifest(model_set, value)
