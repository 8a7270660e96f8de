"""How a job that has ended is counted: by its status, by its time, and by whose fault a failure is."""

from __future__ import annotations

from enum import StrEnum

from atelier_gateway.jobs.values import Job, JobStatus, JobType
from atelier_runtime import metrics
from atelier_runtime.errors import ErrorReason

_CLIENTS_FAULT = frozenset(
    {
        ErrorReason.INVALID_REQUEST,
        ErrorReason.MALFORMED_BODY,
        ErrorReason.BODY_TOO_LARGE,
        ErrorReason.UNSUPPORTED_MEDIA_TYPE,
        ErrorReason.NOT_SERVED,
        ErrorReason.FORBIDDEN,
    }
)


class JobOutcome(StrEnum):
    """How a job has ended. Those that were canceled are not among them: nobody waited for their end."""

    COMPLETED = "completed"
    REJECTED = "rejected"
    """It asked for what cannot be done, such as an image that cannot be read."""
    FAILED = "failed"
    """Through a fault of ours."""


def outcome_of(job: Job) -> JobOutcome | None:
    """Return how a job has ended; None: it was canceled, or it has not ended."""
    if job.status is JobStatus.COMPLETED:
        return JobOutcome.COMPLETED
    if job.status is not JobStatus.FAILED:
        return None
    error = job.error or {}
    code = error.get("code")
    if code in _CLIENTS_FAULT:
        return JobOutcome.REJECTED
    # without a time to retry after, no queue is to blame: the work takes longer than an attempt may
    if code == ErrorReason.DEADLINE_UNMEETABLE and error.get("retry_after_s") is None:
        return JobOutcome.REJECTED
    return JobOutcome.FAILED


def announce() -> None:
    """Make the series of all jobs that may end, so that the first one is an increase."""
    for job_type in JobType:
        for status in JobStatus:
            if status.is_final:
                metrics.JOBS_ENDED.labels(job_type, status)
        for outcome in JobOutcome:
            metrics.JOB_DURATION.labels(job_type, outcome)


def count_ended(job: Job) -> None:
    """Count a job that this gateway has just brought to its end."""
    metrics.JOBS_ENDED.labels(job.type, job.status).inc()
    outcome = outcome_of(job)
    if outcome is not None and job.completed_at is not None:
        seconds = (job.completed_at - job.created_at) / 1000
        metrics.JOB_DURATION.labels(job.type, outcome).observe(seconds)
