"""The bytes of jobs: their inputs and outputs, in a folder or in an object store (S3 and kin, GCS, Azure).

A blob's name is `ID/name`: all of a job's are deleted together.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Iterator
from datetime import datetime
from pathlib import Path
from urllib.parse import unquote, urlsplit

import obstore
from obstore.exceptions import BaseError, NotFoundError
from obstore.store import LocalStore, ObjectStore, from_url

from atelier_gateway.jobs.values import Job, is_job_id
from atelier_runtime.errors import DEFAULT_RETRY_AFTER_S, ServiceUnavailable
from atelier_runtime.settings import StartupError

_SETTING = "ATELIER_GATEWAY_JOBS_FILES"
_MARKER = "atelier-jobs.id"
_PROBE = "atelier-jobs.probe"
_CHUNK_BYTES = 2**20
_PROBE_BYTES = bytes(2**16)


class BlobMissing(Exception):
    """There is no blob of that name."""


class BlobStore:
    """Bytes by name. What `put` has returned from survives a loss of power.

    Attributes:
        is_usable: What came of the last `put`.
    """

    def __init__(self, url: str) -> None:
        """`url`: `file:folder`, or one that obstore reads, such as `s3://bucket/prefix`; opened by `open`."""
        self._url = url
        parts = urlsplit(url)
        self._folder = Path(unquote(parts.path)) if parts.scheme == "file" else None
        self._opened: ObjectStore | None = None
        self.is_usable = True

    def open(self) -> None:
        """Create the folder, or read what says where the object store is. Raises `StartupError`."""
        try:
            if self._folder is not None:
                self._opened = LocalStore(self._folder, mkdir=True, automatic_cleanup=True)
            else:
                self._opened = from_url(self._url)
        except Exception as error:  # obstore's own base class is `Exception`
            reason = str(error).strip().partition("\n")[0]
            raise StartupError(f"{_SETTING}: {reason}") from None

    @property
    def _store(self) -> ObjectStore:
        assert self._opened is not None, "`open` was called"
        return self._opened

    async def put(self, name: str, data: bytes) -> None:
        """Keep bytes under a name, in place of what was there."""
        try:
            with _reachable(name):
                await obstore.put_async(self._store, name, data)
                if self._folder is not None:
                    await asyncio.to_thread(_sync, self._folder, name)
        except BlobMissing as error:  # the bucket or folder itself
            self.is_usable = False
            raise _away() from error
        except ServiceUnavailable:
            self.is_usable = False
            raise
        self.is_usable = True

    async def try_again(self) -> None:
        """Where the last `put` failed, see whether one can be made now."""
        if not self.is_usable:
            with contextlib.suppress(ServiceUnavailable, BlobMissing):
                await self.put(_PROBE, _PROBE_BYTES)
                with _reachable(_PROBE):
                    await obstore.delete_async(self._store, _PROBE)

    async def belong_to(self, database_id: str) -> None:
        """Mark the store as that of a database, unless it is another's. Raises `StartupError`.

        What has no row is deleted from it, so two databases must not share one.
        """
        try:
            owner = (await self.get(_MARKER)).decode(errors="replace").strip()
        except BlobMissing:
            await self._mark(database_id)
            return
        except ServiceUnavailable as error:
            raise StartupError(f"{_SETTING}: {error.__cause__ or error}") from None
        if owner != database_id:
            raise StartupError(
                f"{_SETTING}: these files are of another database's jobs, as the file {_MARKER} in it says; "
                "give each database a folder or prefix of its own"
            )

    async def _mark(self, database_id: str) -> None:
        try:
            await self.put(_MARKER, database_id.encode())
        except ServiceUnavailable as error:
            reason = str(error.__cause__ or error).strip().partition("\n")[0]
            raise StartupError(f"{_SETTING}: {reason}") from None

    async def get(self, name: str) -> bytes:
        """Return all bytes of a blob. Raises `BlobMissing`."""
        with _reachable(name):
            found = await obstore.get_async(self._store, name)
            return bytes(await found.bytes_async())

    async def stream(self, name: str, start: int, end: int) -> AsyncIterator[bytes]:
        """Return the bytes from `start` up to `end`, without it, in chunks. Raises `BlobMissing`."""
        first = await self._range(name, start, end)

        async def chunks() -> AsyncIterator[bytes]:
            yield first
            at = start + len(first)
            while at < end:
                chunk = await self._range(name, at, end)
                yield chunk
                at += len(chunk)

        return chunks()

    async def _range(self, name: str, start: int, end: int) -> bytes:
        if start == end:
            return b""
        length = min(_CHUNK_BYTES, end - start)
        with _reachable(name):
            return bytes(await obstore.get_range_async(self._store, name, start=start, length=length))

    async def delete_inputs(self, job: Job) -> None:
        """Delete the files that a job came with; whatever of them is gone already is no error.

        Those that are kept as outputs stay, until these are deleted.
        """
        kept = {output.blob for output in job.outputs}
        for name in set(job.input.get("files", {}).values()) - kept:
            with contextlib.suppress(BlobMissing), _reachable(name):
                await obstore.delete_async(self._store, name)

    async def delete_of(self, job_id: str) -> None:
        """Delete all blobs of a job; none is no error."""
        with contextlib.suppress(BlobMissing), _reachable(job_id):
            async for page in obstore.list(self._store, prefix=f"{job_id}/"):
                if names := [each["path"] for each in page]:
                    await obstore.delete_async(self._store, names)

    async def job_ids(self, before: datetime) -> set[str]:
        """Return the IDs of jobs whose blobs are all older than a time."""
        old, young = set[str](), set[str]()
        with _reachable("the list"):
            async for page in obstore.list(self._store):
                for each in page:
                    job_id = each["path"].partition("/")[0]
                    if is_job_id(job_id):
                        (old if each["last_modified"] < before else young).add(job_id)
        return old - young

    async def bytes_held(self) -> int:
        """Return the size of all blobs together."""
        total = 0
        with _reachable("the list"):
            async for page in obstore.list(self._store):
                total += sum(each["size"] for each in page)
        return total


@contextlib.contextmanager
def _reachable(name: str) -> Iterator[None]:
    """Turn what the object store raises into what is known of it here."""
    try:
        yield
    except (NotFoundError, FileNotFoundError):
        raise BlobMissing(name) from None
    except (BaseError, OSError) as error:
        raise _away() from error


def _away() -> ServiceUnavailable:
    return ServiceUnavailable("The files of jobs cannot be reached.", retry_after_s=DEFAULT_RETRY_AFTER_S)


def _sync(folder: Path, name: str) -> None:
    """Put a file, and the entries of the folders above it, on the disk."""
    path = folder / name
    for each in (path, *path.parents):
        handle = os.open(each, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
        if each == folder:
            return
