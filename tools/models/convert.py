"""`.pth` to safetensors: once, at fetch time, so that no service ever opens a pickle of the set.

The result records where it came from: the published file's SHA-256 and a digest of the tensors are in the
safetensors header, so that a later run can tell a finished conversion from an unrelated or damaged file.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from atelier_runtime.weights import read_checkpoint

_ORIGIN = "converted_from"


def convert(checkpoint: Path, target: Path) -> None:
    """Write the tensors of a `.pth` file as safetensors, with unwrapped names and the same dtypes.

    `target` appears only when it is complete. Raises `CheckpointError` (of `atelier_runtime.weights`) for a
    file that is damaged or that would run code; none of it is run.
    """
    # Separate memory for each: safetensors refuses tensors that share theirs.
    state = {key: value.detach().clone().contiguous() for key, value in read_checkpoint(checkpoint).items()}
    with checkpoint.open("rb") as file:
        source = hashlib.file_digest(file, "sha256").hexdigest()
    part = target.with_name(target.name + ".part")
    # One entry: safetensors writes several in any order, and converting again should give the same file.
    save_file(state, part, metadata={_ORIGIN: f"{source} {_digest(state)}"})
    with part.open("rb+") as written:
        os.fsync(written.fileno())
    part.replace(target)


def is_conversion_of(path: Path, source_sha256: str) -> bool:
    """Return whether a file is a complete conversion of the published file with that SHA-256."""
    try:
        with safe_open(path, "pt") as file:
            source, _, digest = (file.metadata() or {}).get(_ORIGIN, "").partition(" ")
            if source != source_sha256:
                return False
            keys = file.keys()
            state = {key: file.get_tensor(key) for key in keys}
    except (OSError, SafetensorError):
        return False
    return bool(digest == _digest(state))


def source_of(path: Path) -> str:
    """Return the SHA-256 of the published file that a conversion was made from."""
    with safe_open(path, "pt") as file:
        return str(file.metadata()[_ORIGIN]).partition(" ")[0]


def _digest(state: Mapping[str, torch.Tensor]) -> str:
    digest = hashlib.sha256()
    for key in sorted(state):
        tensor = state[key]
        digest.update(f"{key} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
