"""What a request for a job says."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import Field, field_validator

from atelier_gateway.api.native.image_field import ImageField
from atelier_gateway.http.schemas import printable
from atelier_gateway.http.validation import INTEGER, RequestModel, Validator, field_error, refusal
from atelier_gateway.jobs.values import PRIORITIES, is_job_id
from atelier_runtime.errors import FieldViolation, InvalidRequest

MAX_WAIT_S = 60
MAX_KEY_CHARS = 255
_WAIT = re.compile(r"(?:^|,)\s*wait\s*=\s*\"?(\d{1,9})\"?\s*(?=,|;|$)", re.IGNORECASE)
_LIMIT = re.compile(r"[0-9]{1,4}")
_ASYNC = re.compile(r"(?:^|,)\s*respond-async\s*(?=,|;|$)", re.IGNORECASE)


TtlSeconds = Annotated[int, Field(ge=60, le=7 * 24 * 3600), INTEGER]
PAGE = (20, 100)
"""Jobs in a list: by default, and at most."""


class WebhookRequest(RequestModel):
    """Who is to be told."""

    url: Annotated[str, Field(min_length=1, max_length=2000)] = Field(description="Where events are posted.")
    events: list[Literal["started", "completed", "failed", "cancelled"]] = Field(
        ["completed", "failed", "cancelled"],
        description="Which events are posted.",
        min_length=1,
        max_length=4,
    )

    @field_validator("url")
    @classmethod
    def _reachable(cls, url: str) -> str:
        try:
            parts = urlsplit(url)
            known = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
        except ValueError:  # its port is no number, or its address no IPv6 address
            known = None
        if not known or not url.isascii() or not url.isprintable() or " " in url:
            raise field_error("must be http://host/path or https://host/path, in ASCII")
        if parts.username is not None or parts.password is not None:
            raise field_error("must not hold a user or a password: events are signed")
        return url


class JobRequest(RequestModel):
    """The body of `POST /v1/jobs`."""

    type: Literal["generate", "restore", "detect", "compare"] = Field(
        description="What is to be done: what the route of that name does."
    )
    input: dict[str, Any] = Field(
        description="The body that the route of that name takes. In place of an image, an output of another "
        'job: {"job": ID, "output": name}. Of generate also recipe_of, a picture that is drawn again by its '
        "own recipe: what else the input says takes the place of what the recipe does."
    )
    image: ImageField | None = Field(None, description="In a form: the input's image, as a file.")
    mask: ImageField | None = Field(None, description="In a form: the input's mask, as a file.")
    recipe_of: ImageField | None = Field(None, description="In a form: the input's recipe_of, as a file.")
    priority: Annotated[int, INTEGER] = Field(
        0,
        ge=PRIORITIES[0],
        le=PRIORITIES[1],
        description="Among the jobs of the same key the highest comes first.",
    )
    ttl_seconds: TtlSeconds | None = Field(
        None,
        description="For how long outputs are kept once the job has ended. Default: set by the gateway, "
        "usually an hour.",
    )
    preview_interval_steps: Annotated[int, INTEGER] = Field(
        5,
        ge=0,
        le=150,
        description="While an image is generated, its events show a preview every so many steps; 0: never.",
    )
    keep_files: bool = Field(
        False,
        description="Keep the files of the input as outputs, for other jobs: once the job has completed, "
        "input_image and input_mask are what was given, to the byte.",
    )
    webhook: WebhookRequest | None = Field(None, description="Who is told of the job's end.")


JOB = Validator(JobRequest, {})


def preferred_wait(prefer: str | None) -> float:
    """Return the seconds that a Prefer header (RFC 7240) wants to wait, at most `MAX_WAIT_S`; 0: none."""
    found = _WAIT.search(prefer or "")
    return min(float(found[1]), MAX_WAIT_S) if found else 0.0


def prefers_async(prefer: str | None) -> bool:
    """Return whether a Prefer header (RFC 7240) asks for an answer before the work is done."""
    return _ASYNC.search(prefer or "") is not None


def idempotency_key(headers: Mapping[str, str]) -> str | None:
    """Return the key of a request, if it has one, quoted or not. Raises `InvalidRequest`."""
    key = headers.get("idempotency-key")
    if key is None:
        return None
    key = key.strip().strip('"')
    if not 1 <= len(key) <= MAX_KEY_CHARS or not key.isascii() or not key.isprintable():
        message = f"must be 1 to {MAX_KEY_CHARS} printable ASCII characters"
        raise InvalidRequest.of("Idempotency-Key", message)
    return key


@dataclass(frozen=True)
class Page:
    """Which jobs of a list: `limit` of them, older than the one of the ID `before`."""

    limit: int
    before: str | None


def page_of(query: Mapping[str, str]) -> Page:
    """Read a list's parameters. Raises `InvalidRequest`."""
    known = ("limit", "before")
    violations = [
        FieldViolation(printable(name), "is not a parameter") for name in query if name not in known
    ]
    limit = query.get("limit", str(PAGE[0]))
    if not _LIMIT.fullmatch(limit) or not 1 <= int(limit) <= PAGE[1]:
        violations.append(FieldViolation("limit", f"must be an integer from 1 to {PAGE[1]}"))
    if "before" in query and not is_job_id(query["before"]):
        violations.append(FieldViolation("before", "is not the ID of a job"))
    if violations:
        raise refusal(violations)
    return Page(int(limit), query.get("before"))
