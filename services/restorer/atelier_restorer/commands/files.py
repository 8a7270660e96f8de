"""Which image files to read, where to write the results, and atomic writing."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from atelier_runtime.images import Format

FORMAT_OF_SUFFIX: dict[str, Format] = {
    ".png": "png",
    ".jpg": "jpeg",
    ".jpeg": "jpeg",
    ".webp": "webp",
}
_SUFFIX_OF_FORMAT: dict[Format, str] = {"png": ".png", "jpeg": ".jpg", "webp": ".webp"}
_SIGNATURE_BYTES = 12


class PlanError(Exception):
    """The given paths are invalid; the message says why."""


@dataclass(frozen=True)
class Task:
    """One image: where it is, where it goes, and its format there (None: the image's own)."""

    source: Path
    target: Path
    format: Format | None
    mask: Path | None
    name: Path
    """The path within the folder, or the name of a single file; without the suffix."""


@dataclass(frozen=True)
class Plan:
    """The images to restore. `skipped` are the files of a folder that are not images."""

    tasks: tuple[Task, ...]
    skipped: tuple[Path, ...]
    is_folder: bool


def make_plan(source: Path, target: Path, mask: Path | None, file_format: Format | None) -> Plan:
    """Pair the images at `source` with the files to write; nothing is written yet.

    A folder is read recursively, and its structure is recreated in the folder `target`; a single image may
    also go into a folder. `file_format` changes the suffixes of a folder's images.

    Raises:
        PlanError: nothing is there, an input would be overwritten, or two images would be the same file.
    """
    if source.is_dir():
        found = sorted(_files_below(source, without=(target, *([mask] if mask else []))))
        if target.exists() and not target.is_dir():
            raise PlanError(f"{source} is a folder, so {target} must be one too")
        images = [path for path in found if _is_image_file(path)]
        tasks = [_task_of_folder(path, source, target, mask, file_format) for path in images]
        skipped = [path for path in found if path not in set(images)]
    elif source.exists():
        if target.is_dir():
            target = target / source.name
        tasks, skipped = [_single_task(source, target, mask, file_format)], []
    else:
        raise PlanError(f"{source}: there is no such file or folder")
    _refuse_collisions(tasks)
    return Plan(tuple(tasks), tuple(skipped), source.is_dir())


def check_writable(path: Path) -> None:
    """Raise `PlanError` unless a file can be written here, before any work is done."""
    if path.is_dir():
        raise PlanError(f"{path} is a folder")
    if not path.parent.is_dir():
        raise PlanError(f"{path.parent}: there is no such folder")
    if not os.access(path.parent, os.W_OK):
        raise PlanError(f"{path.parent} cannot be written to")


def write_whole(path: Path, data: bytes) -> None:
    """Write a file atomically: a reader finds the old file, or none, or the complete new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".atelier-{secrets.token_hex(8)}.part")
    try:
        with part.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def _files_below(folder: Path, without: tuple[Path, ...]) -> Iterator[Path]:
    left_out = {path.resolve() for path in without if path.resolve() != folder.resolve()}
    for name, folders, files in os.walk(folder):
        here = Path(name)
        folders[:] = [f for f in folders if (here / f).resolve() not in left_out]
        yield from (here / f for f in files if (here / f).is_file())


def _is_image_file(path: Path) -> bool:
    """Decide by name or content: a corrupt .jpg is an image that fails, a text file is not an image."""
    if path.suffix.lower() in FORMAT_OF_SUFFIX:
        return True
    try:
        with path.open("rb") as file:
            start = file.read(_SIGNATURE_BYTES)
    except OSError:
        return False
    is_webp = start.startswith(b"RIFF") and start.endswith(b"WEBP")
    return is_webp or start.startswith((b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff"))


def _task_of_folder(
    path: Path, source: Path, target: Path, mask: Path | None, file_format: Format | None
) -> Task:
    name = path.relative_to(source)
    own = FORMAT_OF_SUFFIX.get(path.suffix.lower())
    if file_format is not None and own != file_format:
        name = name.with_suffix(_SUFFIX_OF_FORMAT[file_format]) if own else _append_suffix(name, file_format)
    mask_file = mask / name.with_suffix(".png") if mask else None
    return Task(path, target / name, file_format or own, mask_file, name.with_suffix(""))


def _append_suffix(name: Path, file_format: Format) -> Path:
    return name.with_name(name.name + _SUFFIX_OF_FORMAT[file_format])


def _single_task(source: Path, target: Path, mask: Path | None, file_format: Format | None) -> Task:
    by_suffix = FORMAT_OF_SUFFIX.get(target.suffix.lower())
    if file_format is None and by_suffix is None:
        raise PlanError(f"{target} must end with {', '.join(FORMAT_OF_SUFFIX)}, or --format must be given")
    if file_format is not None and by_suffix is not None and file_format != by_suffix:
        raise PlanError(f"--format {file_format} contradicts the name {target}")
    check_writable(target)
    if mask is not None:
        check_writable(mask)
    return Task(source, target, file_format or by_suffix, mask, Path(source.stem))


def _refuse_collisions(tasks: list[Task]) -> None:
    sources = {_identity(task.source): task.source for task in tasks}
    written: dict[Path, Path] = {}
    for task in tasks:
        for path in (p for p in (task.target, task.mask) if p is not None):
            if (overwritten := sources.get(_identity(path))) is not None:
                raise PlanError(f"{path} would overwrite the image {overwritten}; choose another path")
            if (other := written.get(path.resolve())) is not None:
                raise PlanError(f"{path} would be written twice, for {other} and for {task.source}")
            written[path.resolve()] = task.source


def _identity(path: Path) -> object:
    """Return what identifies a file, whatever its name; a path where there is none yet."""
    try:
        status = path.stat()
    except OSError:
        return path.resolve()
    return status.st_dev, status.st_ino
