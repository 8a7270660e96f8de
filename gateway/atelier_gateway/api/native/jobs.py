"""`/v1/jobs`: accept work now, hand out its result later."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator
from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from atelier_gateway.api.native.job_request import JOB, JobRequest, preferred_wait
from atelier_gateway.api.native.job_response import JobAnswer, JobList, job_answer
from atelier_gateway.api.native.request import BodyLimits
from atelier_gateway.http.body import read_json_or_form
from atelier_gateway.http.ranges import is_unchanged, requested_part
from atelier_gateway.http.server_events import HEARTBEAT, ServerEvent, event_response
from atelier_gateway.http.validation import refusal
from atelier_gateway.jobs.service import Jobs, Submission
from atelier_gateway.jobs.store import Change
from atelier_gateway.jobs.values import Job, JobStatus, JobType, Output
from atelier_gateway.settings import GatewaySettings
from atelier_runtime.errors import FieldViolation, Gone, InvalidRequest, NotFound

PATH = "/v1/jobs"
_HEARTBEAT_S = 15.0
_RETRY_AFTER_S = 1
_PAGE = (20, 100)  # default, most
OWNER = ""  # until there are keys, all jobs are everybody's


def add_routes(router: APIRouter, settings: GatewaySettings, jobs: Jobs) -> None:
    """Add the routes."""
    routes = JobRoutes(jobs, BodyLimits.of(settings), settings)
    one = f"{PATH}/{{job_id}}"
    router.post(PATH, name="submit_job", status_code=202, response_model=JobAnswer)(routes.submit)
    router.get(PATH, name="list_jobs", response_model=JobList)(routes.list_jobs)
    router.get(one, name="get_job", response_model=JobAnswer)(routes.get)
    router.delete(one, name="delete_job", response_model=JobAnswer)(routes.cancel)
    router.post(f"{one}/cancel", name="cancel_job", response_model=JobAnswer)(routes.cancel)
    router.get(f"{one}/events", name="follow_job", response_class=Response)(routes.events)
    router.get(f"{one}/outputs/{{name}}", name="get_job_output", response_class=Response)(routes.output)


class JobRoutes:
    """The handlers."""

    def __init__(self, jobs: Jobs, limits: BodyLimits, settings: GatewaySettings) -> None:
        self._jobs = jobs
        self._limits = limits
        self._settings = settings
        self._base = f"{settings.root_path}{PATH}"

    async def submit(self, request: Request) -> Response:
        """Accept a job: 202, or 200 with the finished one if it is done in the time that Prefer gives."""
        given, body = await self._read(request)
        submission = Submission(
            type=JobType(given.type),
            body=body,
            owner=OWNER,
            priority=given.priority,
            ttl_s=given.ttl_seconds or self._settings.job_ttl_seconds,
            webhook=None if given.webhook is None else given.webhook.model_dump(),
            idempotency_key=_idempotency_key(request),
        )
        job, _ = await self._jobs.submit(submission)
        seconds = preferred_wait(request.headers.get("prefer"))
        if seconds and not job.status.is_final:
            job = await self._jobs.wait(job, seconds)
        headers = {"Location": f"{self._base}/{job.id}"}
        if seconds:
            headers["Preference-Applied"] = f"wait={seconds:.0f}"
        if not job.status.is_final:
            headers["Retry-After"] = str(_RETRY_AFTER_S)
        return await self._answer(job, status=200 if job.status.is_final else 202, headers=headers)

    async def list_jobs(self, request: Request) -> Response:
        """Return jobs, newest first: `limit` of them, older than `before`."""
        query = request.query_params
        unknown = [FieldViolation(name, "is not a parameter") for name in query if name not in _LIST]
        limit = query.get("limit", str(_PAGE[0]))
        if not limit.isascii() or not limit.isdecimal() or not 1 <= int(limit[:9]) <= _PAGE[1]:
            unknown.append(FieldViolation("limit", f"must be an integer from 1 to {_PAGE[1]}"))
        if unknown:
            raise refusal(unknown)
        found = await self._jobs.list_of(OWNER, before=query.get("before"), limit=int(limit) + 1)
        shown = found[: int(limit)]
        answer = JobList(
            data=[job_answer(job, self._base) for job in shown],
            has_more=len(found) > len(shown),
            next=shown[-1].id if len(found) > len(shown) else None,
        )
        return Response(answer.model_dump_json(), media_type="application/json")

    async def get(self, request: Request) -> Response:
        """Return a job."""
        return await self._answer(await self._job(request))

    async def cancel(self, request: Request) -> Response:
        """Cancel a job, waiting or running; one that has ended stays as it is."""
        job = await self._jobs.cancel((await self._job(request)).id, OWNER)
        if job.cancel_requested and not job.status.is_final:
            job = await self._jobs.wait(job, 2.0)
        return await self._answer(job)

    async def events(self, request: Request) -> Response:
        """Follow a job: a snapshot, then every change, until it has ended."""
        job = await self._job(request)
        last = request.headers.get("last-event-id", "")
        known = int(last) if last.isascii() and last.isdecimal() and len(last) < 18 else None
        return event_response(self._events(job, known))

    async def output(self, request: Request) -> Response:
        """Return one of the job's files, or a part of it."""
        job = await self._job(request)
        output = job.output(request.path_params["name"])
        if output is None:
            raise NotFound("The job has no output of this name.")
        return self._file(request, job, output)

    # --- parts of them ---

    async def _read(self, request: Request) -> tuple[JobRequest, dict[str, Any]]:
        """Read a request; return it, and the input with the files of a form in their places."""
        limits = self._limits
        raw = await read_json_or_form(
            request, JOB, max_json_bytes=limits.json, max_form_bytes=limits.form, max_fields_bytes=limits.fields
        )
        validated = await asyncio.to_thread(JOB.validate, raw)
        given, violations = validated.request, validated.violations
        if given is None:
            raise refusal(violations)
        body = dict(given.input)
        for name in ("image", "mask"):
            if (file := getattr(given, name)) is not None:
                if name in body:
                    violations.append(FieldViolation(name, f"is given twice: here and as input.{name}"))
                body[name] = file
        if violations:
            raise refusal(violations)
        return given, body

    async def _job(self, request: Request) -> Job:
        job = await self._jobs.get(request.path_params["job_id"], OWNER)
        if job.expired:
            raise Gone("The job has expired, and its outputs were deleted.")
        return job

    async def _answer(self, job: Job, *, status: int = 200, headers: dict[str, str] | None = None) -> Response:
        position = await self._jobs.position(job) if job.status is JobStatus.QUEUED else None
        content = job_answer(job, self._base, position).model_dump_json()
        return Response(content, status_code=status, headers=headers, media_type="application/json")

    async def _events(self, job: Job, known: int | None) -> AsyncIterator[bytes]:
        seen: Change | None = None
        async with self._jobs.follow(job.id) as changes:
            while True:
                try:
                    change: Change = await asyncio.wait_for(changes.get(), _HEARTBEAT_S)
                except TimeoutError:
                    yield HEARTBEAT
                    continue
                for event in self._event(seen, change, known):
                    yield event.encoded()
                seen = change
                if change.job.status.is_final:
                    return

    def _event(self, before: Change | None, after: Change, known: int | None) -> list[ServerEvent]:
        """Return what has changed. To a client that has seen this version nothing is new."""
        job, version = after.job, after.job.version
        whole = job_answer(job, self._base).model_dump(mode="json")
        if before is None:
            names = [] if known == version and not job.status.is_final else ["snapshot"]
            return [ServerEvent(name, whole, version) for name in names]
        events = []
        if after.preview is not None and after.preview_number != before.preview_number:
            uri = "data:image/jpeg;base64," + base64.b64encode(after.preview).decode()
            events.append(ServerEvent("preview", {"image": uri, "step": job.step, "steps": job.steps}, version))
        names = {output.name for output in before.job.outputs}
        events += [
            ServerEvent("output", output, version) for output in whole["outputs"] if output["name"] not in names
        ]
        if job.status is not before.job.status:
            events.append(ServerEvent("status", whole, version))
        elif (job.stage, job.step) != (before.job.stage, before.job.step):
            shown = {name: whole[name] for name in ("stage", "step", "steps", "progress")}
            events.append(ServerEvent("progress", shown, version))
        return events

    def _file(self, request: Request, job: Job, output: Output) -> Response:
        etag = f'"{job.id}-{output.name}-{output.size_bytes}"'
        extension = output.content_type.removeprefix("image/")
        headers = {
            "ETag": etag,
            "Accept-Ranges": "bytes",
            "Cache-Control": "private, immutable",
            "Content-Disposition": f'inline; filename="{job.id}-{output.name}.{extension}"',
        }
        if is_unchanged(request.headers.get("if-none-match"), etag):
            return Response(status_code=304, headers=headers)
        wanted = request.headers.get("range")
        if request.headers.get("if-range", etag) != etag:
            wanted = None
        part = requested_part(wanted, output.size_bytes)
        if part is None:
            return Response(status_code=416, headers={"Content-Range": f"bytes */{output.size_bytes}"})
        headers["Content-Length"] = str(part.end - part.start)
        if not part.is_all:
            headers["Content-Range"] = part.content_range
        return StreamingResponse(
            self._jobs.read(output, part.start, part.end),
            status_code=200 if part.is_all else 206,
            headers=headers,
            media_type=output.content_type,
        )


_LIST = ("limit", "before")


def _idempotency_key(request: Request) -> str | None:
    key = request.headers.get("idempotency-key")
    if key is None:
        return None
    key = key.strip().strip('"')
    if not 1 <= len(key) <= 255 or not key.isascii() or not key.isprintable():
        raise InvalidRequest.of("Idempotency-Key", "must be 1 to 255 printable ASCII characters")
    return key
