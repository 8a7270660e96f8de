"""The first tables."""

import secrets

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create them."""
    op.create_table(
        "jobs",
        sa.Column("id", sa.String(64), primary_key=True),
        sa.Column("type", sa.String(16), nullable=False),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("owner", sa.String(64), nullable=False),
        sa.Column("priority", sa.Integer, nullable=False),
        sa.Column("input", sa.JSON, nullable=False),
        sa.Column("ttl_ms", sa.BigInteger, nullable=False),
        sa.Column("webhook", sa.JSON),
        sa.Column("idempotency_key", sa.String(255)),
        sa.Column("fingerprint", sa.String(64)),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("available_at", sa.BigInteger, nullable=False),
        sa.Column("started_at", sa.BigInteger),
        sa.Column("completed_at", sa.BigInteger),
        sa.Column("expires_at", sa.BigInteger),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("waits", sa.Integer, nullable=False),
        sa.Column("fence", sa.Integer, nullable=False),
        sa.Column("runner", sa.String(64)),
        sa.Column("lease_until", sa.BigInteger),
        sa.Column("cancel_requested", sa.Boolean, nullable=False),
        sa.Column("stage", sa.String(64)),
        sa.Column("step", sa.Integer),
        sa.Column("steps", sa.Integer),
        sa.Column("progress", sa.Float, nullable=False),
        sa.Column("expected_ms", sa.BigInteger),
        sa.Column("previews", sa.JSON),
        sa.Column("preview_number", sa.Integer, nullable=False),
        sa.Column("result", sa.JSON),
        sa.Column("error", sa.JSON),
        sa.Column("outputs", sa.JSON, nullable=False),
        sa.Column("expired", sa.Boolean, nullable=False),
        sa.Column("version", sa.BigInteger, nullable=False),
    )
    op.create_index("jobs_to_claim", "jobs", ["status", "available_at"])
    op.create_index("jobs_of_owner", "jobs", ["owner", "id"])
    op.create_index("jobs_of_type", "jobs", ["type", "status", "id"])
    op.create_index("jobs_to_expire", "jobs", ["expires_at"])
    op.create_index("jobs_by_key", "jobs", ["owner", "idempotency_key"], unique=True)
    op.create_table(
        "job_owners",
        sa.Column("owner", sa.String(64), primary_key=True),
        sa.Column("served_at", sa.BigInteger, nullable=False, server_default=sa.text("0")),
    )
    database = op.create_table("job_database", sa.Column("id", sa.String(64), primary_key=True))
    op.bulk_insert(database, [{"id": secrets.token_hex(16)}])
    op.create_table(
        "job_webhooks",
        sa.Column("id", sa.String(64), primary_key=True),
        sa.Column("job_id", sa.String(64), nullable=False),
        sa.Column("owner", sa.String(64), nullable=False),
        sa.Column("host", sa.String(255), nullable=False),
        sa.Column("url", sa.Text, nullable=False),
        sa.Column("body", sa.Text, nullable=False),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("available_at", sa.BigInteger, nullable=False),
    )
    op.create_index("webhooks_to_post", "job_webhooks", ["available_at"])


def downgrade() -> None:
    """Drop them."""
    op.drop_table("job_webhooks")
    op.drop_table("job_database")
    op.drop_table("job_owners")
    op.drop_table("jobs")
