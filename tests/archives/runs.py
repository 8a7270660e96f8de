"""A folder of images, runs of `atelier-restorer restore`, and what the gateway has of them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tests.contract.script import file_of
from tests.contract.stack import Stack

COUNT = 24
RECORD = ".atelier-restored.jsonl"
DONE_BEFORE = "was restored by an earlier run"


class Ran(NamedTuple):
    code: int
    out: str
    err: str

    @property
    def results(self) -> dict[str, dict[str, Any]]:
        """By the names of the images."""
        return {Path(each["input"]).name: each for each in map(json.loads, self.out.splitlines())}


Run = Callable[..., Ran]


def make_album(folder: Path, count: int) -> Path:
    """Write images that all differ: 00.png, 01.png and so on."""
    folder.mkdir()
    for number in range(count):
        (folder / f"{number:02}.png").write_bytes(image(number))
    return folder


def image(number: int) -> bytes:
    return file_of(np.full((24, 32 + number, 3), 200 - number, np.uint8))


def jobs_of(stack: Stack) -> dict[str, dict[str, Any]]:
    """All jobs of the gateway by ID."""
    found: dict[str, dict[str, Any]] = {}
    query: dict[str, Any] = {"limit": 100}
    while True:
        page = stack.client.get("/v1/jobs", params=query).json()
        found |= {job["id"]: job for job in page["data"]}
        if not page["has_more"]:
            return found
        query["before"] = page["next"]


def new_jobs(stack: Stack, before: dict[str, Any]) -> list[dict[str, Any]]:
    return [job for job_id, job in jobs_of(stack).items() if job_id not in before]


def left(report: dict[str, Any]) -> dict[str, str]:
    return {Path(entry["input"]).name: entry["reason"] for entry in report["skipped"]}
