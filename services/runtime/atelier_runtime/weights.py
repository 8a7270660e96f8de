"""Model sets and their weights: read from disk, checked by SHA-256, never fetched, never unpickled freely.

A model set is a folder with a `manifest.json`: name, licence, `max_side`, `size_multiple`,
`default_negative_prompt`, `guidance_rescale`, `components` (role -> path and name) and `files` (path ->
SHA-256 and size).
"""

from __future__ import annotations

import hashlib
import importlib
import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from atelier_runtime.settings import StartupError

log = logging.getLogger(__name__)

BUILT_IN = "demo"
ROLES = ("base", "refiner", "upscaler", "detector", "codeformer", "parser")


@dataclass(frozen=True)
class Component:
    """One network of a set: a file, or a folder in diffusers' layout."""

    role: str
    name: str
    path: Path


@dataclass(frozen=True)
class ModelSet:
    """An opened model set.

    `max_side` is None where the base network draws well at any size. `guidance_rescale` (0 to 1) takes
    back the overexposure that strong guidance causes in small and v-predicting networks (Lin et al. 2023,
    arXiv:2305.08891, section 3.4); 0 for SDXL.
    """

    name: str
    folder: Path
    license: str
    max_side: int | None
    size_multiple: int
    default_negative_prompt: str
    guidance_rescale: float
    components: Mapping[str, Component]
    files: Mapping[str, Mapping[str, Any]]

    @classmethod
    def open(cls, setting: str) -> ModelSet:
        """Open the built-in set (`demo`) or the folder that a MODEL_SET setting names.

        Raises `StartupError`, naming the setting, if the manifest is missing or cannot be used.
        """
        if setting == BUILT_IN:
            try:
                folder = Path(importlib.import_module("atelier_demo_models").path())
            except ModuleNotFoundError as error:
                raise StartupError("MODEL_SET=demo: atelier-demo-models is not installed") from error
        else:
            folder = Path(setting)
        manifest = folder / "manifest.json"
        if not manifest.is_file():
            raise StartupError(f"MODEL_SET={setting}: there is no file {manifest}")
        try:
            return cls._parse(folder, json.loads(manifest.read_text(encoding="utf-8")))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise StartupError(f"MODEL_SET={setting}: {manifest} cannot be used: {error!r}") from error

    @classmethod
    def _parse(cls, folder: Path, data: Mapping[str, Any]) -> ModelSet:
        components = {}
        for role, entry in data["components"].items():
            if role not in ROLES:
                raise ValueError(f"components.{role} is unknown; known are {', '.join(ROLES)}")
            path = folder / entry["path"]
            if folder.resolve() not in path.resolve().parents:
                raise ValueError(f"components.{role}.path leads out of the set: {entry['path']}")
            components[role] = Component(role, entry["name"], path)
        return cls(
            name=data["name"],
            folder=folder,
            license=data["license"],
            max_side=data.get("max_side"),
            size_multiple=data.get("size_multiple", 8),
            default_negative_prompt=data.get("default_negative_prompt", ""),
            guidance_rescale=float(data.get("guidance_rescale", 0.0)),
            components=components,
            files=data["files"],
        )

    def component(self, role: str) -> Component | None:
        """Return a component, None if the set has none of that role."""
        return self.components.get(role)

    def require(self, role: str) -> Component:
        """Return a component; raise `StartupError` if the set has none of that role."""
        component = self.component(role)
        if component is None:
            raise StartupError(f"MODEL_SET: the set '{self.name}' in {self.folder} has no {role}")
        return component

    def verify(self, *roles: str) -> None:
        """Compare the files of some components with the manifest's SHA-256, and log each sum.

        Raises `StartupError` naming the first file that is missing, unlisted or different.
        """
        for role in roles:
            component = self.component(role)
            if component is None:
                continue
            found = sorted(component.path.rglob("*")) if component.path.is_dir() else [component.path]
            for path in (p for p in found if not p.is_dir()):
                self._verify_file(path)
            listed = [f for f in self.files if (self.folder / f).is_relative_to(component.path)]
            for missing in (f for f in listed if not (self.folder / f).is_file()):
                raise StartupError(f"MODEL_SET: {missing} is missing in {self.folder}")

    def _verify_file(self, path: Path) -> None:
        relative = path.relative_to(self.folder).as_posix()
        if not path.is_file():
            raise StartupError(f"MODEL_SET: {relative} is missing in {self.folder}")
        expected = self.files.get(relative, {}).get("sha256")
        if expected is None:
            raise StartupError(f"MODEL_SET: {relative} is not listed in the manifest of {self.folder}")
        actual = sha256(path)
        if actual != expected:
            raise StartupError(
                f"MODEL_SET: {relative} in {self.folder} has SHA-256 {actual}, the manifest says {expected}"
            )
        log.info("weights verified", extra={"file": str(path), "sha256": actual})


def sha256(path: Path) -> str:
    """Return a file's SHA-256 in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def load_state_dict(path: Path) -> dict[str, torch.Tensor]:
    """Read a checkpoint into tensors on the CPU, in the number format of the file.

    Reads safetensors, and `.pth`/`.pt` with `weights_only=True`; unwraps `params_ema`, `params` and
    `state_dict`, and drops the prefix `module.` of data-parallel training.
    Raises `StartupError` naming the file if it cannot be read.
    """
    try:
        if path.suffix == ".safetensors":
            data: Any = load_file(path)
        else:
            data = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # each format raises its own kinds; all mean the same here
        raise StartupError(f"MODEL_SET: {path} cannot be read as weights: {error}") from error
    for wrapper in ("params_ema", "params", "state_dict"):
        if isinstance(data, dict) and isinstance(data.get(wrapper), dict):
            data = data[wrapper]
            break
    if not isinstance(data, dict) or not all(isinstance(v, torch.Tensor) for v in data.values()):
        raise StartupError(f"MODEL_SET: {path} holds no table of tensors")
    return {key.removeprefix("module."): value for key, value in data.items()}
