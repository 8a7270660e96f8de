"""Which images are read and every file that a run may write: decided before any work."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from atelier_restorer.commands.collisions import NAME_BYTES, Outputs, Write, is_too_long
from atelier_restorer.commands.crops import LONGEST_CROP_SUFFIX, CropNames
from atelier_restorer.commands.folders import RESULTS_MARK, Skip, read_folder
from atelier_restorer.commands.paths import FORMAT_OF_SUFFIX, PlanError, is_within, may, shown
from atelier_restorer.commands.shares import Share
from atelier_restorer.commands.writing import check_folder, check_writable, write_whole
from atelier_runtime.images import Format

_SUFFIX_OF_FORMAT: dict[Format, str] = {"png": ".png", "jpeg": ".jpg", "webp": ".webp"}
_REPORT_FLAG = "--report "
_TOO_LONG = Skip(f"the names of its results would be longer than {NAME_BYTES} bytes", is_failure=True)
_MARK_TEXT = (
    b"Results of atelier-restorer: it leaves this folder out when it restores the folder around it.\n"
)


@dataclass(frozen=True, slots=True)
class Task:
    """One image: where it is, where it goes, and its format there (None: the image's own)."""

    source: Path
    target: Path
    format: Format | None
    mask: Path | None
    crops: CropNames | None = None


@dataclass(frozen=True)
class Plan:
    """The images to restore. `skipped` is what a folder holds besides."""

    tasks: tuple[Task, ...]
    skipped: Mapping[Path, Skip]
    is_folder: bool
    new_results: tuple[Path, ...] = ()
    """Folders of results that lie in the folder of the images, and hold no images yet."""

    def share(self, source: Path, share: Share) -> Plan:
        """Return the plan of a share of the folder `source`, whose plan this is."""
        tasks = [task for task in self.tasks if share.has(os.path.relpath(task.source, source))]
        return replace(self, tasks=tuple(tasks))

    def mark_results(self) -> None:
        """Mark new folders of results among the images, so that later runs do not restore them again."""
        for folder in self.new_results:
            if not (folder / RESULTS_MARK).exists():
                write_whole(folder / RESULTS_MARK, _MARK_TEXT)


def make_plan(
    source: Path,
    target: Path,
    mask: Path | None,
    file_format: Format | None,
    *,
    crops: Path | None = None,
    report: Path | None = None,
    also_read: Iterable[Path] = (),
) -> Plan:
    """Pair the images at `source` with the files to write; nothing is written yet.

    A folder is read recursively, and its structure is recreated in the folder `target`; a single image may
    also go into a folder. `file_format` changes the suffixes of a folder's images. `also_read` are files that
    must not be overwritten either.

    Raises:
        PlanError: nothing is there, an input would be overwritten, two files would be the same one, or one
            cannot be written.
    """
    is_folder = source.is_dir()
    if is_folder:
        plan = _plan_of_folder(source, target, mask, file_format, crops)
    elif source.exists():
        if source.is_file() and not may(source, os.R_OK):
            raise PlanError(f"{shown(source)} cannot be read: permission denied")
        plan = _plan_of_image(source, target, mask, file_format, crops)
    else:
        raise PlanError(f"{shown(source)}: there is no such file or folder")
    writes = [write for task in plan.tasks for write in _writes(task)]
    if report is not None:
        check_writable(report, _REPORT_FLAG)
        writes.append(Write(str(report), report, _REPORT_FLAG, is_image=False))
    folders = [folder for folder in (target, mask, crops) if folder is not None]
    outputs = Outputs(
        [*(task.source for task in plan.tasks), *also_read], source if is_folder else None, folders
    )
    outputs.check(writes, [task.crops for task in plan.tasks if task.crops])
    for folder in folders if is_folder and plan.tasks else [crops] if crops else []:
        check_folder(folder)
    return plan


def _writes(task: Task) -> Iterable[Write]:
    yield Write(str(task.target), task.source)
    if task.mask is not None:
        yield Write(str(task.mask), task.source)


def _plan_of_folder(
    source: Path, target: Path, mask: Path | None, file_format: Format | None, crops: Path | None
) -> Plan:
    if target.exists() and not target.is_dir():
        raise PlanError(f"{shown(source)} is a folder, so {shown(target)} must be one too")
    results = tuple(folder for folder in (target, mask, crops) if folder is not None)
    content = read_folder(source, results)
    images, skipped = content.images, content.skipped
    names = _names_of_results(images)
    tasks = []
    for image, name, crop_names in zip(images, names, _crop_names(images, names, crops), strict=True):
        task = _task_of_folder(source, image, target, mask and mask / f"{name}.png", file_format, crop_names)
        if _is_writable_by_name(task):
            tasks.append(task)
        else:
            skipped[task.source] = _TOO_LONG
    return Plan(tuple(tasks), skipped, True, _unmarked(results, os.path.realpath(source)))


def _unmarked(results: Iterable[Path], source: str) -> tuple[Path, ...]:
    """Return the folders of results in the folder of the images that are not marked as such yet.

    Raises `PlanError` if one of them holds images: they would be left out, and some of them replaced.
    """
    unmarked = []
    for folder in results:
        real = os.path.realpath(folder)
        if real == source or not is_within(real, source) or (folder / RESULTS_MARK).exists():
            continue
        if folder.is_dir() and (images := read_folder(folder, ()).images):
            raise PlanError(
                f"{shown(folder)} lies among the images and holds images itself, such as {shown(images[0])}: "
                "they would not be restored and could be replaced. Give a folder outside of them or a new "
                f"one. If it holds results of an earlier version, put an empty file {RESULTS_MARK} into it"
            )
        unmarked.append(folder)
    return tuple(unmarked)


def _is_writable_by_name(task: Task) -> bool:
    names = [task.target.name, task.mask.name if task.mask else ""]
    names.append(task.crops.stem + LONGEST_CROP_SUFFIX if task.crops else "")
    return not any(is_too_long(name) for name in names)


def _task_of_folder(
    source: Path,
    name: str,
    target: Path,
    mask: Path | None,
    file_format: Format | None,
    crops: CropNames | None,
) -> Task:
    path = source / name
    stem, suffix = os.path.splitext(name)
    own = FORMAT_OF_SUFFIX.get(suffix.lower())
    if file_format is not None and own != file_format:
        stem = stem if own else name
        name = stem + _SUFFIX_OF_FORMAT[file_format]
    return Task(path, target / name, file_format or own, mask, crops)


def _names_of_results(images: list[str]) -> list[str]:
    """Name masks and crops by the image's stem; where that is ambiguous (a.jpg and a.png), by all of it."""
    parts = [os.path.splitext(image) for image in images]
    stems = [stem if suffix.lower() in FORMAT_OF_SUFFIX else stem + suffix for stem, suffix in parts]
    counts = Counter(stem.casefold() for stem in stems)
    whole = {image.casefold() for image, stem in zip(images, stems, strict=True) if image != stem}
    return [
        stem if counts[stem.casefold()] == 1 and stem.casefold() not in whole else image
        for image, stem in zip(images, stems, strict=True)
    ]


def _crop_names(images: list[str], names: list[str], crops: Path | None) -> list[CropNames | None]:
    if crops is None:
        return [None] * len(names)
    folders: dict[str, Path] = {}
    result: list[CropNames | None] = []
    for image, name in zip(images, names, strict=True):
        folder, file = os.path.split(name)
        if folder not in folders:
            folders[folder] = crops / folder
        result.append(CropNames(folders[folder], file, os.path.basename(image)))
    return result


def _plan_of_image(
    source: Path, target: Path, mask: Path | None, file_format: Format | None, crops: Path | None
) -> Plan:
    if target.is_dir():
        target = target / source.name
    by_suffix = FORMAT_OF_SUFFIX.get(target.suffix.lower())
    if file_format is None and by_suffix is None:
        suffixes = ", ".join(FORMAT_OF_SUFFIX)
        raise PlanError(f"{shown(target)} must end with {suffixes}, or --format must be given")
    if file_format is not None and by_suffix is not None and file_format != by_suffix:
        raise PlanError(f"--format {file_format} contradicts the name {shown(target)}")
    check_writable(target)
    if mask is not None:
        check_writable(mask, "--save-mask ")
    crop_names = None if crops is None else CropNames(crops, source.stem, source.name)
    return Plan((Task(source, target, file_format or by_suffix, mask, crop_names),), {}, False)
