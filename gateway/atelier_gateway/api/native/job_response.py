"""A job as clients see it."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, Literal

from pydantic import BaseModel, Field

from atelier_gateway.api.native.errors import ProblemDetail
from atelier_gateway.jobs.service import NOTHING_KNOWN, Outlook
from atelier_gateway.jobs.values import Job, JobStatus, JobType


class OutputAnswer(BaseModel):
    """A file that the job has made."""

    name: str = Field(examples=["image"])
    url: str
    content_type: str = Field(examples=["image/png"])
    size_bytes: int
    width: int
    height: int


class JobUrls(BaseModel):
    """Where the job is."""

    self: str
    events: str
    cancel: str


class JobAnswer(BaseModel):
    """A job."""

    id: str
    object: Literal["job"] = "job"
    type: JobType
    status: JobStatus
    stage: str | None = Field(None, description="What is being done.", examples=["base"])
    step: int | None = Field(None, description="Steps of the stage that are done.")
    steps: int | None = Field(None, description="Steps of the stage.")
    progress: float = Field(description="0 to 1; by the time that each stage is expected to take.")
    queue_position: int | None = Field(
        None, description="How many of the same key's jobs come first; null once it has begun."
    )
    estimated_seconds: float | None = Field(
        None, description="Until its end, by what this job or the last of its type took; null: unknown."
    )
    attempts: int = Field(description="How often it was begun.")
    created_at: datetime
    started_at: datetime | None = None
    completed_at: datetime | None = None
    expires_at: datetime | None = Field(None, description="When outputs and result are deleted.")
    outputs: list[OutputAnswer] = []
    result: dict[str, Any] | None = Field(
        None,
        description="The response of the synchronous route, without images; of generate with prompt_tokens.",
    )
    error: ProblemDetail | None = None
    urls: JobUrls


class JobList(BaseModel):
    """Jobs, newest first."""

    object: Literal["list"] = "list"
    data: list[JobAnswer]
    has_more: bool = Field(description="There are older ones: go on with before=next.")
    next: str | None = None


def job_answer(job: Job, base: str, outlook: Outlook = NOTHING_KNOWN) -> JobAnswer:
    """Return a job's representation. `base`: the address of all jobs."""
    own = f"{base}/{job.id}"
    return JobAnswer(
        id=job.id,
        type=job.type,
        status=job.status,
        stage=job.stage,
        step=job.step,
        steps=job.steps,
        progress=round(job.progress, 4),
        queue_position=outlook.position,
        estimated_seconds=None if outlook.seconds is None else round(outlook.seconds, 1),
        attempts=job.attempts,
        created_at=_time(job.created_at),
        started_at=_optional_time(job.started_at),
        completed_at=_optional_time(job.completed_at),
        expires_at=_optional_time(job.expires_at),
        outputs=[
            OutputAnswer(
                name=output.name,
                url=f"{own}/outputs/{output.name}",
                content_type=output.content_type,
                size_bytes=output.size_bytes,
                width=output.width,
                height=output.height,
            )
            for output in job.outputs
        ],
        result=None if job.result is None else dict(job.result),
        error=None if job.error is None else ProblemDetail(**job.error),
        urls=JobUrls(self=own, events=f"{own}/events", cancel=f"{own}/cancel"),
    )


def webhook_data(job: Job, base: str) -> dict[str, Any]:
    """Return what an event says of its job: all but the result, which may be long."""
    return job_answer(job, base).model_dump(mode="json", exclude={"result"})


def _time(milliseconds: int) -> datetime:
    return datetime.fromtimestamp(milliseconds / 1000, UTC)


def _optional_time(milliseconds: int | None) -> datetime | None:
    return None if milliseconds is None else _time(milliseconds)
