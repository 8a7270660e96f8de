"""Whether the files that a run may write are in each other's way, or in the way of what it reads.

Every check takes time in proportion to the number of files: a folder may hold 100,000. A *place* is where a
file really is: the links of its folders and its own are followed.
"""

from __future__ import annotations

import os
import re
import secrets
import stat
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from atelier_restorer.commands.crops import LONGEST_CROP_SUFFIX, CropNames
from atelier_restorer.commands.paths import FORMAT_OF_SUFFIX, PlanError, is_within, may, shown
from atelier_restorer.commands.writing import check_place, nearest_existing

_CROP = re.compile(r"(?P<stem>.+)_face[0-9]+_(?:before|after)\.png", re.DOTALL)
"""Of a name or a place."""
_CROPS_FLAG = "--save-crops "
NAME_BYTES = 255  # of the file systems of Linux, macOS and Windows


@dataclass(frozen=True, slots=True)
class Write:
    """A file that a run may write, and of what; `flag` precedes its path in messages."""

    path: str
    owner: Path
    flag: str = ""
    is_image: bool = True

    def __str__(self) -> str:
        return f"{self.flag}{shown(self.path)}"


@dataclass(frozen=True)
class _Folder:
    """A folder that is read or written, by its real path."""

    path: str
    exists: bool

    def place(self, name: str) -> str:
        return f"{self.path.rstrip(os.sep)}{os.sep}{name}"


class Outputs:
    """The files that a run may write, next to those that it reads."""

    def __init__(self, inputs: Iterable[Path], source: Path | None, results: Sequence[Path]) -> None:
        """Look at the inputs.

        Args:
            inputs: Files that are read.
            source: The folder of the images, if they are in one.
            results: Folders that are left out when `source` is read.
        """
        self._folders: dict[str, _Folder] = {}
        self._input_of_file: dict[tuple[int, int], Path] = {}
        self._input_at: dict[str, Path] = {}
        for path in inputs:
            try:
                status = os.stat(path)
            except OSError:  # such as a checkpoint that does not exist, which is found out later
                continue
            self._input_of_file[status.st_dev, status.st_ino] = path
            folder, name = os.path.split(path)
            self._input_at[self._folder(folder or os.curdir).place(name)] = path
        self._source = None if source is None else os.path.realpath(source)
        self._left_out = [
            real
            for real in map(os.path.realpath, results)
            if self._source is not None and real != self._source and is_within(real, self._source)
        ]

    def check(self, writes: Sequence[Write], crops: Sequence[CropNames]) -> None:
        """Raise `PlanError` if two files are the same one, or one cannot or must not be written."""
        stems = {self._folder(str(names.folder)).place(names.stem): names for names in crops}
        crop_folders = {str(names.folder) for names in crops}
        written: dict[str, Write] = {}
        for write in (*writes, *self._files_named_as_crops(crop_folders, stems)):
            place = self._check(write)
            self._check_is_crop(write, stems)
            other = write if place is None else written.setdefault(place, write)
            if other is write:
                continue
            if other.path != write.path:
                raise PlanError(f"{write} and {other} are the same file, which would be written twice")
            if write.flag != _CROPS_FLAG:  # or it has the name of a crop, as is found next
                owners = f"for {shown(other.owner)} and for {shown(write.owner)}"
                raise PlanError(f"{write} would be written twice, {owners}: one would overwrite the other")
        for place, write in written.items():
            if write.flag != _CROPS_FLAG:
                self._check_against_crops(place, str(write), stems)
        for place, path in self._input_at.items():
            self._check_against_crops(place, shown(path), stems)
        for names in crops:
            _check_length(names.stem + LONGEST_CROP_SUFFIX, _CROPS_FLAG)
        for folder in crop_folders:
            self._check_is_not_among_images(
                Write(folder, Path(folder), _CROPS_FLAG), self._folder(folder).path
            )
        self._check_folders(written, crop_folders)
        self._check_case([*written, *stems])

    def _check(self, write: Write) -> str | None:
        """Check a file by itself; return its place, None: a device, which any number of files may go to."""
        folder, name = os.path.split(write.path)
        _check_length(name, write.flag)
        known = self._folder(folder or os.curdir)
        place = known.place(name)
        if known.exists:
            status = check_place(write.path, write.flag)
            if status is not None and stat.S_ISCHR(status.st_mode):
                return None
            read = self._input_of_file.get((status.st_dev, status.st_ino)) if status else None
            if read is not None:
                raise PlanError(f"{write} would overwrite {shown(read)}, which is read; choose another path")
            if os.path.islink(write.path):
                place = os.path.realpath(write.path)
        if write.is_image or _has_image_suffix(place):
            self._check_is_not_among_images(write, place)
        return place

    def _check_is_not_among_images(self, write: Write, place: str) -> None:
        if self._source is None or not is_within(place, self._source):
            return
        if not any(is_within(place, folder) for folder in self._left_out):
            raise PlanError(
                f"{write} would lie among the images of {shown(self._source)}, and the next run would take "
                "it for one; choose another folder"
            )

    def _check_against_crops(self, place: str, name: str, stems: Mapping[str, CropNames]) -> None:
        """Raise `PlanError` if a file that is not a crop has the name of one."""
        match = _CROP.fullmatch(place)
        names = stems.get(match["stem"]) if match else None
        if names is not None:
            crops = f"{_CROPS_FLAG}{shown(names.folder)}"
            raise PlanError(f"{crops}: a crop would overwrite {name}; choose another folder")

    def _check_is_crop(self, write: Write, stems: Mapping[str, CropNames]) -> None:
        """Raise `PlanError` if what stands where a crop may go is no crop of the same image."""
        if write.flag != _CROPS_FLAG:
            return
        folder, name = os.path.split(write.path)
        match = _CROP.fullmatch(name)
        names = stems[self._folder(folder).place(match["stem"])] if match else None
        if names is not None and not names.is_own(write.path):
            raise PlanError(
                f"{_CROPS_FLAG}{shown(folder)}: a crop of {shown(names.source)} would overwrite "
                f"{shown(write.path)}, which is not marked as one; choose another folder"
            )

    def _files_named_as_crops(
        self, folders: Iterable[str], stems: Mapping[str, CropNames]
    ) -> Iterator[Write]:
        """What stands where crops may go; links among it lead elsewhere."""
        for folder in folders:
            known = self._folder(folder)
            for name in os.listdir(folder) if known.exists else ():
                match = _CROP.fullmatch(name)
                if match and known.place(match["stem"]) in stems:
                    yield Write(os.path.join(folder, name), Path(folder), _CROPS_FLAG)

    def _check_folders(self, written: Mapping[str, Write], crop_folders: Iterable[str]) -> None:
        folders = {os.path.dirname(write.path) or os.curdir for write in written.values()}.union(crop_folders)
        above: set[str] = set()
        for path in folders:
            real = self._folder(path).path
            while real not in above:
                above.add(real)
                real = os.path.dirname(real)
            existing = nearest_existing(Path(path))
            if not existing.is_dir():
                raise PlanError(f"{shown(path)} cannot be made: {shown(existing)} is not a folder")
            if not may(existing, os.W_OK | os.X_OK):
                raise PlanError(f"{shown(path)} cannot be written to: {shown(existing)} is protected")
        for place, write in written.items():
            if place in above:
                raise PlanError(f"{write} would be both a file and a folder")

    def _check_case(self, places: Iterable[str]) -> None:
        """Refuse names that a file system which ignores case (macOS, Windows, vfat) takes for the same."""
        folded: dict[str, str] = {}
        ignoring: dict[Path, bool] = {}
        for place in places:
            other = folded.setdefault(unicodedata.normalize("NFC", place).casefold(), place)
            if other == place:
                continue
            existing = nearest_existing(Path(os.path.dirname(place)))
            if existing not in ignoring:
                ignoring[existing] = ignores_case(existing)
            if ignoring[existing]:
                raise PlanError(f"{shown(other)} and {shown(place)} are the same file on this file system")

    def _folder(self, path: str) -> _Folder:
        folder = self._folders.get(path)
        if folder is None:
            real = os.path.realpath(path)
            folder = self._folders[path] = _Folder(real, os.path.isdir(real))
        return folder


def ignores_case(folder: Path) -> bool:
    """Return whether names that differ in case only are the same file there; it is tried."""
    part = folder / f".atelier-{secrets.token_hex(8)}.part"
    try:
        part.touch(exist_ok=False)
        return part.with_name(part.name.upper()).exists()
    except OSError:  # a folder that cannot be written to, which is reported elsewhere
        return False
    finally:
        part.unlink(missing_ok=True)


def is_too_long(name: str) -> bool:
    """Return whether no file can have this name."""
    return len(name) > NAME_BYTES // 4 and len(os.fsencode(name)) > NAME_BYTES


def _check_length(name: str, flag: str) -> None:
    if is_too_long(name):
        raise PlanError(f"{flag}{shown(name)}: the name is longer than the limit of {NAME_BYTES} bytes")


def _has_image_suffix(place: str) -> bool:
    return os.path.splitext(place)[1].lower() in FORMAT_OF_SUFFIX
