"""A file's content at one moment, in memory, where no other process can change it.

What is compared with a checksum must be what is loaded. If a file is opened a second time, or mapped, it may
have been replaced or overwritten in between; a sealed copy cannot be.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import stat
from collections.abc import Callable
from io import FileIO
from pathlib import Path
from typing import BinaryIO

_CHUNK_BYTES = 4 << 20
_SEALS = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_WRITE | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK
_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


class CheckpointError(ValueError):
    """A checkpoint file cannot be used; the message names the file and the reason."""


class Snapshot:
    """A copy of a file, as a context that ends with `close`.

    `sha256` is that of the whole copy; empty if only the file's beginning was copied.
    """

    def __init__(self, source: Path, descriptor: int, size: int, sha256: str) -> None:
        self.source = source
        self.size = size
        self.sha256 = sha256
        self._descriptor = descriptor

    @property
    def path(self) -> str:
        """A path under which this process can open the copy, as often as needed until the context ends."""
        return f"/proc/self/fd/{self._descriptor}"

    def open(self) -> BinaryIO:
        """Open the copy for reading, from its beginning."""
        return open(self.path, "rb")

    def read(self) -> bytes:
        """Return the whole content."""
        with self.open() as file:
            return file.read()

    def close(self) -> None:
        """Free the memory, except for what is still mapped."""
        os.close(self._descriptor)

    def __enter__(self) -> Snapshot:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


Reader = Callable[[Path], Snapshot]
"""How a file's content is obtained: `take`, or a function that also compares it with a checksum."""


def take(path: Path, *, beginning: int | None = None, most: int | None = None) -> Snapshot:
    """Copy a regular file into memory.

    `beginning`: copy only so many bytes; the rest of the copy reads as zeros and takes no memory. `most`: the
    size in bytes above which the file is refused.

    Raises:
        CheckpointError: there is no such file, it is not a regular file, cannot be read, or is too large.
    """
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        if most is not None and size > most:
            raise CheckpointError(f"{path} has {size} bytes; at most {most} are read")
        try:
            copy = os.memfd_create("atelier", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
            try:
                # Not beyond the size at the beginning: the file may grow for as long as we read.
                digest = _copy(file, copy, size if beginning is None else min(beginning, size))
                if beginning is not None:
                    os.truncate(copy, size)
                fcntl.fcntl(copy, fcntl.F_ADD_SEALS, _SEALS)
            except BaseException:
                os.close(copy)
                raise
        except OSError as error:
            raise CheckpointError(f"{path} cannot be read: {error.strerror}") from error
    return Snapshot(path, copy, size, digest if beginning is None else "")


def _copy(file: FileIO, target: int, size: int) -> str:
    """Copy `size` bytes and return their SHA-256. Raises `OSError` if the file ends earlier."""
    digest, left = hashlib.sha256(), size
    with open(target, "wb", buffering=0, closefd=False) as copy:
        while left:
            chunk = file.read(min(left, _CHUNK_BYTES))
            if not chunk:
                raise OSError(0, f"it was cut to {size - left} of {size} bytes while it was read")
            digest.update(chunk)
            rest = memoryview(chunk)
            while rest:
                rest = rest[copy.write(rest) :]
            left -= len(chunk)
    return digest.hexdigest()


def open_regular(path: Path) -> FileIO:
    """Open a regular file for reading; never waits, as opening a pipe would.

    Raises `CheckpointError` naming the file and what it is instead.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError as error:
        raise CheckpointError(f"{path}: there is no such file") from error
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the path
        raise CheckpointError(f"{path} cannot be read: {getattr(error, 'strerror', error)}") from error
    mode = os.fstat(descriptor).st_mode
    if not stat.S_ISREG(mode):
        os.close(descriptor)
        raise CheckpointError(f"{path} is {_KINDS.get(stat.S_IFMT(mode), 'no regular file')}, not a file")
    return FileIO(descriptor, "rb")


def sha256(path: Path) -> str:
    """Return a file's SHA-256 in hexadecimal. Raises `CheckpointError` unless it is a regular file."""
    with open_regular(path) as file:
        try:
            return hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise CheckpointError(f"{path} cannot be read: {error.strerror}") from error
