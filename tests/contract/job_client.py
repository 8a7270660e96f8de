"""What the tests of jobs have in common: submit, wait, follow."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx

from tests.contract.services import eventually
from tests.contract.stack import Stack

PROMPT = {"prompt": "a red apple", "width": 256, "height": 256}


def submit(stack: Stack, headers: dict[str, str] | None = None, **body: Any) -> Any:
    """Submit a job, by default one that generates an image; return its representation."""
    response = stack.client.post(
        "/v1/jobs", json={"type": "generate", "input": PROMPT, **body}, headers=headers
    )
    assert response.status_code in (200, 202), response.text
    return response.json()


def finished(stack: Stack, job: Any, within_s: float = 20.0) -> Any:
    """Wait for a job's end; return its representation."""
    found = job

    def has_ended() -> bool:
        nonlocal found
        found = stack.client.get(job["urls"]["self"]).json()
        return found["status"] in ("completed", "failed", "cancelled")

    eventually(has_ended, within_s=within_s)
    return found


def done(stack: Stack, **body: Any) -> Any:
    """Submit a job and wait for its end."""
    return finished(stack, submit(stack, **body))


def output_names(job: Any) -> list[str]:
    return [output["name"] for output in job["outputs"]]


def output_of(stack: Stack, job: Any, name: str) -> bytes:
    [url] = [output["url"] for output in job["outputs"] if output["name"] == name]
    response = stack.client.get(url)
    assert response.status_code == 200, response.text
    return response.content


def events_in(response: httpx.Response) -> Iterator[tuple[str, int, Any]]:
    """Name, ID and data of each server-sent event, as they come."""
    event: dict[str, str] = {}
    for line in response.iter_lines():
        name, _, value = line.partition(": ")
        if line and name:
            event[name] = value
        elif event:
            yield event["event"], int(event["id"]), json.loads(event["data"])
            event = {}
