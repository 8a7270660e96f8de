"""Images that are handed out by their addresses: drawn as a job, whose outputs the gateway serves."""

from __future__ import annotations

import asyncio
import contextlib
import time

import orjson
from starlette.requests import Request
from starlette.responses import Response

from atelier_gateway.api.native.generate_response import GenerateReport
from atelier_gateway.api.native.jobs import PATH as JOBS_PATH
from atelier_gateway.api.openai.errors import told_by_client_names
from atelier_gateway.api.openai.request import ImageWork
from atelier_gateway.api.openai.response import Shown, headers_of, images_answer
from atelier_gateway.jobs.drawings import PREFIX as DRAWN
from atelier_gateway.jobs.service import Jobs
from atelier_gateway.jobs.submission import Submission
from atelier_gateway.jobs.values import Job, JobStatus, JobType
from atelier_runtime.errors import (
    AtelierError,
    DeadlineExceeded,
    ErrorReason,
    FieldViolation,
    InternalError,
    ServiceDraining,
    ServiceUnavailable,
    make_error,
)


def base_address(request: Request, public_url: str) -> str:
    """Return the gateway's address as the client knows it. `public_url`: the setting, if there is one."""
    return public_url or str(request.base_url).rstrip("/")


async def answer_with_addresses(
    jobs: Jobs, work: ImageWork, base: str, owner: str, *, ttl_s: float, deadline: float
) -> Response:
    """Draw the images as a job of an owner of addressed jobs, and answer with their addresses.

    Canceling the task cancels the job. Raises what the job failed with.
    """
    submission = Submission(JobType.GENERATE, work.body, owner, ttl_s=ttl_s, can_wait=False)
    with told_by_client_names(work.names):
        job = await _ended(jobs, submission, deadline)
        if job.status is not JobStatus.COMPLETED:
            raise _error_of(job)
    if job.result is None:
        raise InternalError("A completed job has no result.")
    images = [Shown.of(GenerateReport.model_validate(report)) for report in job.result["images"]]
    addresses = [
        f"{base}{JOBS_PATH}/{job.id}/outputs/{output.name}"
        for output in job.outputs
        if not output.name.startswith(DRAWN)
    ]
    model_set = job.result["model"]
    prompt_tokens = job.result.get("prompt_tokens", 0)  # an older gateway has carried it out
    content = images_answer(work, images, model_set, prompt_tokens, addresses)
    headers = headers_of(work, model_set, images)
    return Response(orjson.dumps(content), media_type="application/json", headers=headers)


async def _ended(jobs: Jobs, submission: Submission, deadline: float) -> Job:
    """Submit a job and wait for its end; a job that nobody waits for any longer is canceled."""
    submitting = asyncio.create_task(jobs.submit(submission))
    ended = False
    try:
        job, _ = await asyncio.shield(submitting)
        job = await jobs.wait(job, max(0.0, deadline - time.monotonic()))
        ended = job.status.is_final
        if ended:
            return job
        raise ServiceDraining() if jobs.draining else DeadlineExceeded()
    finally:
        if not ended:
            canceling = asyncio.create_task(_cancel(jobs, submitting))
            while not canceling.done():  # the deadline, or a client that leaves, may cancel us here again
                with contextlib.suppress(asyncio.CancelledError):
                    await asyncio.wait({canceling})
            canceling.result()


async def _cancel(jobs: Jobs, submitting: asyncio.Task[tuple[Job, bool]]) -> None:
    with contextlib.suppress(AtelierError):  # it was not accepted, or its database is away
        job, _ = await submitting
        await jobs.cancel(job.id, (job.owner,))


def _error_of(job: Job) -> AtelierError:
    """Return the error that a job ended with."""
    if job.error is None:
        return ServiceUnavailable("The job that drew the images was canceled.")
    fields = [FieldViolation(each["field"], each["message"]) for each in job.error["fields"]]
    return make_error(
        ErrorReason(job.error["code"]),
        job.error["message"],
        fields=fields,
        retry_after_s=job.error.get("retry_after_s"),
    )
