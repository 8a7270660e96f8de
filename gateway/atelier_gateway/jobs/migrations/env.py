"""What Alembic runs: the migrations, on the connection that `upgrade` has opened."""

from alembic import context

from atelier_gateway.jobs.migrations import VERSION_TABLE
from atelier_gateway.jobs.tables import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    transactional_ddl=False,  # they belong to the caller's transaction
    version_table=VERSION_TABLE,
    render_as_batch=True,  # SQLite alters tables by copying them
)
context.run_migrations()
