"""Whose fault it is that a job has failed."""

from __future__ import annotations

import pytest

from atelier_gateway.jobs.outcomes import JobOutcome, outcome_of
from atelier_gateway.jobs.upkeep import LOST
from atelier_gateway.jobs.values import Job, JobStatus, JobType, Json
from atelier_runtime.errors import ErrorReason


def job(status: JobStatus, error: Json | None = None) -> Job:
    return Job(
        id="job_1",
        type=JobType.RESTORE,
        status=status,
        owner="",
        priority=0,
        input={},
        created_at=0,
        version=1,
        ttl_ms=1,
        error=error,
    )


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        ({"code": ErrorReason.INVALID_REQUEST}, JobOutcome.REJECTED),
        ({"code": ErrorReason.DEADLINE_UNMEETABLE}, JobOutcome.REJECTED),
        ({"code": ErrorReason.DEADLINE_UNMEETABLE, "retry_after_s": 9.0}, JobOutcome.FAILED),
        ({"code": ErrorReason.QUEUE_FULL, "retry_after_s": 1.0}, JobOutcome.FAILED),
        ({"code": ErrorReason.OUT_OF_MEMORY}, JobOutcome.FAILED),
        (LOST, JobOutcome.FAILED),
        (None, JobOutcome.FAILED),
    ],
)
def test_a_failure_is_ours_unless_the_job_asked_for_what_cannot_be_done(
    error: Json | None, outcome: JobOutcome
) -> None:
    assert outcome_of(job(JobStatus.FAILED, error)) is outcome


@pytest.mark.parametrize("status", [JobStatus.CANCELLED, JobStatus.QUEUED])
def test_only_what_has_ended_by_itself_has_an_outcome(status: JobStatus) -> None:
    assert outcome_of(job(status)) is None
