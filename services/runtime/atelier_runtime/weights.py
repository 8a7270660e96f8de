"""Model sets and their weights: read from disk, verified by SHA-256, never downloaded or unpickled unsafely.

A model set is a folder with a `manifest.json`: name, license, `max_side`, `refiner_max_side`,
`size_multiple`, `default_negative_prompt`, `guidance_rescale`, `match_tone`, `components` (role -> path and
name) and `files` (path -> SHA-256 and size).
"""

from __future__ import annotations

import hashlib
import importlib
import json
import logging
import pickle
import pickletools
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file

from atelier_runtime.service_status import NetworkRole
from atelier_runtime.settings import StartupError

logger = logging.getLogger(__name__)

BUILT_IN = "demo"

# Keys under which training code stores the weights next to other data; moving averages come first.
_WRAPPERS = ("params_ema", "params-ema", "params", "state_dict", "model_state_dict", "model", "net")
_SAFETENSORS_DTYPES = {
    **{"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16},
    **{"F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2},
    **{"I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8},
    **{"U8": torch.uint8, "BOOL": torch.bool},
}


@dataclass(frozen=True)
class Component:
    """A network of a set: a file, or a folder in diffusers' layout.

    `setting` is the setting that selects it, for messages: MODEL_SET, or that of a single file.
    """

    role: NetworkRole
    name: str
    path: Path
    setting: str = "MODEL_SET"

    @property
    def single_file(self) -> bool:
        """True if it replaces the set's component because a separate setting selects it."""
        return self.setting != "MODEL_SET"


@dataclass(frozen=True)
class ModelSet:
    """An opened model set.

    `max_side`, in px, is None where the base network generates well at any size; `refiner_max_side`, never
    below it, is None where the refiner works at the same sizes as the base. `guidance_rescale` (0 to 1)
    reduces the overexposure that strong guidance causes in small and v-prediction networks (Lin et al. 2023,
    arXiv:2305.08891, section 3.4); 0 for SDXL. `match_tone`: faces that its CodeFormer restored are matched
    to the tone of their surroundings before pasting; false reproduces the published pipeline exactly.
    """

    name: str
    folder: Path
    license: str
    max_side: int | None
    refiner_max_side: int | None
    size_multiple: int
    default_negative_prompt: str
    guidance_rescale: float
    match_tone: bool
    components: Mapping[NetworkRole, Component]
    files: Mapping[str, Mapping[str, Any]]

    @property
    def built_in(self) -> bool:
        """True for the set that is installed with the program and was trained only on drawings."""
        return self.name == BUILT_IN

    @classmethod
    def open(cls, setting: str) -> ModelSet:
        """Open the built-in set (`demo`) or the folder that a MODEL_SET setting names.

        Raises `StartupError`, naming the setting, if the manifest is missing or invalid.
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
            raise StartupError(f"MODEL_SET={setting}: {manifest} is invalid: {error!r}") from error

    @classmethod
    def _parse(cls, folder: Path, data: Mapping[str, Any]) -> ModelSet:
        components = {}
        for role, entry in data["components"].items():
            if role not in set(NetworkRole):
                raise ValueError(f"components.{role} is unknown; it must be one of {', '.join(NetworkRole)}")
            path = folder / entry["path"]
            if folder.resolve() not in path.resolve().parents:
                raise ValueError(f"components.{role}.path is outside the set: {entry['path']}")
            components[NetworkRole(role)] = Component(NetworkRole(role), entry["name"], path)
        max_side, refiner_max_side = _side(data, "max_side"), _side(data, "refiner_max_side")
        if refiner_max_side is not None and (max_side is None or refiner_max_side < max_side):
            raise ValueError(f"refiner_max_side is {refiner_max_side}, below max_side, which is {max_side}")
        match_tone = data.get("match_tone", False)
        if not isinstance(match_tone, bool):
            raise ValueError(f"match_tone must be true or false, is {match_tone!r}")
        return cls(
            name=data["name"],
            folder=folder,
            license=data["license"],
            max_side=max_side,
            refiner_max_side=refiner_max_side,
            size_multiple=data.get("size_multiple", 8),
            default_negative_prompt=data.get("default_negative_prompt", ""),
            guidance_rescale=float(data.get("guidance_rescale", 0.0)),
            match_tone=match_tone,
            components=components,
            files=data["files"],
        )

    def component(self, role: NetworkRole) -> Component | None:
        """Return the component of a role, None if there is none."""
        return self.components.get(role)

    def require(self, role: NetworkRole) -> Component:
        """Return the component of a role; raise `StartupError` if there is none."""
        component = self.component(role)
        if component is None:
            raise StartupError(f"MODEL_SET: the set '{self.name}' in {self.folder} does not have a {role}")
        return component

    def verify(self, *roles: NetworkRole) -> None:
        """Compare the components' files with the manifest's SHA-256, and log each checksum.

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
                f"MODEL_SET: {relative} in {self.folder} has SHA-256 {actual}, the manifest lists {expected}"
            )
        logger.info("weights verified", extra={"file": str(path), "sha256": actual})


def _side(data: Mapping[str, Any], key: str) -> int | None:
    side = data.get(key)
    if side is not None and (type(side) is not int or side < 1):
        raise ValueError(f"{key} must be a side in px (a positive integer) or null, is {side!r}")
    return side


def sha256(path: Path) -> str:
    """Return a file's SHA-256 in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class CheckpointError(ValueError):
    """A checkpoint file cannot be used; the message names the file and the reason."""


def load_state_dict(path: Path, setting: str = "MODEL_SET") -> dict[str, torch.Tensor]:
    """Read a checkpoint like `read_checkpoint`, for a network that is about to be loaded.

    Raises `StartupError` naming `setting` and the file if it cannot be read.
    """
    try:
        return read_checkpoint(path)
    except CheckpointError as error:
        raise StartupError(f"{setting}: {error}") from error


def read_checkpoint(path: Path, *, shapes_only: bool = False) -> dict[str, torch.Tensor]:
    """Read a checkpoint into tensors on the CPU, in the dtypes of the file.

    Reads safetensors, and `torch.save` files with `weights_only=True`; unwraps `params_ema`, `params`,
    `state_dict` and the like, and drops the prefix `module.` of data-parallel training. With `shapes_only`
    the tensors are on torch's meta device: names, shapes and dtypes without the values.

    Raises:
        CheckpointError: the file is missing, corrupt, of another format, or would run arbitrary code.
    """
    if not path.is_file():
        what = "is a folder, not a checkpoint file" if path.is_dir() else "there is no such file"
        raise CheckpointError(f"{path}: {what}")
    try:
        data: Any = (
            _read_safetensors(path, shapes_only) if _is_safetensors(path) else _load(path, shapes_only)
        )
    except pickle.UnpicklingError as error:
        # torch's own message advises turning the protection off.
        called = _pickled_call(path, str(error))
        if called is None:
            raise CheckpointError(
                f"{path} cannot be read as weights: corrupt, or not a checkpoint"
            ) from error
        raise CheckpointError(
            f"{path} would run arbitrary code when loaded ({called}) and was rejected; "
            "weights must contain nothing but tensors"
        ) from error
    except Exception as error:  # each format raises its own exceptions; all mean the same here
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(f"{path} cannot be read as weights: {reason}") from error
    for wrapper in _WRAPPERS:
        if isinstance(data, dict) and isinstance(data.get(wrapper), dict):
            data = data[wrapper]
            break
    if not isinstance(data, dict) or not data or not all(isinstance(v, torch.Tensor) for v in data.values()):
        raise CheckpointError(f"{path} does not contain a dictionary of tensors")
    return {str(key).removeprefix("module."): value for key, value in data.items()}


def describe_checkpoint(path: Path, tensors: Mapping[str, torch.Tensor]) -> dict[str, Any]:
    """Describe a checkpoint of any network, for the `inspect` commands.

    `parameters` counts trainable values, so neither integers nor the running statistics of batch
    normalization. `dtype` is that of the parameters; several are joined by ", ".
    """
    trained = [
        tensor
        for key, tensor in tensors.items()
        if tensor.is_floating_point()
        and not key.endswith(("running_mean", "running_var", "num_batches_tracked"))
    ]
    return {
        "file": str(path),
        "bytes": path.stat().st_size,
        "sha256": sha256(path),
        "tensors": len(tensors),
        "parameters": sum(tensor.numel() for tensor in trained),
        "dtype": ", ".join(sorted({str(tensor.dtype).removeprefix("torch.") for tensor in trained})),
    }


def _is_safetensors(path: Path) -> bool:
    """Decide by suffix or content: a file may have any name."""
    with path.open("rb") as file:
        start = file.read(9)
    return path.suffix == ".safetensors" or start[8:] == b"{"


def _read_safetensors(path: Path, shapes_only: bool) -> dict[str, torch.Tensor]:
    if not shapes_only:
        return load_file(path)
    with safe_open(path, "pt") as file, torch.device("meta"):
        keys = file.keys()
        slices = {key: file.get_slice(key) for key in keys}
        return {
            key: torch.empty(part.get_shape(), dtype=_SAFETENSORS_DTYPES[part.get_dtype()])
            for key, part in slices.items()
        }


def _load(path: Path, shapes_only: bool) -> Any:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Detected pickle protocol", UserWarning)
        return torch.load(path, map_location="meta" if shapes_only else "cpu", weights_only=True)


def _pickled_call(path: Path, message: str) -> str | None:
    """Return the name of what a rejected pickle would call, None if it is merely corrupt. Runs nothing.

    `message`: torch's reason for the rejection.
    """
    if match := re.search(r"\bGLOBAL ([\w.]+)", message):
        return match[1]
    strings: list[str] = []  # of a newer protocol, which torch rejects before it can name the call
    try:
        for operation, argument, _ in pickletools.genops(path.read_bytes()):
            if operation.name == "GLOBAL":
                return str(argument).replace(" ", ".")
            if operation.name == "STACK_GLOBAL":
                return ".".join(strings[-2:])
            if isinstance(argument, str):
                strings.append(argument)
    except ValueError:
        pass  # not a pickle at all
    return None
