"""A client of the gateway that restores by jobs, and returns what `client.Client` returns.

The gateway keeps a job whatever happens to the connection or to itself, so both are only waited for. A job
whose result nobody will read any more is canceled.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import re
import secrets
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

from atelier_restorer.client import Restored
from atelier_restorer.gateway import Deadline, Gateway, connect, error_of
from atelier_restorer.request import FaceEdit, RestoreRequest
from atelier_runtime.errors import AtelierError, Cancelled, DeadlineExceeded, Gone, InternalError, NotFound
from atelier_runtime.outcomes import SkipReason
from atelier_runtime.tls import Pem

_SUBMISSIONS = 4  # of an image whose jobs expire before they are read
_FIRST_POLL_S, _LONGEST_POLL_S = 0.1, 1.0
_FAREWELL_S = 5.0
"""How long canceling a job may take; whoever pressed Ctrl-C waits for it."""

_NOT_OF_THE_REPORT = ("success", "request_id", "total_time_seconds", "final_resolution")
"""What the gateway's report has besides the restorer's."""
_NAMES = {"detect_size_px": "detect_size", "use_upscaler": "use_realesrgan"}
"""Fields of the request that have another name over HTTP."""
_SET_APART = ("fidelity", "fidelity_given", "faces")
_ID = re.compile(r"[\w-]+", re.ASCII)


@dataclass(frozen=True)
class Job:
    """What the gateway says of a job. `ahead`: how many come before it; -1: it has begun."""

    id: str
    status: str
    ahead: int
    outputs: frozenset[str]
    result: Mapping[str, Any]
    error: AtelierError | None

    @classmethod
    def of(cls, content: Mapping[str, Any]) -> Job:
        """Read a job. Raises `InternalError` if it is none."""
        match content:
            case {"object": "job", "id": str(job_id), "status": str(status)} if _ID.fullmatch(job_id):
                position = content.get("queue_position")
                return cls(
                    id=job_id,
                    status=status,
                    ahead=position if status == "queued" and isinstance(position, int) else -1,
                    outputs=frozenset(str(each.get("name")) for each in content.get("outputs") or []),
                    result=content.get("result") or {},
                    error=error_of(content.get("error")),
                )
        raise InternalError("The gateway answered with something other than a job.")

    @property
    def has_ended(self) -> bool:
        """Whether nothing will change any more."""
        return self.status == "completed" or self.has_failed

    @property
    def has_failed(self) -> bool:
        """Whether it has ended without a result."""
        return self.status in ("failed", "cancelled")


class JobClient:
    """A gateway whose jobs restore images."""

    def __init__(self, gateway: Gateway, *, run: str, timeout_s: float) -> None:
        """Remember the gateway.

        Args:
            gateway: Where the jobs are.
            run: The same image with the same options is the same job within a run of this name.
            timeout_s: For one image. It begins anew whenever fewer jobs are before the image's than ever
                before, and once the job has begun.
        """
        self._gateway = gateway
        self._run = run
        self._timeout_s = timeout_s

    async def restore(self, data: bytes, request: RestoreRequest) -> Restored:
        """Restore the faces of an image file. Raises `AtelierError`."""
        options = json.dumps(job_input(request), sort_keys=True)
        key = hashlib.sha256(f"{self._run}\n{options}\n".encode() + data).hexdigest()
        deadline = Deadline(self._timeout_s)
        for submission in range(1, _SUBMISSIONS + 1):
            job = await self._submit(key, options, data, deadline)
            # One that has failed by now is that of an attempt before this one: it gets another.
            if not job.has_failed or submission > 1:
                try:
                    return await self._restored(job, deadline)
                except (NotFound, Gone):
                    if submission == _SUBMISSIONS:
                        raise
            key = f"{key[:64]}-{secrets.token_hex(8)}"
        raise AssertionError("the last submission returns or raises")

    async def _submit(self, key: str, options: str, data: bytes, deadline: Deadline) -> Job:
        async def post() -> Job:
            answer = await self._gateway.send(
                "POST",
                "jobs",
                headers={"Idempotency-Key": key},
                data={"type": "restore", "input": options},
                files={"image": ("image", data)},
            )
            return Job.of(answer)

        async def submit() -> Job:
            posting = asyncio.create_task(post())
            try:
                return await asyncio.shield(posting)
            except asyncio.CancelledError:  # the job may have been accepted, or be at this moment
                await asyncio.wait({posting}, timeout=_FAREWELL_S)
                if not posting.done():
                    posting.cancel()
                elif not posting.cancelled() and posting.exception() is None:
                    await self._cancel(posting.result())
                raise

        return await self._gateway.with_retries(submit, deadline)

    async def _restored(self, job: Job, deadline: Deadline) -> Restored:
        """Return a job's result once it has ended. Raises `NotFound` or `Gone` if it has expired."""
        try:
            job = await self._ended(job, deadline)
            if job.has_failed:
                raise job.error or Cancelled("The job was canceled at the gateway.")
            return await self._read(job, deadline)
        except (asyncio.CancelledError, DeadlineExceeded):
            await self._cancel(job)
            raise

    async def _ended(self, job: Job, deadline: Deadline) -> Job:
        pause_s, fewest = _FIRST_POLL_S, job.ahead
        while not job.has_ended:
            if job.ahead < fewest:
                fewest = job.ahead
                deadline.restart()
            if deadline.left() <= 0:
                message = (
                    f"The gateway at {self._gateway.address} did not finish within {deadline.seconds:g} s."
                )
                raise DeadlineExceeded(message)
            await asyncio.sleep(min(pause_s, max(0.0, deadline.left())))
            pause_s = min(_LONGEST_POLL_S, 1.5 * pause_s)
            look = partial(self._gateway.send, "GET", f"jobs/{job.id}")
            job = Job.of(await self._gateway.with_retries(look, deadline))
        return job

    async def _read(self, job: Job, deadline: Deadline) -> Restored:
        async def output(name: str) -> bytes:
            read = partial(self._gateway.read, f"jobs/{job.id}/outputs/{name}")
            return await self._gateway.with_retries(read, deadline)

        deadline.restart()
        faces = job.result.get("faces", [])
        cut = [
            face["index"]
            for face in faces
            if f"face_{face['index']}_after" in job.outputs
            and (face["restored"] or face["reason"] == SkipReason.IDENTITY_CHANGED)
        ]
        report = {name: value for name, value in job.result.items() if name not in _NOT_OF_THE_REPORT}
        plain = [{name: value for name, value in face.items() if name != "index"} for face in faces]
        return Restored(
            picture=await output("image"),
            mask=await output("mask") if "mask" in job.outputs else None,
            crops=tuple(
                [
                    (index, await output(f"face_{index}_before"), await output(f"face_{index}_after"))
                    for index in cut
                ]
            ),
            report=report | {"faces": plain},
        )

    async def _cancel(self, job: Job) -> None:
        with contextlib.suppress(AtelierError, TimeoutError):
            async with asyncio.timeout(_FAREWELL_S):
                await self._gateway.send("POST", f"jobs/{job.id}/cancel")


@asynccontextmanager
async def connect_to_gateway(
    url: str, *, run: str, timeout_s: float, api_key: str | None = None, tls: Pem | None = None
) -> AsyncIterator[JobClient]:
    """Open a client of the gateway at a URL; see `JobClient`, and `connect` for the rest.

    Raises `ServiceUnavailable` if it cannot be reached or takes no jobs.
    """
    async with connect(url, timeout_s=timeout_s, api_key=api_key, tls=tls) as gateway:
        yield JobClient(gateway, run=run, timeout_s=timeout_s)


def job_input(request: RestoreRequest) -> dict[str, Any]:
    """Return the body of `POST /restore` that asks for the same, without the image."""
    fields = {
        _NAMES.get(name, name): value
        for name, value in vars(request).items()
        if name not in _SET_APART and value is not None
    }
    if request.sets_fidelity:
        fields["fidelity"] = request.fidelity
    if request.faces:
        fields["faces"] = [_face_edit(edit) for edit in request.faces]
    return fields


def _face_edit(edit: FaceEdit) -> dict[str, Any]:
    fields = {
        "box": edit.face.box,
        "landmarks": edit.face.landmarks,
        "confidence": edit.face.confidence,
        "orientation_unclear": edit.face.orientation_unclear,
        "fidelity": edit.fidelity,
        "visibility": edit.visibility,
        "skip": edit.skip,
    }
    return {name: value for name, value in fields.items() if value is not None}
