"""One file over HTTP: resumed where it broke off, retried with growing pauses, never too long or too short.

Until it is complete it is called `NAME.part`. Its SHA-256 is known beforehand, so a part is continued without
asking the server whether it is still the same file: if it was not, the whole has another checksum. A response
that cannot continue it is kept as `NAME.part.new`, and takes the part's place only when it is longer.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from tools.models.addresses import public
from tools.models.client import Answer, Broken, Client, DownloadError, check_status

ATTEMPTS = 6
LONGEST_PAUSE_S = 60.0
_LIMITED_PAUSES = 60  # first pauses, when there were too many requests and the server does not say how long
_NO_PAUSE_BYTES = 64 << 10  # a connection that brought so much is continued at once
_MOST_QUOTED = 60

Progress = Callable[[int], None]
"""Called with the number of bytes of the file that are on disk."""


class _NotContinued(Broken):
    """The server does not send the rest; it may send the whole."""


def part_of(target: Path) -> Path:
    """Where a file is kept until it is complete and checked."""
    return target.with_name(target.name + ".part")


def leftovers_of(path: str) -> list[str]:
    """The names under which an interrupted run may have left parts of a file."""
    return [f"{path}.part", f"{path}.part.new", f"{path}.part.version"]  # the last one: of version 0.1


def discard_part(target: Path) -> None:
    """Delete what was fetched of a file."""
    for name in leftovers_of(target.name):
        target.with_name(name).unlink(missing_ok=True)


def size_of(path: Path) -> int:
    """Return a file's size in bytes, 0 if there is none."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def download(
    client: Client,
    url: str,
    target: Path,
    size: int,
    *,
    progress: Progress,
    say: Callable[[str], None],
    first_pause_s: float = 1.0,
) -> bool:
    """Fetch `size` bytes from `url` into `part_of(target)`; return whether an earlier part was continued.

    Gives up after `ATTEMPTS` attempts in a row without a new byte, pausing `first_pause_s`, twice that, and
    so on between them, or as long as the server asks. Raises `DownloadError`; what has arrived by then is
    kept for the next run.
    """
    part = part_of(target)
    part.parent.mkdir(parents=True, exist_ok=True)
    _keep_longer(part, size)
    most, fruitless, afresh = _usable(part, size), 0, False
    resumed = most > 0
    while _usable(part, size) < size:
        had = _usable(part, size)
        try:
            resumed = _attempt(client, url, part, 0 if afresh else had, size, progress) or resumed
            broken = None
        except Broken as error:
            broken = error
            resumed = True
        afresh = isinstance(broken, _NotContinued)
        gained = _usable(part, size) - most
        most = max(most, _usable(part, size))
        fruitless = 0 if gained > 0 else fruitless + 1
        if fruitless >= ATTEMPTS:
            raise DownloadError(
                f"{public(url)}: {broken or 'no bytes'}; gave up after {ATTEMPTS} attempts without a new byte"
            ) from broken
        if broken is not None:
            pause = _pause(broken, gained, first_pause_s, fruitless)
            start = "the beginning" if afresh else f"byte {_usable(part, size)}"
            say(f"{public(url)}: {broken}; retrying in {pause:.3g} s from {start}")
            time.sleep(pause)
    return resumed


def _usable(part: Path, size: int) -> int:
    """Return the bytes of a part, 0 if they are more than the file has: it is something else."""
    return size_of(part) if size_of(part) <= size else 0


def _pause(broken: Broken, gained: int, first_pause_s: float, fruitless: int) -> float:
    if gained >= _NO_PAUSE_BYTES:
        return broken.pause_s or 0.0
    pause = min(first_pause_s * float(2**fruitless), LONGEST_PAUSE_S)
    if broken.pause_s is not None:  # some servers ask for 0 s each time
        return max(broken.pause_s, pause)
    return max(pause, min(first_pause_s * _LIMITED_PAUSES, LONGEST_PAUSE_S)) if broken.limited else pause


def _attempt(client: Client, url: str, part: Path, start: int, size: int, progress: Progress) -> bool:
    """Fetch from byte `start` on; return whether the part was continued."""
    headers = {"Range": f"bytes={start}-"} if start else {}
    with client.get(url, headers) as answer:
        check_status(answer, url)
        begin, end = _extent(answer, url, start, size)
        with _file_for(part, begin, size) as file:
            _receive(answer, url, file, begin, end, size, progress)
    return begin > 0


@contextmanager
def _file_for(part: Path, begin: int, size: int) -> Iterator[BinaryIO]:
    """Open the part to continue it; what begins anew goes into a file of its own if there is a part."""
    path = part if begin or not _usable(part, size) else _new_of(part)
    flags = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | (os.O_APPEND if begin else os.O_TRUNC)
    try:
        with open(path, "wb", opener=lambda name, _: os.open(name, flags, 0o666)) as file:
            try:
                yield file
            finally:
                file.flush()
                os.fsync(file.fileno())
    except DownloadError:
        _new_of(part).unlink(missing_ok=True)  # longer than the file: of no use
        raise
    finally:
        _keep_longer(part, size)


def _new_of(part: Path) -> Path:
    return part.with_name(part.name + ".new")


def _keep_longer(part: Path, size: int) -> None:
    """Of a part and what was fetched anew, keep the longer."""
    new = _new_of(part)
    if size_of(new) > _usable(part, size):
        new.replace(part)
    new.unlink(missing_ok=True)


def _extent(answer: Answer, url: str, start: int, size: int) -> tuple[int, int]:
    """Return the positions in the file at which the response's body begins and ends."""
    response, status = answer.response, answer.response.status_code
    if status == 416:
        raise _NotContinued("the server does not have that range")
    if response.headers.get("Content-Encoding", "identity").lower() not in ("identity", ""):
        raise DownloadError(f"{public(url)}: sent in another encoding, although the plain file was requested")
    if status == 206:
        sent = response.headers.get("Content-Range", "")
        match = re.fullmatch(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18}|\*)", sent)
        if (
            match
            and match[3] in (str(size), "*")
            and int(match[1]) == start
            and start <= int(match[2]) < size
        ):
            return start, int(match[2]) + 1
        raise _NotContinued(f"the server sent another range ({sent[:_MOST_QUOTED]}) than requested")
    offered = response.headers.get("Content-Length", str(size))
    if offered != str(size):
        kind = response.headers.get("Content-Type", "").partition(";")[0][:_MOST_QUOTED]
        raise DownloadError(
            f"{public(url)}: the server offers {offered[:_MOST_QUOTED]} bytes, the catalog says {size}"
            + (f" (it is {kind})" if kind.startswith("text/") else "")
        )
    return 0, size


def _receive(
    answer: Answer, url: str, file: BinaryIO, begin: int, end: int, size: int, progress: Progress
) -> None:
    done = begin
    for chunk in answer.response.iter_raw():
        if done + len(chunk) > end and answer.response.status_code == 200:
            raise DownloadError(
                f"{public(url)}: the server sends more than the {size} bytes that the catalog says"
            )
        done += file.write(chunk[: end - done])
        progress(done)
        if done == end and answer.response.status_code == 206:
            return  # whatever follows was not announced
    if done < end:
        raise Broken(f"the response ended after {done} of {size} bytes")
