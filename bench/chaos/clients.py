"""Clients of the gateway, and what they were told."""

from __future__ import annotations

import asyncio
import contextlib
import io
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import httpx
from PIL import Image

from bench.load import LOST, REQUEST, is_restored

PHOTO = Path(__file__).parents[2] / "docs" / "ruined.png"
PHOTO_SIDE_PX = 256
HUNG = -1
"""In place of a status: there was no answer within the time that the client gave it."""
NOT_JSON = "not JSON"
REFUSED = (429, 503)
FINAL = ("completed", "failed", "cancelled")


@dataclass(frozen=True)
class Answer:
    """What a client got.

    Attributes:
        path: What it asked for.
        status: Of HTTP, `HUNG` or `LOST`.
        begun: When, by `time.monotonic`.
        seconds: Until the answer was there.
        says_when: It says when to come again.
        is_whole: A picture with its faces restored, or in which there are none.
        detail: The reason, where it is not whole.
    """

    path: str
    status: int
    begun: float
    seconds: float
    says_when: bool = False
    is_whole: bool = False
    detail: str = ""

    @property
    def is_refusal(self) -> bool:
        """Return whether it says that this cannot be done now, and when to come again."""
        return self.status in REFUSED and self.says_when

    @property
    def is_unrestored(self) -> bool:
        """Return whether it is a drawing that came without its faces restored, and says so."""
        return (
            self.path == "/generate" and self.status == 200 and not self.is_whole and self.detail != NOT_JSON
        )

    @property
    def kind(self) -> str:
        """Return how it ended, in a word or two."""
        if self.status == HUNG:
            return "hung"
        if self.status == LOST:
            return "connection lost"
        if self.is_whole:
            return "whole"
        return f"{self.status} {self.detail}".strip()


@cache
def photo() -> bytes:
    """Return a small picture of a face, a PNG."""
    file = io.BytesIO()
    with Image.open(PHOTO) as image:
        image.resize((PHOTO_SIDE_PX, PHOTO_SIDE_PX)).save(file, "png")
    return file.getvalue()


@asynccontextmanager
async def client_of(url: str, timeout_s: float = 120.0) -> AsyncIterator[httpx.AsyncClient]:
    """Yield a client with as many connections as it needs; a request that takes longer has hung."""
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(base_url=url, timeout=timeout_s, limits=limits, trust_env=False) as client:
        yield client


async def ask(client: httpx.AsyncClient, path: str = "/generate", **body: Any) -> Answer:
    """Ask for a picture: /generate, or /restore or /detect for a photo."""
    begun = time.monotonic()
    try:
        async with asyncio.timeout(client.timeout.read):  # httpx's own is for each read
            if path == "/generate":
                response = await client.post(path, json=REQUEST | body)
            else:
                response = await client.post(path, files={"image": ("photo.png", photo())}, data=body)
    except (TimeoutError, httpx.TimeoutException):
        return Answer(path, HUNG, begun, time.monotonic() - begun)
    except httpx.TransportError as error:
        return Answer(path, LOST, begun, time.monotonic() - begun, detail=type(error).__name__)
    seconds = time.monotonic() - begun
    says_when = "Retry-After" in response.headers
    whole, detail = _content(path, response)
    return Answer(path, response.status_code, begun, seconds, says_when, whole, detail)


def _content(path: str, response: httpx.Response) -> tuple[bool, str]:
    try:
        content = response.json()
    except ValueError:
        return False, NOT_JSON
    if response.status_code != 200:
        error = content.get("error") if isinstance(content, dict) else None
        return False, str(error.get("code") if isinstance(error, dict) else content.get("code", ""))
    if path != "/generate":
        return True, ""
    return is_restored(content), content["face_restoration_reason"] or ""


async def ask_for(client: httpx.AsyncClient, paths: Iterable[str], at_once: int, **body: Any) -> list[Answer]:
    """Ask for all of these, so many at the same time."""
    waiting, answers = iter(paths), []

    async def one_after_the_other() -> None:
        for path in waiting:
            answers.append(await ask(client, path, **(body if path == "/generate" else {})))

    await asyncio.gather(*(one_after_the_other() for _ in range(at_once)))
    return answers


@asynccontextmanager
async def steady(
    client: httpx.AsyncClient, paths: Sequence[str], pause_s: float = 0.2
) -> AsyncIterator[list[Answer]]:
    """While the context lasts, one client for each path asks again and again; yields the answers so far.

    On leaving, what is in flight is waited for.
    """
    answers: list[Answer] = []
    ended = asyncio.Event()

    async def again_and_again(path: str) -> None:
        while not ended.is_set():
            answers.append(await ask(client, path))
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(ended.wait(), pause_s)

    tasks = [asyncio.create_task(again_and_again(path)) for path in paths]
    try:
        yield answers
        ended.set()
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()


def kinds(answers: Iterable[Answer]) -> str:
    """Return how many ended how, in words."""
    counted = Counter(answer.kind for answer in answers)
    return ", ".join(f"{number} {kind}" for kind, number in counted.most_common())


def count(answers: Iterable[Answer], condition: Callable[[Answer], bool]) -> int:
    """Return how many answers are of a kind."""
    return sum(map(condition, answers))


def longest(answers: Iterable[Answer]) -> float:
    """Return the seconds of the slowest answer."""
    return max((answer.seconds for answer in answers), default=0.0)


async def until(condition: Callable[[], Awaitable[bool]], within_s: float, pause_s: float = 0.1) -> float:
    """Wait until something is so; return the seconds that it took, or more if it never was."""
    start = time.monotonic()
    while not await condition():
        if time.monotonic() - start > within_s:
            return time.monotonic() - start + pause_s
        await asyncio.sleep(pause_s)
    return time.monotonic() - start


async def until_whole(client: httpx.AsyncClient, path: str, within_s: float) -> float:
    """Return the seconds until an answer is whole again."""

    async def is_whole() -> bool:
        return (await ask(client, path)).is_whole

    return await until(is_whole, within_s)


async def submit(client: httpx.AsyncClient) -> tuple[Answer, str]:
    """Submit a job that draws; return the answer and the job's ID, empty if it was refused."""
    begun = time.monotonic()
    try:
        async with asyncio.timeout(client.timeout.read):
            response = await client.post("/v1/jobs", json={"type": "generate", "input": REQUEST})
    except (TimeoutError, httpx.TimeoutException):
        return Answer("/v1/jobs", HUNG, begun, time.monotonic() - begun), ""
    except httpx.TransportError as error:
        return Answer("/v1/jobs", LOST, begun, time.monotonic() - begun, detail=type(error).__name__), ""
    accepted = response.status_code in (200, 202)
    says_when = "Retry-After" in response.headers
    detail = "" if accepted else _content("/v1/jobs", response)[1]
    answer = Answer(
        "/v1/jobs", response.status_code, begun, time.monotonic() - begun, says_when, accepted, detail
    )
    return answer, response.json()["id"] if accepted else ""


async def state_of(client: httpx.AsyncClient, job: str) -> str:
    """Return a job's status, "unknown" while it cannot be told."""
    with contextlib.suppress(httpx.HTTPError):
        response = await client.get(f"/v1/jobs/{job}")
        if response.status_code == 200:
            return str(response.json()["status"])
        if response.status_code == 404:
            return "lost"
    return "unknown"


async def not_completed(client: httpx.AsyncClient, jobs: Iterable[str], within_s: float) -> list[str]:
    """Wait for jobs; return how those ended that were not completed."""
    waiting, others = set(jobs), []
    end = time.monotonic() + within_s
    while waiting and time.monotonic() < end:
        for job in list(waiting):
            state = await state_of(client, job)
            if state in (*FINAL, "lost"):
                waiting.discard(job)
                others += [state] if state != "completed" else []
        await asyncio.sleep(0.2)
    return others + ["not ended"] * len(waiting)


async def health_of(client: httpx.AsyncClient) -> tuple[str, float]:
    """Return what /health says, and the seconds that it took."""
    start = time.monotonic()
    try:
        said = str((await client.get("/health")).json()["status"])
    except httpx.HTTPError as error:
        said = type(error).__name__
    return said, time.monotonic() - start
