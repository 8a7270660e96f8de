"""One file over HTTP: resumed where it broke off, retried with growing pauses, never too long or too short.

Until it is complete it is called `NAME.part`; `NAME.part.version` next to it holds the server's validator of
this version of the file (ETag or date), without which the rest of another version could be appended to it.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable
from pathlib import Path

import httpx

ATTEMPTS = 6
LONGEST_PAUSE_S = 60.0
_RETRYABLE = (408, 425, 429, 500, 502, 503, 504)

Progress = Callable[[int], None]
"""Called with the number of bytes of the file that are on disk."""


class DownloadError(Exception):
    """A file could not be fetched; the message names the URL and the reason."""


class _Broken(Exception):
    """This attempt failed; another may succeed."""

    def __init__(self, reason: str, pause_s: float | None = None) -> None:
        super().__init__(reason)
        self.pause_s = pause_s


def new_client(timeout_s: float) -> httpx.Client:
    """Return a client that follows redirects and gives up on a silent server after `timeout_s`."""
    timeout = httpx.Timeout(timeout_s, connect=min(timeout_s, 15.0))
    return httpx.Client(follow_redirects=True, timeout=timeout, headers={"User-Agent": "atelier-models"})


def part_of(target: Path) -> Path:
    """Where a file is kept until it is complete and checked."""
    return target.with_name(target.name + ".part")


def discard_part(target: Path) -> None:
    """Delete what was fetched of a file."""
    part_of(target).unlink(missing_ok=True)
    _version_of(part_of(target)).unlink(missing_ok=True)


def size_of(path: Path) -> int:
    """Return a file's size in bytes, 0 if there is none."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def download(
    client: httpx.Client,
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
    so on between them. Raises `DownloadError`; what has arrived by then is kept for the next run.
    """
    part = part_of(target)
    part.parent.mkdir(parents=True, exist_ok=True)
    most, resumed, fruitless = size_of(part), False, 0
    while True:
        try:
            return _attempt(client, url, part, size, progress) or resumed
        except _Broken as broken:
            resumed = True
            fruitless = 0 if size_of(part) > most else fruitless + 1
            most = max(most, size_of(part))
            if fruitless >= ATTEMPTS:
                raise DownloadError(
                    f"{url}: {broken}; gave up after {ATTEMPTS} attempts without a new byte"
                ) from broken
            pause = min(broken.pause_s or first_pause_s * 2**fruitless, LONGEST_PAUSE_S)
            say(f"{url}: {broken}; retrying in {pause:.3g} s from byte {size_of(part)}")
            time.sleep(pause)


def _attempt(client: httpx.Client, url: str, part: Path, size: int, progress: Progress) -> bool:
    """Fetch what is missing; return whether a part was there already."""
    have = size_of(part)
    if have == size:
        return True  # the checksum decides
    headers = {"Accept-Encoding": "identity"}
    version = _read_version(part)
    if version and 0 < have < size:
        headers |= {"Range": f"bytes={have}-", "If-Range": version}
    else:
        have = 0
    try:
        with client.stream("GET", url, headers=headers) as response:
            start = _start(response, part, have, size)
            if start == 0:
                part.unlink(missing_ok=True)  # first, or old bytes would be taken for the new version
                _write_version(part, response)
            _receive(response, part, start, size, progress)
    except httpx.TransportError as error:
        raise _Broken(f"the connection broke ({error or type(error).__name__})") from error
    except httpx.HTTPError as error:
        raise DownloadError(f"{url}: {error}") from error
    return start > 0


def _start(response: httpx.Response, part: Path, have: int, size: int) -> int:
    """Return the position in the file at which the response body begins."""
    url, status = response.request.url, response.status_code
    if response.headers.get("Content-Encoding", "identity") != "identity":
        raise DownloadError(f"{url}: sent in another encoding, although the plain file was requested")
    if status == 206:
        sent = response.headers.get("Content-Range", "")
        if have == 0 or not re.fullmatch(rf"bytes {have}-{size - 1}/({size}|\*)", sent):
            part.unlink(missing_ok=True)
            raise _Broken(f"the server sent another range ({sent}) than requested; starting over")
        return have
    if status == 416:
        part.unlink(missing_ok=True)
        raise _Broken("the server does not have that range; starting over")
    if status in _RETRYABLE:
        raise _Broken(f"the server returned {status} {response.reason_phrase}", _retry_after(response))
    if status != 200:
        raise DownloadError(f"{url}: the server returned {status} {response.reason_phrase}")
    offered = response.headers.get("Content-Length", str(size))
    if offered != str(size):
        raise DownloadError(f"{url}: the server offers {offered} bytes, the catalog says {size}")
    return 0


def _receive(response: httpx.Response, part: Path, start: int, size: int, progress: Progress) -> None:
    done = start
    with part.open("ab") as file:
        try:
            for chunk in response.iter_raw():
                done += len(chunk)
                if done > size:
                    raise DownloadError(
                        f"{response.request.url}: the server sends more than the {size} bytes "
                        "that the catalog says"
                    )
                file.write(chunk)
                progress(done)
        finally:
            file.flush()
            os.fsync(file.fileno())
    if done < size:
        raise _Broken(f"the response ended after {done} of {size} bytes")


def _retry_after(response: httpx.Response) -> float | None:
    value = response.headers.get("Retry-After", "")
    return float(value) if value.isdigit() else None


def _version_of(part: Path) -> Path:
    return part.with_name(part.name + ".version")


def _read_version(part: Path) -> str | None:
    path = _version_of(part)
    return path.read_text(encoding="ascii") if path.is_file() else None


def _write_version(part: Path, response: httpx.Response) -> None:
    """Store what If-Range accepts: a strong ETag, else the date (RFC 9110, section 13.1.5)."""
    version = response.headers.get("ETag", "")
    if not version or version.startswith("W/") or not version.isascii():
        version = response.headers.get("Last-Modified", "")
    if version:
        _version_of(part).write_text(version, encoding="ascii")
    else:
        _version_of(part).unlink(missing_ok=True)
