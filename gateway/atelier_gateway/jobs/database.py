"""The database: SQLite in a file for one gateway, PostgreSQL for several. Where they differ, they do here."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import event, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, IntegrityError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from atelier_runtime.errors import DEFAULT_RETRY_AFTER_S, ServiceUnavailable
from atelier_runtime.settings import StartupError

_DRIVERS = {
    "sqlite": "sqlite+aiosqlite",
    "postgresql": "postgresql+psycopg",
    "postgres": "postgresql+psycopg",
}
SETTING = "ATELIER_GATEWAY_JOBS_DATABASE"
_BUSY_S = 30.0
_CONNECT_S = 5
_SILENCE_S = 35.0
"""Longest time of a transaction; the database is alive, but does not answer."""
_CONNECTIONS = 8
_WRITES = "writes"
_ADVISORY_LOCK = 0x41_54_45_4C  # any number that nobody else uses in this database


class Database:
    """Connections to the database.

    A transaction that writes begins with the lock in SQLite, where one that reads first and writes then would
    fail if another has written in between. In PostgreSQL rows are locked one by one.

    Where the database cannot be used, `reading` and `writing` raise `ServiceUnavailable`.
    """

    def __init__(self, url: str) -> None:
        """`url`: `sqlite:///jobs.db` or `postgresql://...`. Nothing is opened yet. Raises `StartupError`."""
        scheme, _, rest = url.partition(":")
        try:
            self.url = make_url(f"{_DRIVERS.get(scheme, scheme)}:{rest}")
        except (ArgumentError, ValueError):
            raise StartupError(f"{SETTING}: cannot be read as a database's URL") from None
        if "@" in (self.url.host or ""):
            raise StartupError(f"{SETTING}: has an @ in its host; in a password, write it as %40")
        self.is_sqlite = self.url.get_backend_name() == "sqlite"
        self.engine: AsyncEngine = create_async_engine(self.url, **self._options())
        self._can_read = self._can_write = True
        self._lock: int | None = None
        if self.is_sqlite:
            event.listen(self.engine.sync_engine, "connect", _set_up_sqlite)
            event.listen(self.engine.sync_engine, "begin", _begin_sqlite)

    def _options(self) -> dict[str, Any]:
        if self.is_sqlite:
            return {"connect_args": {"timeout": _BUSY_S}}
        connect = {"connect_timeout": _CONNECT_S}
        pool = {"pool_size": _CONNECTIONS, "max_overflow": _CONNECTIONS, "pool_timeout": _BUSY_S}
        return {"connect_args": connect, "pool_pre_ping": True, **pool}

    def open(self) -> None:
        """Make SQLite's folder, and keep its file to this process. Raises `StartupError`."""
        if not self.is_sqlite:
            return
        file = Path(self.url.database or "")
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            self._lock = os.open(f"{file}.lock", os.O_RDWR | os.O_CREAT, 0o600)
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._unlock()
            raise StartupError(
                f"{SETTING}: another gateway uses {file}; several need a PostgreSQL database"
            ) from None
        except OSError as error:
            self._unlock()
            raise StartupError(f"{SETTING}: {error.filename}: {error.strerror}") from None

    @asynccontextmanager
    async def reading(self) -> AsyncIterator[AsyncConnection]:
        """A transaction that only reads."""
        with self._noted(writes=False):
            async with (
                asyncio.timeout(_SILENCE_S),
                self.engine.connect() as connection,
                connection.begin(),
            ):
                yield connection

    @asynccontextmanager
    async def writing(self) -> AsyncIterator[AsyncConnection]:
        """A transaction that writes; what it has written is on the disk when it ends."""
        with self._noted(writes=True):
            async with asyncio.timeout(_SILENCE_S), self.engine.connect() as opened:
                connection = await opened.execution_options(**{_WRITES: True})
                async with connection.begin():
                    yield connection

    @asynccontextmanager
    async def migrating(self) -> AsyncIterator[AsyncConnection]:
        """A transaction that only one gateway has at a time. Raises `StartupError`."""
        try:
            async with self.writing() as connection:
                if not self.is_sqlite:
                    await connection.execute(
                        text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _ADVISORY_LOCK}
                    )
                yield connection
        except (ServiceUnavailable, DBAPIError) as error:
            cause = error.__cause__ if isinstance(error, ServiceUnavailable) else error
            reason = str(getattr(cause, "orig", cause)).strip().partition("\n")[0]
            raise StartupError(f"{SETTING}: {reason}") from None

    @property
    def is_usable(self) -> bool:
        """Whether the last transaction succeeded, and none that writes has failed since `try_again`.

        On a full disk, and at a replica, what only reads succeeds.
        """
        return self._can_read and self._can_write

    @contextlib.contextmanager
    def _noted(self, *, writes: bool) -> Iterator[None]:
        """Note whether the database can be used, and raise `ServiceUnavailable` if not."""
        try:
            with _away():
                yield
        except ServiceUnavailable:
            if writes:
                self._can_write = False
            else:
                self._can_read = False
            raise
        self._can_read = True

    async def try_again(self, write: Callable[[AsyncConnection], Awaitable[object]]) -> None:
        """Where writing has failed, see whether it succeeds now; `write` must change a row."""
        if not self._can_write:
            async with self.writing() as connection:
                await write(connection)
            self._can_write = True

    async def close(self) -> None:
        """Close all connections."""
        await self.engine.dispose()
        self._unlock()

    def _unlock(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


@contextlib.contextmanager
def _away() -> Iterator[None]:
    """Turn what says that the database cannot be used, or does not answer, into `ServiceUnavailable`."""
    try:
        yield
    except IntegrityError:
        raise
    except (DBAPIError, PoolTimeout, TimeoutError) as error:
        # Also what is no fault of the connection: a replica that may only be read, lost rights, a full disk.
        raise ServiceUnavailable(
            f"The database of jobs cannot be used ({_kind(error)}).", retry_after_s=DEFAULT_RETRY_AFTER_S
        ) from error


def _kind(error: Exception) -> str:
    """Return what kind of error it is; its text would show statements and values."""
    return type(getattr(error, "orig", None) or error).__name__


def _set_up_sqlite(connection: Any, _: object) -> None:
    connection.isolation_level = None  # the driver must not begin transactions by itself
    cursor = connection.cursor()
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _begin_sqlite(connection: Any) -> None:
    writes = connection.get_execution_options().get(_WRITES, False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")
