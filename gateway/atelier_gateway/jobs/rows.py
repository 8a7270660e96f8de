"""Rows of the table `jobs` as values, and what every job that ends has in common."""

from __future__ import annotations

from typing import Any

from sqlalchemy.engine import RowMapping

from atelier_gateway.jobs.tables import jobs
from atelier_gateway.jobs.values import Job, JobStatus, JobType, Output


def ended(status: JobStatus, now: int) -> dict[str, Any]:
    """Return what is written to a job that ends."""
    return {
        "status": status,
        "completed_at": now,
        "expires_at": now + jobs.c.ttl_ms,
        "runner": None,
        "lease_until": None,
        "previews": None,
        "stage": None,
        "step": None,
        "steps": None,
        "version": jobs.c.version + 1,
    }


def job_of(row: RowMapping) -> Job:
    """Return a row as a value."""
    names = (
        *("id", "owner", "priority", "input", "created_at", "version", "ttl_ms", "attempts", "available_at"),
        *(
            "started_at",
            "completed_at",
            "expires_at",
            "cancel_requested",
            "stage",
            "step",
            "steps",
            "progress",
        ),
        *("result", "error", "webhook", "expired", "expected_ms", "waits"),
    )
    return Job(
        type=JobType(row["type"]),
        status=JobStatus(row["status"]),
        outputs=tuple(Output(**output) for output in row["outputs"]),
        **{name: row[name] for name in names},
    )
