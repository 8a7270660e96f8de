"""What those who follow a job are sent: a snapshot, then every change until it has ended."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from atelier_gateway.api.native.job_response import job_answer
from atelier_gateway.http.server_events import HEARTBEAT, ServerEvent
from atelier_gateway.jobs.service import NOTHING_KNOWN, Jobs, Outlook
from atelier_gateway.jobs.store import Change
from atelier_gateway.jobs.values import Job
from atelier_runtime.errors import ServiceUnavailable

_HEARTBEAT_S = 15.0


async def job_events(jobs: Jobs, job: Job, base: str, known: int | None) -> AsyncIterator[bytes]:
    """Yield server-sent events; `known`: the version that a client saw last, before it lost its connection.

    Ends with the job, and when the gateway begins to drain: clients connect again, to another gateway.
    """
    if known != job.version or job.status.is_final:  # or nothing is new to this client
        whole = job_answer(job, base, await _outlook(jobs, job)).model_dump(mode="json")
        yield ServerEvent("snapshot", whole, job.version).encoded()
    seen = Change(job, (), 0)
    async with jobs.follow(job.id) as changes:
        while not (jobs.draining or seen.job.status.is_final):
            try:
                change = await asyncio.wait_for(changes.get(), _HEARTBEAT_S)
            except TimeoutError:
                yield HEARTBEAT
                continue
            if change is None:
                return
            for event in events_of(seen, change, base, await _outlook(jobs, change.job)):
                yield event.encoded()
            seen = change


async def _outlook(jobs: Jobs, job: Job) -> Outlook:
    """Return what a job still has before it, which is no reason to end the events where it is not known.

    Asks the database, but not of a job that runs and has said what it takes: such jobs change often.
    """
    try:
        return await jobs.outlook(job)
    except ServiceUnavailable:
        return NOTHING_KNOWN


def events_of(before: Change, after: Change, base: str, outlook: Outlook) -> list[ServerEvent]:
    """Return the events that tell of a change."""
    job, version = after.job, after.job.version
    whole = job_answer(job, base, outlook).model_dump(mode="json")
    events = []
    if after.previews and after.preview_number != before.preview_number:
        images = [f"data:image/jpeg;base64,{each}" for each in after.previews]
        events.append(
            ServerEvent("preview", {"images": images, "step": job.step, "steps": job.steps}, version)
        )
    told = {output.name for output in before.job.outputs}
    events += [ServerEvent("output", each, version) for each in whole["outputs"] if each["name"] not in told]
    if job.status is not before.job.status:
        events.append(ServerEvent("status", whole, version))
    elif (job.stage, job.step) != (before.job.stage, before.job.step):
        names = ("stage", "step", "steps", "progress", "estimated_seconds")
        shown = {name: whole[name] for name in names}
        events.append(ServerEvent("progress", shown, version))
    return events
