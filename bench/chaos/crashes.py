"""A process is killed under load, and a supervisor starts it again at once."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from dataclasses import dataclass

import httpx
import psutil

from bench.chaos.clients import (
    HUNG,
    Answer,
    ask,
    client_of,
    kinds,
    not_completed,
    steady,
    submit,
    until,
)
from bench.chaos.figures import Figure, Result, at_most, informs, none_of
from bench.chaos.scale import Scale
from bench.chaos.stack import Service, Stack, processes_of
from bench.load import LOST

BACK_WITHIN_S = 120.0
SLOWEST_OF_0_1_S = {"gateway": 6, "generator": 20, "restorer": 10}
RETRIES = 0.2
LOAD = ("/generate", "/generate", "/restore", "/restore")
_PATH = {"gateway": "/generate", "generator": "/generate", "restorer": "/restore"}
_ORPHANS_END_S = 10.0
_LOST_S = 1.0


async def crashes(stack: Stack, scale: Scale) -> Result:
    """`kill -9` of each service in turn, while four clients and some jobs are served."""
    figures: list[Figure] = []
    rows: list[dict[str, str]] = []
    shared = _shared_files()
    async with client_of(stack.url, 90) as client:
        for service in scale.of(stack.services, (stack.gateway, stack.restorer)):
            name, goal = service.name, SLOWEST_OF_0_1_S[service.name]
            ready: list[float] = []
            whole: list[float] = []
            others: list[str] = []
            unexplained = orphans = 0
            retried, asked = 0.0, 0
            answers: list[Answer] = []
            for _ in range(scale.of(2, 1)):
                jobs = [job for _, job in [await submit(client) for _ in range(4)] if job]
                async with steady(client, LOAD) as load:
                    await asyncio.sleep(1.5)
                    killed, session = time.monotonic(), service.pid
                    service.send(signal.SIGKILL)
                    counting = asyncio.create_task(_while_away(stack, service))
                    whole.append(await _until_back(client, service))
                    away = await counting
                ready.append(away.ended - killed)
                retried += away.retries
                asked += sum(away.begun <= each.begun <= away.ended for each in load)
                orphans += await _orphans(session)
                unexplained += sum(not is_explained(each, name, killed, away.ended) for each in load)
                answers += load
                others += await not_completed(client, jobs, BACK_WITHIN_S)
            if service is not stack.gateway:
                share = retried / max(1, asked)
                figures.append(at_most(f"{name} away: retries a request", share, RETRIES, "", "R7"))
            figures += [
                at_most(
                    f"{name} killed: ready again after", max(ready), goal, "s", "R15", timed=True, of="0.1's"
                ),
                informs(f"{name} killed: whole answers again after", max(whole), "s", "R15"),
                none_of(f"{name} killed: failures of what was not in it", unexplained, "R15"),
                none_of(f"{name} killed: jobs that were not completed", len(others), "R15"),
                none_of(f"{name} killed: processes left behind", orphans, "R15"),
            ]
            rows.append(
                {"killed": name, "answers": kinds(answers), "jobs": ", ".join(others) or "all completed"}
            )
    left = _shared_files() - shared
    figures.append(none_of("files left in shared memory", len(left), "R15"))
    return Result(figures, rows)


def _shared_files() -> set[str]:
    """Return the files in shared memory but for those that browsers and PostgreSQL make."""
    return {name for name in os.listdir("/dev/shm") if not name.startswith((".", "PostgreSQL"))}


@dataclass(frozen=True)
class _Away:
    """From when to when a service was away, by `time.monotonic`, and how many calls were retried then."""

    begun: float
    ended: float
    retries: float


async def _while_away(stack: Stack, service: Service) -> _Away:
    """Count retries until a service that has just been killed is ready again.

    What it took along is retried at once, which is no matter of its being away. A generated image that waits
    for a slot of a restorer that is there, and full, is not counted either: it asks again, after a pause.
    """
    await asyncio.sleep(_LOST_S)
    counts = service is not stack.gateway  # it is the one that counts
    begun, before = time.monotonic(), await _retries(stack) if counts else 0.0
    await until(lambda: asyncio.to_thread(service.is_ready), BACK_WITHIN_S)
    return _Away(begun, time.monotonic(), await _retries(stack) - before if counts else 0.0)


async def _retries(stack: Stack) -> float:
    return await asyncio.to_thread(stack.gateway.metric, "atelier_backend_retries_total")


async def _until_back(client: httpx.AsyncClient, service: Service) -> float:
    """Return the seconds until a request that began after the kill is answered in whole."""
    start = time.monotonic()
    while time.monotonic() < start + BACK_WITHIN_S:
        if (await ask(client, _PATH[service.name])).is_whole:
            break
        await asyncio.sleep(0.1)
    return time.monotonic() - start


def is_explained(answer: Answer, name: str, killed: float, ready: float) -> bool:
    """Return whether an answer is what a client may get when a service is killed.

    What was in flight may fail, but not hang. Later requests are answered, or refused with Retry-After. Until
    the restorer is ready again, drawings may come as they were drawn; and until the gateway is, connections
    to it are refused: a client behind a balancer asks another.

    Args:
        answer: What a client got.
        name: The service that was killed.
        killed: When, by `time.monotonic`.
        ready: When it was ready again.
    """
    if answer.is_whole or answer.is_refusal:
        return True
    if answer.begun <= killed <= answer.begun + answer.seconds:
        return answer.status != HUNG
    if not killed < answer.begun < ready:
        return False
    return (name == "restorer" and answer.is_unrestored) or (name == "gateway" and answer.status == LOST)


async def _orphans(session: int) -> int:
    """Return how many processes of one that was killed are still there ten seconds later."""
    end = time.monotonic() + _ORPHANS_END_S
    left: list[psutil.Process] = processes_of(session)
    while left and time.monotonic() < end:
        await asyncio.sleep(0.2)
        left = processes_of(session)
    return len(left)
