"""A job as the store keeps it, and what may be asked about it: frozen values."""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

Json = Mapping[str, Any]

MAX_ATTEMPTS = 3
IDEMPOTENCY_MS = 24 * 3600 * 1000
"""For so long the same key gives the same job."""
AT_ONCE = 0
"""When a job that nothing holds up can be begun, whatever the clocks of the gateways say."""

LONGEST_WAIT_MS = 10 * 60 * 1000
"""A job that is to be tried again is not put off for longer."""

PRIORITIES = (-100, 100)
_ID = re.compile(r"job_[0-9a-f]{44}")


class JobType(StrEnum):
    """What a job does: the same as the synchronous route of that name."""

    GENERATE = "generate"
    RESTORE = "restore"
    DETECT = "detect"
    COMPARE = "compare"


class JobStatus(StrEnum):
    """Where a job is in its life. The last three are final."""

    QUEUED = "queued"
    IN_PROGRESS = "in_progress"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def is_final(self) -> bool:
        """Whether the job will not change any more, but for its expiry."""
        return self not in (JobStatus.QUEUED, JobStatus.IN_PROGRESS)


@dataclass(frozen=True)
class Output:
    """A file that a job has made. `blob` is its name in the blob store."""

    name: str
    blob: str
    content_type: str
    size_bytes: int
    width: int
    height: int


@dataclass(frozen=True)
class NewJob:
    """A job to accept. The files that `input` names are in the blob store already.

    `ttl_ms`: for how long its outputs are kept once it has ended.
    """

    id: str
    type: JobType
    input: Json
    owner: str = ""
    priority: int = 0
    ttl_ms: int = 3600 * 1000
    webhook: Json | None = None
    idempotency_key: str | None = None
    fingerprint: str | None = None
    """Of the body, to tell whether a repeated key came with the same one."""


@dataclass(frozen=True)
class Job:
    """A job; times are milliseconds since 1970, UTC.

    `version` grows with every change. `expired`: its files have been deleted. `waits`: how often it was put
    back, since its first attempt, because a service was full or away. `expected_ms`: what an attempt takes.
    `ttl_ms`: for how long its outputs are kept once it has ended; 0: somebody wants it gone.
    """

    id: str
    type: JobType
    status: JobStatus
    owner: str
    priority: int
    input: Json
    created_at: int
    version: int
    ttl_ms: int
    attempts: int = 0
    available_at: int = 0
    started_at: int | None = None
    completed_at: int | None = None
    expires_at: int | None = None
    cancel_requested: bool = False
    stage: str | None = None
    step: int | None = None
    steps: int | None = None
    progress: float = 0.0
    expected_ms: int | None = None
    waits: int = 0
    result: Json | None = None
    error: Json | None = None
    outputs: tuple[Output, ...] = field(default=())
    webhook: Json | None = None
    expired: bool = False

    @property
    def is_gone(self) -> bool:
        """Whether nothing of it is shown any more: it has expired, or does once its work has stopped."""
        return self.expired or self.ttl_ms == 0

    def output(self, name: str) -> Output | None:
        """Return the output of that name, if there is one."""
        return next((output for output in self.outputs if output.name == name), None)


@dataclass(frozen=True)
class Claim:
    """A job that a runner has taken, until its lease ends. `fence` is the number of the claim.

    `was_lost`: another runner's lease on it had ended.

    A runner that is slow rather than dead may go on after its lease: whatever it writes with an older number
    is refused.
    """

    job: Job
    fence: int
    was_lost: bool = False


@dataclass(frozen=True)
class JobProgress:
    """How far an attempt has come: `step` of `steps` of a stage, `share` (0 to 1) of all of it.

    `expected_ms`: what all of it takes; None: unknown. `previews`: JPEG files of what is being drawn.
    """

    stage: str
    step: int
    steps: int
    share: float
    expected_ms: int | None = None
    previews: tuple[bytes, ...] = field(default=(), repr=False)


def now_ms() -> int:
    """Return the time in milliseconds since 1970, UTC."""
    return time.time_ns() // 1_000_000


def is_job_id(text: str) -> bool:
    """Return whether a text has the form of a job's ID, whether or not there is such a job."""
    return _ID.fullmatch(text) is not None


def new_id() -> str:
    """Return an ID that sorts by its time and cannot be guessed: 48 bits of milliseconds, 128 random ones."""
    return f"job_{now_ms():012x}{secrets.token_hex(16)}"
