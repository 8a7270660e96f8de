"""Tells those who follow jobs of every change, wherever it was made: on this gateway or on another."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import defaultdict
from collections.abc import AsyncIterator

from atelier_gateway.jobs.store import Change, JobStore
from atelier_runtime.errors import ServiceUnavailable

logger = logging.getLogger(__name__)

_LOOK_S = 0.2

Changes = asyncio.Queue[Change | None]


class Watcher:
    """Looks at the rows of all followed jobs together, five times a second."""

    def __init__(self, store: JobStore) -> None:
        self._store = store
        self._followers: dict[str, set[Changes]] = defaultdict(set)
        self._versions: dict[str, int] = {}
        self._begun = asyncio.Event()

    async def run(self) -> None:
        """Look until the task is canceled."""
        while True:
            await self._begun.wait()
            try:
                for change in await self._store.changes(self._versions.items()):
                    self._tell(change)
            except ServiceUnavailable:  # followers wait until it is back
                logger.warning("changes of jobs cannot be read")
            except Exception:  # those who follow other jobs would wait for ever
                logger.exception("changes of jobs cannot be read")
            if not self._followers:
                self._begun.clear()
            await asyncio.sleep(_LOOK_S)

    @contextlib.asynccontextmanager
    async def follow(self, job_id: str) -> AsyncIterator[Changes]:
        """A queue of the job's changes, its present state first. A slow reader finds only the newest.

        None: there will be no more, since the gateway drains.
        """
        queue: Changes = asyncio.Queue(maxsize=1)
        self._followers[job_id].add(queue)
        self._versions[job_id] = -1  # whoever comes gets the present state, as do the others once more
        self._begun.set()
        try:
            yield queue
        finally:
            self._followers[job_id].discard(queue)
            if not self._followers[job_id]:
                del self._followers[job_id]
                self._versions.pop(job_id, None)

    def _tell(self, change: Change) -> None:
        job_id = change.job.id
        if job_id not in self._followers:
            return
        self._versions[job_id] = change.job.version
        for queue in self._followers[job_id]:
            _put(queue, change)

    def end(self) -> None:
        """Tell all that there will be no more changes."""
        for queues in self._followers.values():
            for queue in queues:
                _put(queue, None)


def _put(queue: Changes, change: Change | None) -> None:
    if queue.full():
        queue.get_nowait()
    queue.put_nowait(change)
