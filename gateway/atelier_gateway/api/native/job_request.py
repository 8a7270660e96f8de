"""What a request for a job says."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import Field

from atelier_gateway.api.native.image_field import ImageField
from atelier_gateway.http.validation import INTEGER, RequestModel, Validator
from atelier_gateway.jobs.values import PRIORITIES

MAX_WAIT_S = 60
MAX_KEY_CHARS = 255
_WAIT = re.compile(r"(?:^|,)\s*wait\s*=\s*\"?(\d{1,9})\"?\s*(?=,|;|$)", re.IGNORECASE)
_ASYNC = re.compile(r"(?:^|,)\s*respond-async\s*(?=,|;|$)", re.IGNORECASE)


class WebhookRequest(RequestModel):
    """Who is to be told."""

    url: Annotated[str, Field(max_length=2000)] = Field(description="Where events are posted.")
    events: list[Literal["started", "completed", "failed", "cancelled"]] = Field(
        ["completed", "failed", "cancelled"], description="Which events are posted.", min_length=1
    )


class JobRequest(RequestModel):
    """The body of `POST /v1/jobs`."""

    type: Literal["generate", "restore", "detect", "compare"] = Field(
        description="What is to be done: as the route of that name does."
    )
    input: dict[str, Any] = Field(
        description="The body that the route of that name takes. An image may also be an output of another "
        "job: {\"job\": ID, \"output\": name}."
    )
    image: ImageField | None = Field(None, description="In a form: the input's image, as a file.")
    mask: ImageField | None = Field(None, description="In a form: the input's mask, as a file.")
    priority: Annotated[int, INTEGER] = Field(
        0,
        ge=PRIORITIES[0],
        le=PRIORITIES[1],
        description="Among the jobs of the same key the highest comes first.",
    )
    ttl_seconds: Annotated[int, INTEGER] | None = Field(
        None, ge=60, le=7 * 24 * 3600, description="For how long outputs are kept once the job has ended."
    )
    webhook: WebhookRequest | None = Field(None, description="Who is to be told of the job's end.")


JOB = Validator(JobRequest, {})


def preferred_wait(prefer: str | None) -> float:
    """Return the seconds that a Prefer header (RFC 7240) wants to wait, at most `MAX_WAIT_S`; 0: none."""
    found = _WAIT.search(prefer or "")
    return min(float(found[1]), MAX_WAIT_S) if found else 0.0


def prefers_async(prefer: str | None) -> bool:
    """Return whether a Prefer header (RFC 7240) asks for an answer before the work is done."""
    return _ASYNC.search(prefer or "") is not None
