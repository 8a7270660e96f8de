"""What earlier runs have restored, in a file beside the results: `--resume` skips it.

One JSON object a line: first `{"run": ...}`, then for every image `{"output", "input_sha256",
"options_sha256", "files"}`, its paths relative to the file's folder. A run only appends, so it may end at
any moment; a line that was not finished counts as none.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from atelier_restorer.commands.files import Task
from atelier_restorer.commands.paths import reason
from atelier_restorer.commands.shares import Share
from atelier_restorer.commands.writing import check_writable, write_whole


def record_name(share: Share | None) -> str:
    """Return the file's name; each share of a folder has its own, for they may run at the same time."""
    part = "" if share is None else f"-{share}"
    return f".atelier-restored{part}.jsonl"


@dataclass(frozen=True, slots=True)
class Entry:
    """An image and how it was, or is to be, restored."""

    output: str
    input_sha256: str
    options_sha256: str


class Record:
    """The images that are restored, with what identifies image and options."""

    def __init__(self, path: Path, options: Mapping[str, Any], *, resume: bool) -> None:
        """Read the file, if earlier runs count.

        Args:
            path: The file, in the folder of the results, which need not exist.
            options: What all images are restored with, as JSON.
            resume: Skip what earlier runs have restored.
        """
        self._path = path
        self._options = options
        self._of_output: dict[str, tuple[Entry, list[str]]] = {}  # of a file written twice, the last
        self.run = secrets.token_hex(16)
        """Names the run, and the one that this one resumes."""
        if resume:
            for line in _lines(path):
                self._take(line)

    def begin(self) -> None:
        """Make the file: with what was read, and room for more. Raises `OSError` or `PlanError`."""
        if self._path.parent.is_dir():
            check_writable(self._path)
        known = [_line(entry, files) for entry, files in self._of_output.values()]
        write_whole(self._path, b"".join([_encoded({"run": self.run}), *known]))

    def entry(self, task: Task, data: bytes) -> Entry:
        """Return what identifies an image with this content and what is done to it."""
        options = {
            **self._options,
            "format": task.format,
            "mask": None if task.mask is None else self._relative(task.mask),
            "crops": None if task.crops is None else self._relative(task.crops.folder),
        }
        return Entry(
            output=self._relative(task.target),
            input_sha256=hashlib.sha256(data).hexdigest(),
            options_sha256=hashlib.sha256(json.dumps(options, sort_keys=True).encode()).hexdigest(),
        )

    def has(self, entry: Entry) -> bool:
        """Return whether an earlier run has restored this, and all that it wrote is still there."""
        known, files = self._of_output.get(entry.output, (None, []))
        return known == entry and all((self._path.parent / file).exists() for file in files)

    def add(self, entry: Entry, files: Iterable[Path]) -> None:
        """Add an image that is written. Raises `OSError`."""
        relative = [self._relative(file) for file in files]
        try:
            with self._path.open("ab") as file:
                file.write(_line(entry, relative))
        except OSError as error:
            raise OSError(error.errno, reason(error), str(self._path)) from error

    def _take(self, line: dict[str, Any]) -> None:
        match line:
            case {"run": str(run)}:
                self.run = run
            case {
                "output": str(output),
                "input_sha256": str(content),
                "options_sha256": str(options),
                "files": [*files],
            }:
                self._of_output[output] = (Entry(output, content, options), [str(file) for file in files])

    def _relative(self, path: Path) -> str:
        return os.path.relpath(path, self._path.parent)


class NoRecord(Record):
    """Nothing is recorded or skipped, and a record of earlier runs no longer holds."""

    def __init__(self, path: Path | None = None) -> None:
        """`path`: of the record of earlier runs, if there may be one."""
        super().__init__(path or Path(), {}, resume=False)
        self._outdated = path

    def begin(self) -> None:
        """Delete the record of earlier runs. Raises `OSError`."""
        if self._outdated is not None:
            self._outdated.unlink(missing_ok=True)

    def entry(self, task: Task, data: bytes) -> Entry:
        """Return nothing of use."""
        return Entry("", "", "")

    def has(self, entry: Entry) -> bool:
        """Return False."""
        return False

    def add(self, entry: Entry, files: Iterable[Path]) -> None:
        """Do nothing."""


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return
    for line in content.splitlines():
        try:
            value = json.loads(line)
        except ValueError:  # the end of a run that was killed
            continue
        if isinstance(value, dict):
            yield value


def _line(entry: Entry, files: list[str]) -> bytes:
    return _encoded(
        {
            "output": entry.output,
            "input_sha256": entry.input_sha256,
            "options_sha256": entry.options_sha256,
            "files": files,
        }
    )


def _encoded(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value).encode() + b"\n"
