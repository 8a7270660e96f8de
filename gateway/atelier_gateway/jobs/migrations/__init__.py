"""Creates the tables of jobs and brings older ones up to date."""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config
from sqlalchemy import Connection

from atelier_gateway.jobs.database import Database


async def upgrade(database: Database) -> None:
    """Bring the tables up to date; of several gateways that start together, one does.

    Raises `StartupError` if the database cannot be reached.
    """
    async with database.migrating() as connection:
        await connection.run_sync(_upgrade)


def _upgrade(connection: Connection) -> None:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent))
    config.attributes["connection"] = connection
    command.upgrade(config, "head")
