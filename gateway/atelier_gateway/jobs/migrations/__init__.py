"""Creates the tables of jobs and brings older ones up to date."""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection

from atelier_gateway.jobs.database import SETTING, Database
from atelier_runtime.settings import StartupError

VERSION_TABLE = "job_schema"
"""Says which migration was the last one."""


async def upgrade(database: Database) -> None:
    """Bring the tables up to date; of several gateways that start together, one does.

    Raises `StartupError` if the database cannot be reached, or its tables are of a later version of Atelier.
    """
    async with database.migrating() as connection:
        await connection.run_sync(_upgrade)


def _upgrade(connection: Connection) -> None:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent))
    config.attributes["connection"] = connection
    known = {revision.revision for revision in ScriptDirectory.from_config(config).walk_revisions()}
    context = MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE})
    if later := sorted(set(context.get_current_heads()) - known):
        raise StartupError(
            f"{SETTING}: its tables are of a later version ({', '.join(later)}, this knows {max(known)}); "
            "run that version, or restore the backup that was made before the upgrade"
        )
    command.upgrade(config, "head")
