"""The events that are still to be posted to webhooks, as rows: whatever ends, they are not lost."""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from urllib.parse import urlsplit

from sqlalchemy import delete, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from atelier_gateway.jobs.database import Database
from atelier_gateway.jobs.store import Events
from atelier_gateway.jobs.tables import deliveries
from atelier_gateway.jobs.values import Job, JobStatus, Json, now_ms

_PUT_OFF_MS = 60_000
"""For so long nobody else posts an event that was taken: longer than a post may take."""


@dataclass(frozen=True)
class Delivery:
    """An event to post. `id` is the same at each attempt; `attempts` counts this one."""

    id: str
    job_id: str
    owner: str
    host: str
    url: str
    body: str
    attempts: int


class Outbox(Events):
    """The rows. `describe` returns what an event says of its job."""

    def __init__(self, database: Database, describe: Callable[[Job], Json]) -> None:
        self._database = database
        self._describe = describe

    async def happened(self, connection: AsyncConnection, job: Job) -> None:
        """Add an event, if the job's webhook wants it."""
        name = "started" if job.status is JobStatus.IN_PROGRESS else str(job.status)
        if job.webhook is None or name not in job.webhook["events"]:
            return
        now = now_ms()
        body = {
            "type": f"job.{name}",
            "timestamp": datetime.fromtimestamp(now / 1000, UTC).isoformat(),
            "data": self._describe(job),
        }
        values = {
            "id": f"msg_{now:012x}{secrets.token_hex(8)}",
            "job_id": job.id,
            "owner": job.owner,
            "host": _host(job.webhook["url"]),
            "url": job.webhook["url"],
            "body": json.dumps(body, separators=(",", ":")),
            "attempts": 0,
            "available_at": now,
        }
        await connection.execute(insert(deliveries).values(values))

    async def take(self, limit: int, excluding: Collection[str] = ()) -> Sequence[Delivery]:
        """Return events whose time has come, and put them off, in case this process ends.

        `excluding`: hosts that are not to be posted to now.
        """
        now = now_ms()
        due = (
            select(deliveries.c.id)
            .where(deliveries.c.available_at <= now, deliveries.c.host.not_in(list(excluding)))
            .order_by(deliveries.c.available_at)
            .limit(limit)
            .with_for_update(skip_locked=True)
        )
        async with self._database.writing() as connection:
            ids = list((await connection.execute(due)).scalars())
            if not ids:
                return []
            taken = (
                update(deliveries)
                .where(deliveries.c.id.in_(ids))
                .values(attempts=deliveries.c.attempts + 1, available_at=now + _PUT_OFF_MS)
                .returning(*deliveries.c)
            )
            rows = (await connection.execute(taken)).mappings().all()
        names = ("id", "job_id", "owner", "host", "url", "body", "attempts")
        return [Delivery(**{name: row[name] for name in names}) for row in rows]

    async def remove(self, delivery: Delivery) -> None:
        """Forget an event that was delivered or given up."""
        async with self._database.writing() as connection:
            await connection.execute(delete(deliveries).where(deliveries.c.id == delivery.id))

    async def remove_all(self, owner: str, url: str) -> None:
        """Forget all events for a receiver that wants no more."""
        of_receiver = (deliveries.c.owner == owner, deliveries.c.url == url)
        async with self._database.writing() as connection:
            await connection.execute(delete(deliveries).where(*of_receiver))

    async def put_off(self, delivery: Delivery, ms: int) -> None:
        """Post an event again, in `ms` at the earliest."""
        later = {"available_at": now_ms() + ms}
        async with self._database.writing() as connection:
            await connection.execute(update(deliveries).where(deliveries.c.id == delivery.id).values(later))


def _host(url: str) -> str:
    return (urlsplit(url).hostname or "")[:255]
