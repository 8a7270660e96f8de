"""Model sets and their weights: read from disk, verified by SHA-256, never downloaded or unpickled unsafely.

A model set is a folder with a `manifest.json`: name, license, `max_side`, `refiner_max_side`,
`size_multiple`, `default_negative_prompt`, `sampling`, `prediction_type`, `zero_terminal_snr`,
`max_prompt_chunks`, `clip_skip`, `preview`, `guidance_rescale`, `match_tone`, `identity`, `components` (role
-> path and name) and `files` (path -> SHA-256 and size).
"""

from __future__ import annotations

import importlib
import os
import pickle
import pickletools
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file

from atelier_runtime.file_kinds import is_safetensors, problem_of
from atelier_runtime.latent_colors import LatentColors
from atelier_runtime.manifest import ComponentEntry, IdentityEntry, Manifest, ManifestError, read_manifest
from atelier_runtime.model_defaults import ModelDefaults
from atelier_runtime.service_status import NetworkRole
from atelier_runtime.set_files import Listed, check_files, compare, read_verified
from atelier_runtime.settings import BUILT_IN, StartupError
from atelier_runtime.snapshot import CheckpointError as CheckpointError
from atelier_runtime.snapshot import Reader, Snapshot, open_regular, take
from atelier_runtime.snapshot import sha256 as sha256

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

    `setting` is the setting that selects it, for messages: MODEL_SET, or that of a single file. `read` is how
    its files are read: those of a set are compared with its manifest. What was read is in `verified`, with
    its SHA-256.
    """

    role: NetworkRole
    name: str
    path: Path
    setting: str = "MODEL_SET"
    read: Reader = take
    verified: dict[Path, str] = field(default_factory=dict, compare=False)

    @property
    def single_file(self) -> bool:
        """True if it replaces the set's component because a separate setting selects it."""
        return self.setting != "MODEL_SET"

    def state_dict(self) -> dict[str, torch.Tensor]:
        """Read the component's file, to load it; see `load_state_dict`."""
        return load_state_dict(self.path, self.setting, self.read)


@dataclass(frozen=True)
class ModelSet:
    """An opened model set.

    `max_side`, in px, is None where the base network generates well at any size; `refiner_max_side`, never
    below it, is None where the refiner works at the same sizes as the base. `prediction_type` and
    `zero_terminal_snr` say how the base was trained (Lin et al. 2023, arXiv:2305.08891, section 3.1); None
    where its own files do. `max_prompt_chunks`: of 75 tokens; None: any number. `clip_skip`: which hidden
    layer of the text encoders is used, counted from the last one, 1; SDXL's is 2. `preview_colors`: what the
    latents' channels stand for; None: as SDXL's. `guidance_rescale` (0 to 1) reduces the overexposure that
    strong guidance causes in small and v-prediction networks (same paper, section 3.4); 0 for SDXL.
    `match_tone`: faces that its CodeFormer restored are matched to the tone of their surroundings before
    pasting; false reproduces the published pipeline exactly. `hash`: SHA-256 of `manifest.json`, which lists
    that of each file. `identity`: from which cosine on its identity network takes two faces for the same
    person, and below which certainty it cannot tell; None: not measured.
    """

    name: str
    hash: str
    folder: Path
    license: str
    max_side: int | None
    refiner_max_side: int | None
    size_multiple: int
    defaults: ModelDefaults
    prediction_type: str | None
    zero_terminal_snr: bool | None
    max_prompt_chunks: int | None
    clip_skip: int
    preview_colors: LatentColors | None
    guidance_rescale: float
    match_tone: bool
    identity: IdentityEntry | None
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
            folder = _expanded(setting)
        manifest = folder / "manifest.json"
        try:
            if not manifest.is_file():
                raise StartupError(f"MODEL_SET={setting}: there is no file {manifest}")
            return cls._of(folder, *read_manifest(manifest))
        except (ManifestError, OSError) as error:
            raise StartupError(f"MODEL_SET={setting}: {error}") from error

    @classmethod
    def _of(cls, folder: Path, manifest: Manifest, manifest_sha256: str) -> ModelSet:
        files = {name: entry.model_dump(exclude_none=True) for name, entry in manifest.files.items()}
        return cls(
            name=manifest.name,
            hash=manifest_sha256,
            folder=folder,
            license=manifest.license,
            max_side=manifest.max_side,
            refiner_max_side=manifest.refiner_max_side,
            size_multiple=manifest.size_multiple,
            defaults=_defaults(manifest),
            prediction_type=manifest.prediction_type,
            zero_terminal_snr=manifest.zero_terminal_snr,
            max_prompt_chunks=manifest.max_prompt_chunks,
            clip_skip=manifest.clip_skip,
            preview_colors=manifest.preview.colors() if manifest.preview else None,
            guidance_rescale=manifest.guidance_rescale,
            match_tone=manifest.match_tone,
            identity=manifest.identity,
            components={
                role: _component(role, entry, folder, files) for role, entry in manifest.components.items()
            },
            files=files,
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

    def check_files(self, *roles: NetworkRole) -> None:
        """Check that the components consist of the listed files; their content is compared as it is read.

        Raises `StartupError` naming the first file that is missing, unlisted, or not a regular file.
        """
        for component in (self.components[role] for role in roles if role in self.components):
            try:
                check_files(component.path, self.folder, self.files)
            except CheckpointError as error:
                raise StartupError(f"MODEL_SET: {error}") from error

    def verify(self, *roles: NetworkRole) -> None:
        """Check the components' files, and compare the content of those that have not been loaded.

        Raises `StartupError` naming the first file that is missing, unlisted or different.
        """
        for component in (self.components[role] for role in roles if role in self.components):
            try:
                for path in check_files(component.path, self.folder, self.files):
                    if path not in component.verified:
                        compare(path, sha256(path), self.folder, self.files)
            except CheckpointError as error:
                raise StartupError(f"MODEL_SET: {error}") from error


def _defaults(manifest: Manifest) -> ModelDefaults:
    given = manifest.sampling.model_dump(exclude_none=True)
    return ModelDefaults(negative_prompt=manifest.default_negative_prompt, **given)


def _expanded(setting: str) -> Path:
    """Return a setting's path; not every shell replaces the ~ in an assignment."""
    try:
        return Path(setting).expanduser()
    except RuntimeError as error:
        raise StartupError(f"MODEL_SET={setting}: {error}") from error


def _component(role: NetworkRole, entry: ComponentEntry, folder: Path, files: Listed) -> Component:
    path = Path(os.path.normpath(folder / entry.path))
    try:
        outside = Path(os.path.normpath(folder)) not in path.parents or (
            folder.resolve() not in path.resolve().parents
        )
    except (OSError, ValueError, RuntimeError) as error:  # too long, a zero byte, links in a circle
        raise ManifestError(f"components.{role}.path cannot be read: {error}") from error
    if outside:
        raise ManifestError(f"components.{role}.path is outside the set: {entry.path}")
    verified: dict[Path, str] = {}
    read = partial(read_verified, folder=folder, listed=files, verified=verified)
    path = folder / path.relative_to(os.path.normpath(folder))
    return Component(role, entry.name, path, read=read, verified=verified)


def load_state_dict(path: Path, setting: str = "MODEL_SET", read: Reader = take) -> dict[str, torch.Tensor]:
    """Read a checkpoint like `read_checkpoint`, for a network that is about to be loaded.

    Raises `StartupError` naming `setting` and the file if it cannot be read.
    """
    try:
        return read_checkpoint(path, read=read)
    except CheckpointError as error:
        raise StartupError(f"{setting}: {error}") from error


def read_checkpoint(path: Path, *, shapes_only: bool = False, read: Reader = take) -> dict[str, torch.Tensor]:
    """Read a checkpoint into tensors on the CPU, in the dtypes of the file.

    Reads safetensors, and `torch.save` files with `weights_only=True`; unwraps `params_ema`, `params`,
    `state_dict` and the like, and drops the prefix `module.` of data-parallel training. With `shapes_only`
    the tensors are on torch's meta device: names, shapes and dtypes without the values. Of safetensors, only
    the header is then read, and not by `read`: nothing is compared with a checksum.

    Raises:
        CheckpointError: the file is missing, corrupt, of another format, or would run arbitrary code.
    """
    if shapes_only and (header := _header_of_safetensors(path)) is not None:
        with header:
            return read_snapshot(header, shapes_only=True)
    with read(path) as snapshot:
        return read_snapshot(snapshot, shapes_only=shapes_only)


def _header_of_safetensors(path: Path) -> Snapshot | None:
    """Return a copy of the header alone, None if the file is not safetensors."""
    with open_regular(path) as file:
        length = int.from_bytes(file.read(8), "little")
        if not is_safetensors(file):
            return None
    return take(path, beginning=8 + length)


def read_metadata(path: Path) -> Mapping[str, str]:
    """Return the metadata in the header of a safetensors file, empty for other files.

    Raises:
        CheckpointError: the file is missing or corrupt.
    """
    header = _header_of_safetensors(path)
    if header is None:
        return {}
    with header:
        try:
            with safe_open(header.path, "numpy") as file:
                return dict(file.metadata() or {})
        except Exception as error:  # safetensors raises its own exceptions; all mean the same here
            raise CheckpointError(f"{path} cannot be read as weights: {error}") from error


def read_snapshot(snapshot: Snapshot, *, shapes_only: bool = False) -> dict[str, torch.Tensor]:
    """Read a checkpoint, as `read_checkpoint` does, from a copy of the file."""
    path = snapshot.source
    with snapshot.open() as file:
        if (problem := problem_of(file, path.suffix.lower())) is not None:
            raise CheckpointError(f"{path} {problem}")
        reading = _read_safetensors if is_safetensors(file) else _load
    try:
        data: Any = reading(snapshot.path, shapes_only)
    except pickle.UnpicklingError as error:
        # torch's own message advises turning the protection off.
        called = _pickled_call(snapshot, str(error))
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
        if "weights_only" in reason:  # torch's advice
            reason = "it contains more than tensors"
        raise CheckpointError(f"{path} cannot be read as weights: {reason}") from error
    for wrapper in _WRAPPERS:
        if isinstance(data, dict) and isinstance(data.get(wrapper), dict):
            data = data[wrapper]
            break
    if not isinstance(data, dict) or not data or not all(isinstance(v, torch.Tensor) for v in data.values()):
        raise CheckpointError(f"{path} does not contain a dictionary of tensors")
    return {str(key).removeprefix("module."): value for key, value in data.items()}


def describe_checkpoint(
    path: Path, tensors: Mapping[str, torch.Tensor], snapshot: Snapshot | None = None
) -> dict[str, Any]:
    """Describe a checkpoint of any network, for the `inspect` commands.

    `snapshot` is the copy that the tensors were read from, if there is one; else the file is read again.
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
        "bytes": snapshot.size if snapshot else path.stat().st_size,
        "sha256": snapshot.sha256 if snapshot else sha256(path),
        "tensors": len(tensors),
        "parameters": sum(tensor.numel() for tensor in trained),
        "dtype": ", ".join(sorted({str(tensor.dtype).removeprefix("torch.") for tensor in trained})),
    }


def _read_safetensors(path: str, shapes_only: bool) -> dict[str, torch.Tensor]:
    if not shapes_only:
        return load_file(path)
    # As numpy: for torch it would map the whole file as memory of our own, which may be more than there is.
    with safe_open(path, "numpy") as file, torch.device("meta"):
        keys = file.keys()
        slices = {key: file.get_slice(key) for key in keys}
        if unknown := {part.get_dtype() for part in slices.values()} - _SAFETENSORS_DTYPES.keys():
            raise ValueError(
                f"it has tensors of the dtype {', '.join(sorted(unknown))}, which is not read here"
            )
        return {
            key: torch.empty(part.get_shape(), dtype=_SAFETENSORS_DTYPES[part.get_dtype()])
            for key, part in slices.items()
        }


def _load(path: str, shapes_only: bool) -> Any:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Detected pickle protocol", UserWarning)
        return torch.load(path, map_location="meta" if shapes_only else "cpu", weights_only=True)


def _pickled_call(snapshot: Snapshot, message: str) -> str | None:
    """Return the name of what a rejected pickle would call, None if it is merely corrupt. Runs nothing.

    `message`: torch's reason for the rejection.
    """
    if match := re.search(r"\bGLOBAL ([\w.]+)", message):
        return match[1]
    strings: list[str] = []  # of a newer protocol, which torch rejects before it can name the call
    try:
        with snapshot.open() as file:
            for operation, argument, _ in pickletools.genops(file):
                if operation.name == "GLOBAL":
                    return str(argument).replace(" ", ".")
                if operation.name == "STACK_GLOBAL":
                    return ".".join(strings[-2:])
                if isinstance(argument, str):
                    strings = [*strings[-1:], argument]
    except Exception:  # pickletools raises what its argument readers raise: not a pickle at all
        pass
    return None
