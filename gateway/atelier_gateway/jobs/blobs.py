"""The bytes of jobs: their inputs and outputs, in a folder or in an object store (S3 and kin, GCS, Azure).

A blob's name is `ID/name`: all of a job's are deleted together.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from datetime import datetime
from pathlib import Path
from urllib.parse import unquote, urlsplit

import obstore
from obstore.exceptions import NotFoundError
from obstore.store import LocalStore, from_url

_CHUNK_BYTES = 2**20


class BlobMissing(Exception):
    """There is no blob of that name."""


class BlobStore:
    """Bytes by name. What `put` has returned from survives a loss of power."""

    def __init__(self, url: str) -> None:
        """`url`: `file:///folder`, which is created, or what obstore reads, such as `s3://bucket/prefix`.

        Raises `ValueError` if it cannot be read.
        """
        parts = urlsplit(url)
        self._folder = Path(unquote(parts.path)) if parts.scheme == "file" else None
        if self._folder is not None:
            self._store = LocalStore(self._folder, mkdir=True, automatic_cleanup=True)
        else:
            try:
                self._store = from_url(url)
            except Exception as error:  # obstore's own base class is `Exception`
                raise ValueError(str(error)) from error

    async def put(self, name: str, data: bytes) -> None:
        """Keep bytes under a name, in place of what was there."""
        await obstore.put_async(self._store, name, data)
        if self._folder is not None:
            await asyncio.to_thread(_sync, self._folder, name)

    async def get(self, name: str) -> bytes:
        """Return all bytes of a blob. Raises `BlobMissing`."""
        try:
            found = await obstore.get_async(self._store, name)
            return bytes(await found.bytes_async())
        except (NotFoundError, FileNotFoundError):
            raise BlobMissing(name) from None

    async def stream(self, name: str, start: int, end: int) -> AsyncIterator[bytes]:
        """Yield the bytes from `start` up to `end`, without it. Raises `BlobMissing`."""
        while start < end:
            length = min(_CHUNK_BYTES, end - start)
            try:
                chunk = await obstore.get_range_async(self._store, name, start=start, length=length)
            except (NotFoundError, FileNotFoundError):
                raise BlobMissing(name) from None
            yield bytes(chunk)
            start += length

    async def delete_of(self, job_id: str) -> None:
        """Delete all blobs of a job; none is no error."""
        async for page in obstore.list(self._store, prefix=f"{job_id}/"):
            if names := [each["path"] for each in page]:
                await obstore.delete_async(self._store, names)

    async def job_ids(self, before: datetime) -> set[str]:
        """Return the IDs of jobs whose blobs are all older than a time."""
        old, young = set[str](), set[str]()
        async for page in obstore.list(self._store):
            for each in page:
                job_id = each["path"].partition("/")[0]
                (old if each["last_modified"] < before else young).add(job_id)
        return old - young

    async def bytes_held(self) -> int:
        """Return the size of all blobs together."""
        total = 0
        async for page in obstore.list(self._store):
            total += sum(each["size"] for each in page)
        return total


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
