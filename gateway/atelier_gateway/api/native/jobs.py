"""`/v1/jobs`: accept work now, hand out its result later."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from atelier_gateway.access.caller import caller_of, is_addressed
from atelier_gateway.api.native import job_openapi
from atelier_gateway.api.native.job_events import job_events
from atelier_gateway.api.native.job_output import output_response
from atelier_gateway.api.native.job_request import (
    JOB,
    JobRequest,
    idempotency_key,
    page_of,
    preferred_wait,
    prefers_async,
)
from atelier_gateway.api.native.job_response import JobList, job_answer
from atelier_gateway.api.native.request import BodyLimits
from atelier_gateway.http.body import read_json_or_form
from atelier_gateway.http.server_events import event_response
from atelier_gateway.http.validation import refusal
from atelier_gateway.jobs.drawings import PREFIX as DRAWN
from atelier_gateway.jobs.service import Jobs, Outlook
from atelier_gateway.jobs.submission import Submission
from atelier_gateway.jobs.values import Job, JobType
from atelier_gateway.settings import GatewaySettings
from atelier_runtime.api_keys import Scope
from atelier_runtime.errors import FieldViolation, Gone, NotFound, NotServed

PATH = "/v1/jobs"
_RETRY_AFTER_S = 1
_EXPIRED = "The job has expired, and its outputs were deleted."
_SCOPES = {JobType.GENERATE: Scope.GENERATE}
"""What a key needs for a type of job; for all others, the scope of photos."""


class JobRoutes:
    """The handlers."""

    def __init__(self, jobs: Jobs | None, settings: GatewaySettings) -> None:
        """`jobs`: None where there are none, on purpose."""
        self._room = jobs
        self._limits = BodyLimits.of(settings)
        self._ttl_s = settings.jobs_ttl_seconds
        self._base = f"{settings.root_path}{PATH}"

    def add_to(self, router: APIRouter) -> None:
        """Add the routes."""
        one = f"{PATH}/{{job_id}}"
        router.post(PATH, name="submit_job", **job_openapi.SUBMIT)(self.submit)
        router.get(PATH, name="list_jobs", **job_openapi.LIST)(self.list_jobs)
        router.get(one, name="get_job", **job_openapi.GET)(self.get)
        router.delete(one, name="delete_job", **job_openapi.DELETE)(self.cancel)
        router.post(f"{one}/cancel", name="cancel_job", **job_openapi.CANCEL)(self.cancel)
        router.post(f"{one}/expire", name="expire_job", **job_openapi.EXPIRE)(self.expire)
        router.get(f"{one}/events", name="follow_job", **job_openapi.EVENTS)(self.events)
        router.get(f"{one}/outputs/{{name}}", name="get_job_output", **job_openapi.OUTPUT)(self.output)
        for path, handler in ((one, self.get), (f"{one}/outputs/{{name}}", self.output)):
            router.add_api_route(path, handler, methods=["HEAD"], include_in_schema=False)

    # --- handlers ---

    async def submit(self, request: Request) -> Response:
        """Accept a job: 202, or 200 with the finished one if it is done in the time that Prefer gives."""
        jobs, caller = self._jobs, caller_of(request)
        given, body = await self._read(request)
        caller.require(_SCOPES.get(JobType(given.type), Scope.RESTORE))
        submission = Submission(
            type=JobType(given.type),
            body=body,
            owner=caller.owner,
            priority=given.priority,
            ttl_s=self._ttl_s if given.ttl_seconds is None else given.ttl_seconds,
            webhook=None if given.webhook is None else given.webhook.model_dump(),
            preview_interval_steps=given.preview_interval_steps or None,
            keep_files=given.keep_files,
            idempotency_key=idempotency_key(request.headers),
            field_prefix="input.",
        )
        return await self._accept(request, jobs, submission)

    def wanted(self, request: Request) -> bool:
        """Return whether a request to a synchronous route prefers a job (`Prefer: respond-async`)."""
        return self._room is not None and prefers_async(", ".join(request.headers.getlist("prefer")))

    async def instead(self, request: Request, job_type: JobType, body: Mapping[str, Any]) -> Response:
        """Make a job of a request to the synchronous route of that type."""
        key = idempotency_key(request.headers)
        owner = caller_of(request).owner
        submission = Submission(job_type, body, owner, ttl_s=self._ttl_s, idempotency_key=key)
        return await self._accept(request, self._jobs, submission)

    async def list_jobs(self, request: Request) -> Response:
        """Return jobs, newest first: `limit` of them, older than `before`."""
        page = page_of(request.query_params)
        found = await self._jobs.list_of(caller_of(request).owners, before=page.before, limit=page.limit + 1)
        shown = found[: page.limit]
        more = len(found) > len(shown)
        answer = JobList(
            data=[job_answer(job, self._base) for job in shown],
            has_more=more,
            next=shown[-1].id if more else None,
        )
        return Response(answer.model_dump_json(), media_type="application/json")

    async def get(self, request: Request) -> Response:
        """Return a job."""
        return await self._answer(await self._job(request))

    async def cancel(self, request: Request) -> Response:
        """Cancel a job, waiting or running; one that has ended stays as it is."""
        job = await self._jobs.cancel((await self._job(request)).id, caller_of(request).owners)
        if job.cancel_requested and not job.status.is_final:
            job = await self._jobs.wait(job, 2.0)
        return await self._answer(job)

    async def expire(self, request: Request) -> Response:
        """Delete what a job has made; one that has not ended is canceled before."""
        await self._jobs.expire(request.path_params["job_id"], caller_of(request).ends)
        return Response(status_code=204)

    async def events(self, request: Request) -> Response:
        """Follow a job: a snapshot, then every change, until it has ended."""
        job = await self._job(request)
        last = request.headers.get("last-event-id", "")
        known = int(last) if last.isascii() and last.isdecimal() and len(last) < 18 else None
        return event_response(job_events(self._jobs, job, self._base, known))

    async def output(self, request: Request) -> Response:
        """Return one of the job's files, or a part of it."""
        job = await self._job(request, or_addressed=True)
        output = job.output(request.path_params["name"])
        if output is None or (is_addressed(job.owner) and output.name.startswith(DRAWN)):
            raise NotFound("The job has no output of this name.")
        return await output_response(request, self._jobs, job, output)

    # --- parts of them ---

    @property
    def _jobs(self) -> Jobs:
        if self._room is None:
            raise NotServed("This gateway has no jobs: ATELIER_GATEWAY_JOBS_DATABASE is none.")
        return self._room

    async def _read(self, request: Request) -> tuple[JobRequest, dict[str, Any]]:
        """Read a request; return it, and the input with the files of a form in their places."""
        limits = self._limits
        raw = await read_json_or_form(
            request,
            JOB,
            max_json_bytes=limits.json,
            max_form_bytes=limits.form,
            max_fields_bytes=limits.fields,
        )
        validated = await asyncio.to_thread(JOB.validate, raw)
        given, violations = validated.request, validated.violations
        if given is None:
            raise refusal(violations)
        body = dict(given.input)
        for name in ("image", "mask", "recipe_of"):
            if (file := getattr(given, name)) is not None:
                if name in body:
                    violations.append(FieldViolation(name, f"is given twice: here and as input.{name}"))
                body[name] = file
        if violations:
            raise refusal(violations)
        return given, body

    async def _accept(self, request: Request, jobs: Jobs, submission: Submission) -> Response:
        job, _ = await jobs.submit(submission)
        if job.is_gone:  # submitted before, with the same key
            raise Gone(_EXPIRED)
        prefer = ", ".join(request.headers.getlist("prefer"))
        seconds = preferred_wait(prefer)
        if seconds and not job.status.is_final:
            job = await jobs.wait(job, seconds)
        applied = [f"wait={seconds:.0f}"] if seconds else []
        applied += ["respond-async"] if prefers_async(prefer) else []
        headers = {"Location": f"{self._base}/{job.id}"}
        if applied:
            headers["Preference-Applied"] = ", ".join(applied)
        if not job.status.is_final:
            headers["Retry-After"] = str(_RETRY_AFTER_S)
        return await self._answer(job, status=200 if job.status.is_final else 202, headers=headers)

    async def _job(self, request: Request, *, or_addressed: bool = False) -> Job:
        """Return a job that the caller may see. `or_addressed`: or one whose outputs have addresses."""
        owners = caller_of(request).owners
        job = await self._jobs.get(request.path_params["job_id"], None if or_addressed else owners)
        if owners is not None and job.owner not in owners and not is_addressed(job.owner):
            raise NotFound("There is no job of this ID.")
        if job.is_gone:
            raise Gone(_EXPIRED)
        return job

    async def _answer(
        self, job: Job, *, status: int = 200, headers: Mapping[str, str] | None = None
    ) -> Response:
        outlook = Outlook(None, None) if job.status.is_final else await self._jobs.outlook(job)
        content = job_answer(job, self._base, outlook).model_dump_json()
        return Response(content, status_code=status, headers=headers, media_type="application/json")
