"""Paths on the command line: how messages show them, and what stands there."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from atelier_runtime.images import Format

FORMAT_OF_SUFFIX: dict[str, Format] = {
    ".png": "png",
    ".jpg": "jpeg",
    ".jpeg": "jpeg",
    ".webp": "webp",
}

_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFBLK: "a block device",
    stat.S_IFCHR: "a character device",
}


class PlanError(Exception):
    """The given paths are invalid; the message says why."""


def shown(path: str | Path) -> str:
    """Return a path for a message: on one line, without what a terminal would act on."""
    if (text := os.fspath(path)).isprintable():
        return text
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def reason(error: OSError) -> str:
    """Return why a call of the system failed, without the path."""
    return error.strerror or str(error)


def kind(mode: int) -> str:
    """Return what a file that is not a regular one is."""
    return _KINDS.get(stat.S_IFMT(mode), "not a file")


def is_within(path: str, folder: str) -> bool:
    """Return whether a real path is the real path `folder` or below it."""
    return path == folder or path.startswith(folder.rstrip(os.sep) + os.sep)


def may(path: str | Path, access: int) -> bool:
    """Return whether this process may read, write or search, as `os.access` says of its effective user."""
    return os.access(path, access, effective_ids=os.access in os.supports_effective_ids)
