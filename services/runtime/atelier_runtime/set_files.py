"""The files of a model set's component: which there are, and whether they are those in its manifest."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from atelier_runtime.snapshot import CheckpointError, Snapshot, take

logger = logging.getLogger(__name__)

Listed = Mapping[str, Mapping[str, Any]]
"""The manifest's files: path within the set -> `sha256` and `bytes`."""


def check_files(component: Path, folder: Path, listed: Listed) -> list[Path]:
    """Return the component's files, which must be those that are listed. Their content is not read.

    Raises `CheckpointError` naming the first file that is missing, unlisted, or not a regular file. A link is
    none: what it leads to is not the set's, and can change without it.
    """
    found = list(_files_of(component, folder))
    for path in found:
        if path.relative_to(folder).as_posix() not in listed:
            raise CheckpointError(_not_listed(path, folder))
    of_component = [name for name in listed if (folder / name).is_relative_to(component)]
    for missing in (name for name in of_component if not (folder / name).is_file()):
        raise CheckpointError(f"{missing} is missing in {folder}")
    return found


def read_verified(path: Path, folder: Path, listed: Listed, verified: dict[Path, str]) -> Snapshot:
    """Read a file and add it and its SHA-256 to `verified`.

    Raises `CheckpointError` if it is missing, unlisted, different, or behind a link.
    """
    _refuse_links_to(path, folder)
    snapshot = take(_regular(path, folder))
    try:
        compare(path, snapshot.sha256, folder, listed)
    except BaseException:
        snapshot.close()
        raise
    verified[path] = snapshot.sha256
    return snapshot


def compare(path: Path, actual: str, folder: Path, listed: Listed) -> None:
    """Compare a file's SHA-256 with the manifest's, and log it. Raises `CheckpointError`."""
    relative = path.relative_to(folder).as_posix()
    expected = listed.get(relative, {}).get("sha256")
    if expected is None:
        raise CheckpointError(_not_listed(path, folder))
    if actual != expected:
        raise CheckpointError(f"{relative} in {folder} has SHA-256 {actual}, the manifest lists {expected}")
    logger.info("weights verified", extra={"file": str(path), "sha256": actual})


def _files_of(component: Path, folder: Path) -> Iterator[Path]:
    def refuse(error: OSError) -> None:
        raise CheckpointError(f"{error.filename} cannot be read: {error.strerror}") from error

    _refuse_links_to(component, folder)
    if not component.is_dir():
        yield _regular(component, folder)
        return
    for here, folders, files in os.walk(component, onerror=refuse):
        for name in sorted(folders):
            _refuse_link(Path(here, name), folder)
        yield from (_regular(Path(here, name), folder) for name in sorted(files))


def _regular(path: Path, folder: Path) -> Path:
    _refuse_link(path, folder)
    if not path.is_file():
        what = "is not a regular file" if os.path.lexists(path) else "is missing"
        raise CheckpointError(f"{path.relative_to(folder)} {what} in {folder}")
    return path


def _refuse_links_to(path: Path, folder: Path) -> None:
    for parent in reversed(path.relative_to(folder).parents[:-1]):
        _refuse_link(folder / parent, folder)
    _refuse_link(path, folder)


def _refuse_link(path: Path, folder: Path) -> None:
    if path.is_symlink():
        raise CheckpointError(
            f"{path.relative_to(folder)} in {folder} is a link; a set contains files and folders only, "
            "so copy what it leads to"
        )


def _not_listed(path: Path, folder: Path) -> str:
    return f"{path.relative_to(folder).as_posix()} is not listed in the manifest of {folder}"
