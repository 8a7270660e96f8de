"""What `atelier-generator inspect` says of a model set, a folder in diffusers' layout or a single file.

Only headers are read, and every byte once for its SHA-256: a checkpoint of any size needs little memory. The
exception is a set's upscaler, which spandrel can only name by building it; the known ones are below 0.1 GB.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from atelier_generator.nets.published import Kind, configuration
from atelier_generator.nets.reading import read_pipeline
from atelier_generator.nets.stored import StoredNetwork, empty_network
from atelier_generator.nets.stored_pipeline import StoredPipeline
from atelier_runtime.service_status import NetworkRole
from atelier_runtime.upscaler import Upscaler
from atelier_runtime.weights import (
    CheckpointError,
    Component,
    ModelSet,
    describe_checkpoint,
    read_checkpoint,
    sha256,
)

# What a configuration says of where it comes from and how it is stored, not of the network.
_ABOUT_THE_FILE = (
    *("_class_name", "_diffusers_version", "_name_or_path", "_use_default_values"),
    *("architectures", "dtype", "torch_dtype", "transformers_version"),
)


def inspect(path: Path) -> dict[str, Any]:
    """Return the description of what lies at `path`, as plain JSON values.

    Raises `CheckpointError` or `StartupError` for what is not ours, not whole, or not what its manifest says.
    """
    if (path / "manifest.json").is_file():
        return _describe_set(ModelSet.open(str(path)))
    if path.is_dir() and not (path / "model_index.json").is_file():
        raise CheckpointError(
            f"{path} has neither a manifest.json, as a model set has, "
            "nor a model_index.json, as a folder in diffusers' layout has"
        )
    stored = read_pipeline(path)
    stored.check()
    return _describe(stored)


def _describe_set(model_set: ModelSet) -> dict[str, Any]:
    described: dict[str, Any] = {"model_set": model_set.name, "folder": str(model_set.folder)}
    base = read_pipeline(model_set.require(NetworkRole.BASE).path)
    base.require("base")
    base.check()
    described["base"] = _describe(base)
    if component := model_set.component(NetworkRole.REFINER):
        refiner = read_pipeline(component.path)
        refiner.require("refiner")
        refiner.check(base)
        described["refiner"] = _describe(refiner)
    if component := model_set.component(NetworkRole.UPSCALER):
        described["upscaler"] = _describe_upscaler(component)
    _compare_with_manifest(model_set, described)
    return described


def _describe(stored: StoredPipeline) -> dict[str, Any]:
    described: dict[str, Any] = {"path": str(stored.path), "pipeline": stored.kind, "layout": stored.layout}
    files = {path: _file(path) for network in stored.networks.values() for path in network.files}
    if stored.layout == "single file":
        described["files"] = list(files.values())
    described["parameters"] = 0
    described["components"] = {}
    for part, network in stored.networks.items():
        component = _describe_network(network, stored.kind)
        if stored.layout != "single file":
            component["files"] = [files[path] for path in network.files]
        described["components"][part] = component
        described["parameters"] += component["parameters"]
    return described


def _describe_network(network: StoredNetwork, kind: Kind) -> dict[str, Any]:
    empty = network.empty()
    published = empty_network(network.part, configuration(kind, network.part))
    return {
        "class": network.class_name,
        "configuration": _plain_config(empty),
        "as_published": _said(empty) == _said(published),
        "parameters": sum(parameter.numel() for parameter in empty.parameters()),
        "dtype": _formats(network.tensors),
    }


def _plain_config(network: Any) -> dict[str, Any]:
    """Return the whole configuration, with the class's own values where a file is silent."""
    config = network.config
    values = dict(config) if isinstance(config, Mapping) else config.to_diff_dict()
    return {name: value for name, value in sorted(values.items()) if name not in _ABOUT_THE_FILE}


def _said(network: Any) -> dict[str, Any]:
    """Return what a configuration switches on: files write "no" as null, as false, or not at all."""
    return {name: value for name, value in _plain_config(network).items() if value not in (None, False)}


def _describe_upscaler(component: Component) -> dict[str, Any]:
    upscaler = Upscaler.load(component, torch.device("cpu"), torch.float32)
    tensors = read_checkpoint(component.path, shapes_only=True)
    described = describe_checkpoint(component.path, tensors)
    files = [{key: described[key] for key in ("file", "bytes", "sha256")}]
    return {
        "name": component.name,
        "architecture": upscaler.architecture,
        "scale": upscaler.factor,
        "parameters": described["parameters"],
        "dtype": described["dtype"],
        "files": files,
    }


def _file(path: Path) -> dict[str, Any]:
    return {"file": str(path), "bytes": path.stat().st_size, "sha256": sha256(path)}


def _formats(tensors: Mapping[str, Tensor]) -> str:
    found = {
        str(tensor.dtype).removeprefix("torch.") for tensor in tensors.values() if tensor.is_floating_point()
    }
    return ", ".join(sorted(found))


def _compare_with_manifest(model_set: ModelSet, described: Any) -> None:
    """Raise `CheckpointError` where a file's SHA-256, just computed, is not the manifest's."""
    if isinstance(described, dict) and "sha256" in described:
        name = Path(described["file"]).relative_to(model_set.folder).as_posix()
        expected = model_set.files.get(name, {}).get("sha256")
        if described["sha256"] != expected:
            raise CheckpointError(
                f"{described['file']} has SHA-256 {described['sha256']}, "
                f"the manifest says {expected or 'nothing'}"
            )
    elif isinstance(described, dict | list):
        for value in described.values() if isinstance(described, dict) else described:
            _compare_with_manifest(model_set, value)
