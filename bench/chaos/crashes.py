"""A process is killed under load, and a supervisor starts it again at once."""

from __future__ import annotations

import asyncio
import os
import signal
import time

import httpx
import psutil

from bench.chaos.clients import Answer, ask, client_of, kinds, not_completed, steady, submit
from bench.chaos.figures import Figure, Result, at_most, none_of
from bench.chaos.scale import Scale
from bench.chaos.stack import Service, Stack, processes_of

BACK_WITHIN_S = 120.0
SLOWEST_OF_0_1_S = {"gateway": 6, "generator": 20, "restorer": 10}
RETRIES = 0.2
LOAD = ("/generate", "/generate", "/restore", "/restore")
_PATH = {"gateway": "/generate", "generator": "/generate", "restorer": "/restore"}
_ORPHANS_END_S = 10.0


async def crashes(stack: Stack, scale: Scale) -> Result:
    """`kill -9` of each service in turn, while four clients and some jobs are served."""
    figures: list[Figure] = []
    rows: list[dict[str, str]] = []
    shared = _shared_files()
    async with client_of(stack.url, 90) as client:
        for service in scale.of(stack.services, (stack.gateway, stack.restorer)):
            seconds: list[float] = []
            others: list[str] = []
            unexplained = orphans = calls = 0
            retries = await _retries(stack)
            answers: list[Answer] = []
            for _ in range(scale.of(2, 1)):
                jobs = [job for _, job in [await submit(client) for _ in range(4)] if job]
                async with steady(client, LOAD) as load:
                    await asyncio.sleep(1.5)
                    killed, session = time.monotonic(), service.pid
                    service.send(signal.SIGKILL)
                    seconds.append(await _until_back(client, service))
                orphans += await _orphans(session)
                unexplained += sum(not _is_explained(each, killed, service) for each in load)
                answers += load
                calls += len(load) + len(jobs)
                others += await not_completed(client, jobs, BACK_WITHIN_S)
            name, goal = service.name, SLOWEST_OF_0_1_S[service.name]
            if service is not stack.gateway:  # whose counters began anew
                retried = (await _retries(stack) - retries) / calls
                figures.append(at_most(f"{name} killed: retries a request", retried, RETRIES, "", "R7"))
            figures += [
                at_most(
                    f"{name} killed: whole answers again after", max(seconds), goal, "s", "R15", of="0.1's"
                ),
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


def _is_explained(answer: Answer, killed: float, service: Service) -> bool:
    """Return whether an answer is what a client may get when a service is killed.

    What was in flight may fail. Later requests are answered, or refused with Retry-After. While the gateway
    itself is away nobody says so: connections to it are refused, and a client behind a balancer asks another.
    """
    if answer.is_whole or answer.is_refusal or answer.begun <= killed <= answer.begun + answer.seconds:
        return True
    return (answer.path == "/generate" and answer.status == 200) or (
        answer.status == 0 and service.name == "gateway"
    )


async def _orphans(session: int) -> int:
    """Return how many processes of one that was killed are still there ten seconds later."""
    end = time.monotonic() + _ORPHANS_END_S
    left: list[psutil.Process] = processes_of(session)
    while left and time.monotonic() < end:
        await asyncio.sleep(0.2)
        left = processes_of(session)
    return len(left)
