"""Which files of a folder are images, and what of it is left out, with the reason."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from atelier_restorer.commands.paths import FORMAT_OF_SUFFIX, kind, may, reason

RESULTS_MARK = ".atelier-results"
"""A file of this name in a folder below IN says that it holds results, which are not restored again."""

_SIGNATURE_BYTES = 12


@dataclass(frozen=True, slots=True)
class Skip:
    """Why something in a folder is not restored."""

    reason: str
    is_failure: bool
    """An image may be missing from the results because of it."""


@dataclass(frozen=True)
class FolderContent:
    """What is in a folder and its subfolders, both sorted by path."""

    images: list[str]
    """Paths within the folder."""
    skipped: dict[Path, Skip]


def read_folder(folder: Path, results: Collection[Path]) -> FolderContent:
    """Find the images in a folder and its subfolders. Links to files are followed, links to folders are not.

    Folders that are one of `results` or bear the mark of an earlier run's are left out, `folder` never is.
    """
    walk = _Walk(folder, results)
    walk.enter(str(folder), is_root=True)
    while walk.waiting:
        walk.visit(walk.waiting.pop())
    return FolderContent(walk.images, walk.skipped)


class _Walk:
    """A walk in the order of the paths, without recursion: folders may be nested a thousand deep."""

    def __init__(self, folder: Path, results: Collection[Path]) -> None:
        self.images: list[str] = []
        self.skipped: dict[Path, Skip] = {}
        self.waiting: list[os.DirEntry[str]] = []
        self._prefix = len(os.path.join(folder, ""))
        self._results = {identity for path in results if (identity := _identity(path)) is not None}

    def enter(self, folder: str, is_root: bool = False) -> None:
        """Queue what is in a folder."""
        try:
            with os.scandir(folder) as scan:
                entries = list(scan)
        except OSError as error:
            self._skip(folder, f"cannot be read: {reason(error)}", is_failure=True)
            return
        if not is_root and any(entry.name == RESULTS_MARK for entry in entries):
            self._skip(folder, "holds the results of an earlier run")
            return
        entries.sort(key=lambda entry: entry.name, reverse=True)
        self.waiting += entries

    def visit(self, entry: os.DirEntry[str]) -> None:
        """Sort out one entry of a folder."""
        try:
            self._visit(entry)
        except OSError as error:
            self._skip(entry.path, f"cannot be read: {reason(error)}", is_failure=True)

    def _visit(self, entry: os.DirEntry[str]) -> None:
        if entry.name.startswith("."):
            self._skip(entry.path, "is hidden")
        elif entry.is_dir(follow_symlinks=False):
            if _identity(entry.path) in self._results:
                self._skip(entry.path, "is where results are written")
            else:
                self.enter(entry.path)
        elif entry.is_file():
            self._visit_file(entry)
        elif entry.is_dir():
            if _identity(entry.path) in self._results:
                self._skip(entry.path, "is where results are written")
            else:
                self._skip(entry.path, "is a link to a folder, which is not followed", is_failure=True)
        else:
            self._visit_other(entry)

    def _visit_file(self, entry: os.DirEntry[str]) -> None:
        """Decide by name or content: a corrupt .jpg is an image that fails, a text file is not an image."""
        if _has_image_suffix(entry.name):
            if may(entry.path, os.R_OK):
                self.images.append(entry.path[self._prefix :])
            else:
                self._skip(entry.path, f"cannot be read: {os.strerror(errno.EACCES)}", is_failure=True)
        elif _begins_as_an_image(entry.path):
            self.images.append(entry.path[self._prefix :])
        else:
            self._skip(entry.path, "is not a PNG, JPEG or WebP file")

    def _visit_other(self, entry: os.DirEntry[str]) -> None:
        try:
            mode = os.stat(entry.path).st_mode
        except FileNotFoundError:
            self._skip(entry.path, "is a link to nothing", is_failure=True)
        else:
            self._skip(entry.path, f"is {kind(mode)}", is_failure=_has_image_suffix(entry.name))

    def _skip(self, path: str, why: str, is_failure: bool = False) -> None:
        self.skipped[Path(path)] = Skip(why, is_failure)


def _has_image_suffix(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in FORMAT_OF_SUFFIX


def _begins_as_an_image(path: str) -> bool:
    with open(path, "rb") as file:
        start = file.read(_SIGNATURE_BYTES)
    is_webp = start.startswith(b"RIFF") and start.endswith(b"WEBP")
    return is_webp or start.startswith((b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff"))


def _identity(path: str | Path) -> tuple[int, int] | None:
    """Return what identifies a folder, whatever its name; None where there is none."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return (status.st_dev, status.st_ino) if stat.S_ISDIR(status.st_mode) else None
