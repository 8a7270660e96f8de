"""Creates the tables of jobs and brings older ones up to date."""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config
from sqlalchemy import Connection, text

from atelier_gateway.jobs.database import Database

_LOCK = 0x41_54_45_4C  # any number that nobody else uses in this database


async def upgrade(database: Database) -> None:
    """Bring the tables up to date; of several gateways that start together, one does."""
    async with database.writing() as connection:
        if not database.is_sqlite:
            await connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
        await connection.run_sync(_upgrade)


def _upgrade(connection: Connection) -> None:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent))
    config.attributes["connection"] = connection
    command.upgrade(config, "head")
