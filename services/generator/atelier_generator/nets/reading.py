"""Opens a base or refiner of any layout."""

from __future__ import annotations

from pathlib import Path

from atelier_generator.nets.folder import read_folder
from atelier_generator.nets.single_file import read_single_file
from atelier_generator.nets.stored_pipeline import StoredPipeline
from atelier_runtime.snapshot import Reader, take
from atelier_runtime.weights import CheckpointError


def read_pipeline(path: Path, read: Reader = take) -> StoredPipeline:
    """Read a folder in diffusers' layout or a single file, but of the weights only the headers.

    `read` is how everything else is read, and the weights when they are loaded. Raises `CheckpointError` for
    anything but SDXL. `StoredPipeline.check` tells whether it is complete.
    """
    if path.is_dir():
        return read_folder(path, read)
    if not path.exists():
        raise CheckpointError(f"{path}: there is no such file or folder")
    return read_single_file(path, read)
