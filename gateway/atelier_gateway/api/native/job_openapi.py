"""The routes of jobs as the OpenAPI document shows them."""

from __future__ import annotations

from typing import Any

from atelier_gateway.api.native.job_request import JOB, PAGE
from atelier_gateway.api.native.job_response import JobAnswer, JobList
from atelier_gateway.api.native.openapi import problems, request_body

_TAG: dict[str, Any] = {"tags": ["jobs"]}
_UNSERVED = {
    501: "This gateway has no jobs, or no generator for them. Retrying does not help.",
    503: "The database of jobs, or their files, cannot be reached. Retry-After says when to retry.",
}
_BODY = {
    400: "The body is neither a JSON object nor a form that can be read.",
    408: "The body arrived too slowly.",
    413: "The body is larger than the limit.",
    415: "The body's content type is not JSON, plain text or multipart/form-data.",
    422: "What the route of that type would refuse; an idempotency key that came with another request.",
    429: "As many jobs are waiting as may. Retry-After says when to retry.",
    500: "An internal error; the request ID leads to the log line.",
}
_ONE = {404: "There is no job of this ID.", 410: "It has expired.", 500: _BODY[500], **_UNSERVED}

_EXAMPLES: dict[str, Any] = {
    "generate": {
        "summary": "A portrait, with a preview every five steps",
        "value": {"type": "generate", "input": {"prompt": "professional headshot of a woman", "seed": 42}},
    },
    "webhook": {
        "summary": "Kept for a day; somebody is told of its end",
        "value": {
            "type": "generate",
            "input": {"prompt": "professional headshot of a woman"},
            "ttl_seconds": 86400,
            "webhook": {"url": "https://example.com/hook", "events": ["completed", "failed"]},
        },
    },
}
_DRAWN_AGAIN: dict[str, Any] = {
    "summary": "The faces of a job's drawing restored again, with another fidelity",
    "value": {
        "type": "restore",
        "input": {"image": {"job": "job_0193a5f2c1d0", "output": "drawn"}, "fidelity": 0.3},
    },
}


def _header(name: str, description: str, **schema: Any) -> dict[str, Any]:
    return {"name": name, "in": "header", "description": description, "schema": {"type": "string", **schema}}


def _query(name: str, description: str, **schema: Any) -> dict[str, Any]:
    return {"name": name, "in": "query", "description": description, "schema": schema}


_ID = {
    "name": "job_id",
    "in": "path",
    "required": True,
    "description": "As the job's `id`.",
    "schema": {"type": "string"},
}
_LOCATION = {"Location": {"schema": {"type": "string"}, "description": "The job."}}
_RETRY = {"Retry-After": {"schema": {"type": "integer"}, "description": "When to look again, in seconds."}}

SUBMIT: dict[str, Any] = {
    **_TAG,
    "description": "Accept a job. Once this has been answered, the job is carried out, whatever restarts.",
    "status_code": 202,
    "response_model": None,
    "responses": {
        202: {"model": JobAnswer, "description": "It waits or runs.", "headers": _LOCATION | _RETRY},
        200: {
            "model": JobAnswer,
            "description": "It has ended: within the time that Prefer gives, or before, with the same key.",
            "headers": _LOCATION,
        },
        **problems(_BODY | _UNSERVED),
    },
    "openapi_extra": {
        "parameters": [
            _header("Idempotency-Key", "Within 24 hours the same key gives the same job.", maxLength=255),
            _header("Prefer", "wait=N: wait up to N seconds, 60 at most, for the job's end (RFC 7240)."),
        ],
        "requestBody": request_body(JOB, _EXAMPLES | {"again": _DRAWN_AGAIN}),
    },
}
LIST: dict[str, Any] = {
    **_TAG,
    "description": "List jobs, newest first.",
    "response_model": JobList,
    "responses": problems({422: "A parameter is unknown or out of range.", **_UNSERVED}),
    "openapi_extra": {
        "parameters": [
            _query("limit", "At most so many.", type="integer", minimum=1, maximum=PAGE[1], default=PAGE[0]),
            _query("before", "Those that are older than the job of this ID.", type="string", maxLength=64),
        ]
    },
}
GET: dict[str, Any] = {
    **_TAG,
    "description": "Look a job up.",
    "response_model": JobAnswer,
    "responses": problems(_ONE),
    "openapi_extra": {"parameters": [_ID]},
}
_CANCEL_TEXT = "Cancel a job, waiting or running. One that has ended stays as it is, and is returned."
CANCEL: dict[str, Any] = {**GET, "description": _CANCEL_TEXT}
DELETE: dict[str, Any] = {**GET, "description": f"{_CANCEL_TEXT} The same as cancel."}
EXPIRE: dict[str, Any] = {
    **_TAG,
    "description": "Delete a job's outputs and result now. One that has not ended is canceled, and what it "
    "has made is deleted once its work has stopped. Afterwards it is gone, as if its time had ended. "
    "Repeating it changes nothing.",
    "status_code": 204,
    "response_model": None,
    "responses": {
        204: {"description": "It is gone."},
        **problems({404: _ONE[404], 500: _ONE[500]} | _UNSERVED),
    },
    "openapi_extra": {"parameters": [_ID]},
}
EVENTS: dict[str, Any] = {
    **_TAG,
    "description": "Follow a job by server-sent events: snapshot at once, then status, progress, preview and "
    "output, until it has ended.",
    "response_model": None,
    "responses": {
        200: {"description": "The events.", "content": {"text/event-stream": {"schema": {"type": "string"}}}},
        **problems(_ONE),
    },
    "openapi_extra": {
        "parameters": [_ID, _header("Last-Event-ID", "The last event seen, after a lost connection.")]
    },
}
_FILE = {"schema": {"type": "string", "format": "binary"}}
_IMAGES = {f"image/{name}": _FILE for name in ("png", "jpeg", "webp")}
OUTPUT: dict[str, Any] = {
    **_TAG,
    "description": "One of the job's files.",
    "response_model": None,
    "responses": {
        200: {"description": "The file.", "content": _IMAGES},
        206: {"description": "The part of it that Range asks for.", "content": _IMAGES},
        304: {"description": "It has not changed: see If-None-Match."},
        416: {"description": "The file has no such part."},
        **problems(_ONE),
    },
    "openapi_extra": {
        "parameters": [
            _ID,
            {
                "name": "name",
                "in": "path",
                "required": True,
                "description": "As in the job's `outputs`.",
                "schema": {"type": "string"},
            },
            _header("Range", "One range of bytes."),
        ]
    },
}
