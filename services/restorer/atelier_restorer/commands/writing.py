"""Reading an image, and writing a file whole: what may be replaced, and what is checked before any work."""

from __future__ import annotations

import errno
import os
import secrets
import stat
from pathlib import Path

from atelier_restorer.commands.paths import PlanError, kind, may, reason, shown

MAX_FILE_BYTES = 2**31 - 2**20
"""A message of gRPC ends at 2 GiB, with what else is in it. Also ends reading from a device without end."""

_READ_BYTES = 2**20
_PROBE_BYTES = 4096  # a disk that has no block left takes an empty file


def read_image(path: Path) -> bytes:
    """Read a file or a pipe. Raises `OSError`, also for one that no message can hold."""
    data = bytearray()
    with path.open("rb") as file:
        while chunk := file.read(_READ_BYTES):
            data += chunk
            if len(data) > MAX_FILE_BYTES:
                raise OSError(errno.EFBIG, f"is larger than the limit of {MAX_FILE_BYTES} bytes", str(path))
    return bytes(data)


def read_source(path: Path, command: str) -> bytes:
    """Read the image that a command takes, a file or a pipe. Raises `PlanError`, or `OSError`."""
    if path.is_dir():
        raise PlanError(f"{shown(path)}: is a folder, but {command} takes one image")
    if not path.exists():
        raise PlanError(f"{shown(path)}: there is no such file")
    return read_image(path)


def check_place(path: str | Path, flag: str = "") -> os.stat_result | None:
    """Raise `PlanError` if what stands at a path cannot be replaced or written through.

    A link stands for what it leads to. Regular files are replaced, unless they are write-protected or where
    this process's own output goes; character devices, such as /dev/null, are written through. Returns the
    status of what stands there; None: nothing.
    """
    try:
        status = os.stat(path)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise PlanError(f"{flag}{shown(path)} cannot be written: {reason(error)}") from error
    name = f"{flag}{shown(path)}"
    mode = status.st_mode
    if stat.S_ISCHR(mode):
        return status
    if not stat.S_ISREG(mode):
        raise PlanError(f"{name} is {kind(mode)}, which is not replaced by a file")
    if not mode & 0o222 or not may(
        path, os.W_OK
    ):  # root may write to everything, and protects files all the same
        raise PlanError(f"{name} is write-protected")
    if _is_own_output(status):
        raise PlanError(f"{name} is where this command's own output goes")
    return status


def check_writable(path: Path, flag: str = "") -> None:
    """Raise `PlanError` unless a file can be written here; it is tried, in the file's folder.

    `flag` is put before the path in the message.
    """
    status = check_place(path, flag)
    if status is not None and stat.S_ISCHR(status.st_mode):
        return
    folder = _final(path).parent
    if not folder.is_dir():
        raise PlanError(f"{flag}{shown(path)} cannot be written: {shown(folder)}: there is no such folder")
    _try_to_write(folder, f"{flag}{shown(path)} cannot be written")


def check_folder(folder: Path) -> None:
    """Raise `PlanError` unless files can be written to a folder, or to the one in which it would be made."""
    existing = nearest_existing(folder)
    if not existing.is_dir():
        raise PlanError(f"{shown(folder)} cannot be written to: {shown(existing)} is not a folder")
    _try_to_write(existing, f"{shown(folder)} cannot be written to")


def nearest_existing(folder: Path) -> Path:
    """Return a path, or the closest folder above it at which something stands, be it a link to nothing."""
    while not os.path.lexists(folder) and folder != folder.parent:
        folder = folder.parent
    return folder


def write_whole(path: Path, data: bytes) -> None:
    """Write a file atomically: a reader finds the old file, or none, or the complete new one.

    A link stays one, and the file that it leads to is replaced; a character device is written through.

    Raises:
        OSError: it names `path`.
        PlanError: something else stands there by now.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        status = check_place(path)
        if status is not None and stat.S_ISCHR(status.st_mode):
            with open(os.open(path, os.O_WRONLY | os.O_NOCTTY), "wb") as device:
                device.write(data)
        else:
            _replace(_final(path), data, status)
    except OSError as error:
        raise OSError(error.errno, reason(error), str(path)) from error


def _replace(path: Path, data: bytes, replaced: os.stat_result | None) -> None:
    part = _part_in(path.parent)
    try:
        with part.open("xb") as file:
            if replaced is not None:  # who could not read the old file cannot read the new one
                os.fchmod(file.fileno(), replaced.st_mode & 0o777)
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def _try_to_write(folder: Path, problem: str) -> None:
    part = _part_in(folder)
    try:
        try:
            with part.open("xb") as file:
                file.write(bytes(_PROBE_BYTES))
                file.flush()
                os.fsync(file.fileno())
        finally:
            part.unlink(missing_ok=True)
    except OSError as error:
        raise PlanError(f"{problem}: {reason(error)}") from error


def _part_in(folder: Path) -> Path:
    return folder / f".atelier-{secrets.token_hex(8)}.part"


def _final(path: Path) -> Path:
    """Follow the links of a file's last name; those of its folders need no help."""
    return Path(os.path.realpath(path)) if path.is_symlink() else path


def _is_own_output(status: os.stat_result) -> bool:
    for descriptor in (1, 2):
        try:
            own = os.fstat(descriptor)
        except OSError:  # closed
            continue
        if os.path.samestat(own, status):
            return True
    return False
