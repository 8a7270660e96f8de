"""The tables. `migrations` has the statements that create them; a test compares both.

Times are milliseconds since 1970. JSON is text in SQLite.
"""

from __future__ import annotations

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    Float,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    text,
)

metadata = MetaData()

jobs = Table(
    "jobs",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("type", String(16), nullable=False),
    Column("status", String(16), nullable=False),
    Column("owner", String(64), nullable=False),
    Column("priority", Integer, nullable=False),
    Column("input", JSON, nullable=False),
    Column("ttl_ms", BigInteger, nullable=False),
    Column("webhook", JSON(none_as_null=True)),
    Column("idempotency_key", String(255)),
    Column("fingerprint", String(64)),
    Column("created_at", BigInteger, nullable=False),
    Column("available_at", BigInteger, nullable=False),
    Column("started_at", BigInteger),
    Column("completed_at", BigInteger),
    Column("expires_at", BigInteger),
    Column("attempts", Integer, nullable=False),
    Column("waits", Integer, nullable=False),
    Column("fence", Integer, nullable=False),
    Column("runner", String(64)),
    Column("lease_until", BigInteger),
    Column("cancel_requested", Boolean, nullable=False),
    Column("stage", String(64)),
    Column("step", Integer),
    Column("steps", Integer),
    Column("progress", Float, nullable=False),
    Column("expected_ms", BigInteger),
    Column("previews", JSON(none_as_null=True)),
    Column("preview_number", Integer, nullable=False),
    Column("result", JSON(none_as_null=True)),
    Column("error", JSON(none_as_null=True)),
    Column("outputs", JSON, nullable=False),
    Column("expired", Boolean, nullable=False),
    Column("version", BigInteger, nullable=False),
    Index("jobs_to_claim", "status", "available_at"),
    Index("jobs_of_owner", "owner", "id"),
    Index("jobs_of_type", "type", "status", "id"),
    Index("jobs_to_expire", "expires_at"),
    Index("jobs_by_key", "owner", "idempotency_key", unique=True),
)

owners = Table(
    "job_owners",
    metadata,
    Column("owner", String(64), primary_key=True),
    Column("served_at", BigInteger, nullable=False, server_default=text("0")),
)
"""Who has submitted jobs, and when one of them was begun last: the one served longest ago comes first."""

identity = Table("job_database", metadata, Column("id", String(64), primary_key=True))
"""One row: which database this is, so that no other one uses the same files."""

deliveries = Table(
    "job_webhooks",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("job_id", String(64), nullable=False),
    Column("owner", String(64), nullable=False),
    Column("host", String(255), nullable=False),
    Column("url", Text, nullable=False),
    Column("body", Text, nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("available_at", BigInteger, nullable=False),
    Index("webhooks_to_post", "available_at"),
)
"""Events that are still to be posted. `available_at` is put off while one is being posted."""

usage = Table(
    "key_usage",
    metadata,
    Column("key", String(64), primary_key=True),
    Column("kind", String(16), primary_key=True),
    Column("period", BigInteger, primary_key=True),
    Column("used", BigInteger, nullable=False),
)
"""How much of a limit an API key has used in a period, which is numbered from 1970; see `access/usage.py`."""
