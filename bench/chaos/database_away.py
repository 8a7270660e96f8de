"""The database of the jobs stops while some run."""

from __future__ import annotations

import asyncio
import time

from bench.chaos.clients import (
    Answer,
    ask,
    client_of,
    count,
    health_of,
    kinds,
    longest,
    not_completed,
    submit,
)
from bench.chaos.figures import Result, at_most, none_of
from bench.chaos.scale import Scale
from bench.chaos.stack import Stack
from tests import postgres

_REFUSED_WITHIN_S = 4
_WAIT_S = 90.0


async def database_away(stack: Stack, scale: Scale) -> Result:
    """PostgreSQL is ended as by a loss of power, and is back after ten seconds."""
    if postgres.program("postgres") is None:
        return Result(skipped="PostgreSQL is not installed")
    away_s = scale.of(10.0, 3.0)
    with postgres.running() as server:
        url = await asyncio.to_thread(server.create_database)
        with stack.another_gateway({"JOBS_DATABASE": url}) as gateway:
            await asyncio.to_thread(gateway.wait_ready)
            async with client_of(gateway.url, 60) as client:
                jobs = [(await submit(client))[1] for _ in range(scale.of(8, 4))]
                await asyncio.to_thread(server.stop)
                end = time.monotonic() + away_s
                refused: list[Answer] = []
                answers: list[Answer] = []
                try:
                    while not refused or time.monotonic() < end:
                        refused.append((await submit(client))[0])
                        answers.append(await ask(client))
                    said, took = await health_of(client)
                finally:
                    await asyncio.to_thread(server.start)
                start = time.monotonic()
                failed = await not_completed(client, jobs, _WAIT_S)
                back = time.monotonic() - start
                _, job = await submit(client)
                failed += ["refused"] if not job else await not_completed(client, [job], _WAIT_S)
    return Result(
        [
            none_of("jobs accepted before, and one after, that failed", len(failed), "R8"),
            none_of(
                "jobs not refused with Retry-After meanwhile",
                count(refused, lambda a: not a.is_refusal),
                "R8",
            ),
            at_most("slowest refusal", longest(refused), _REFUSED_WITHIN_S + scale.grace_s, "s", "R8"),
            none_of("drawings that were not answered meanwhile", count(answers, _is_not_whole), "R8"),
            none_of("/health says anything but degraded", int(said != "degraded"), "R8"),
            at_most("/health", took, 3, "s", "R8", timed=True),
            at_most("accepted jobs completed after its return", back, 60, "s", "R8"),
        ],
        [
            {
                "jobs meanwhile": kinds(refused),
                "drawings": kinds(answers),
                "accepted": ", ".join(failed) or "all completed",
            }
        ],
    )


def _is_not_whole(answer: Answer) -> bool:
    return not answer.is_whole
