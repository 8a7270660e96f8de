"""A request for a job, as the dialects hand it in."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from atelier_gateway.http.long_text import LongText
from atelier_gateway.jobs.values import JobType, Json, Output
from atelier_runtime.errors import FieldViolation, InvalidRequest
from atelier_runtime.images import displayed_size, sniffed_format
from atelier_runtime.images.sniffing import name_of


@dataclass(frozen=True)
class Submission:
    """A request for a job. `ttl_s`: for how long its outputs are kept after it has ended.

    `can_wait`: it is put off while services are full or away, rather than fail: nobody waits for its end.
    `keep_files`: the files of the input are outputs of the job once it has completed.
    `field_prefix`: where the client sees the fields of `body`, for errors.
    """

    type: JobType
    body: Mapping[str, Any]
    owner: str = ""
    priority: int = 0
    ttl_s: float = 3600.0
    webhook: Json | None = None
    preview_interval_steps: int | None = None
    can_wait: bool = True
    keep_files: bool = False
    idempotency_key: str | None = None
    field_prefix: str = ""


def fingerprint_of(submission: Submission) -> str:
    """Return a digest of a request: equal if and only if the same is asked for, in the same words."""
    rest: list[object] = [
        submission.type,
        submission.priority,
        submission.ttl_s,
        submission.webhook,
        submission.preview_interval_steps,
    ]
    if submission.keep_files:  # only then: a request without it is the same as before there was this field
        rest.append("keep_files")
    digest = hashlib.sha256(json.dumps(rest, sort_keys=True).encode())
    for name in sorted(submission.body):
        value = submission.body[name]
        digest.update(json.dumps(name).encode())
        if isinstance(value, LongText):
            for piece in value.pieces():
                digest.update(piece)
        elif isinstance(value, bytes | memoryview):
            digest.update(value)
        else:
            digest.update(json.dumps(value, sort_keys=True).encode())
    return digest.hexdigest()


def kept_files(files: Mapping[str, bytes], blobs: Mapping[str, str]) -> list[Output]:
    """Return files of an input, by the names of their fields, as the outputs that they will be.

    `blobs`: where they are. Raises `InvalidRequest` naming each that is no image file.
    """
    kept, violations = [], []
    for name, file in files.items():
        file_format, size = sniffed_format(file), displayed_size(file)
        if file_format is None:
            known = name_of(file)
            message = f"is {known + ', ' if known else ''}not a PNG, JPEG or WebP file"
            violations.append(FieldViolation(name, message))
        elif size is None:
            message = "cannot be decoded: the file is corrupt or truncated within its header"
            violations.append(FieldViolation(name, message))
        else:
            output = f"input_{name}"
            kind = f"image/{file_format}"
            kept.append(Output(output, blobs[name], kind, len(file), size.width, size.height))
    if violations:
        raise InvalidRequest(violations)
    return kept
