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

from atelier_runtime.snapshot import take
from atelier_runtime.weights import CheckpointError, read_snapshot

_ORIGIN = "converted_from"


def convert(checkpoint: Path, target: Path, sha256: str = "") -> None:
    """Write the tensors of a `.pth` file as safetensors, with unwrapped names and the same dtypes.

    `target` appears only when it is complete. `sha256`: what the file must be, if that is known. Raises
    `CheckpointError` (of `atelier_runtime.weights`) for a file that is another one, is damaged, or would run
    code; none of it is run.
    """
    with take(checkpoint) as snapshot:
        source = snapshot.sha256
        if sha256 and source != sha256:
            raise CheckpointError(f"{checkpoint} was replaced after it had been checked")
        # Separate memory for each: safetensors refuses tensors that share theirs.
        state = {key: value.detach().clone().contiguous() for key, value in read_snapshot(snapshot).items()}
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
            return bool(digest == _digest(state))
    except (
        OSError,
        SafetensorError,
        ValueError,
        TypeError,
        KeyError,
        RuntimeError,
    ):  # a header says anything
        return False


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
