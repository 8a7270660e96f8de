"""Faults of the network between the gateway and the services."""

from __future__ import annotations

import asyncio
import time

import httpx

from bench.chaos.clients import (
    HUNG,
    Answer,
    ask_for,
    client_of,
    count,
    health_of,
    kinds,
    longest,
    until,
    until_whole,
)
from bench.chaos.figures import Figure, Result, at_most, none_of
from bench.chaos.proxy import Fault, Proxy
from bench.chaos.scale import Scale
from bench.chaos.stack import Stack

DEADLINE_S = 8
_HUNG_AFTER_S = DEADLINE_S + 20
_AGAIN_S, _GIVE_UP_S = 30, 60.0
_SILENT = (Fault.BLACK_HOLE,)
"""While these last, /health cannot say that all is well."""
_QUICK = (Fault.BLACK_HOLE, Fault.CUT)


async def network(stack: Stack, scale: Scale) -> Result:
    """Each fault between the gateway and one service, at a deadline of 8 s, with six requests in it."""
    faults: list[Fault] = [each for each in Fault if each is not Fault.NONE]
    faults = scale.of(faults, list(_QUICK))
    rows: list[dict[str, str]] = []
    seen: list[Answer] = []
    backs: list[tuple[float, float]] = []
    healthy_in_silence, healths = 0, []
    async with (
        Proxy(stack.generator.port) as to_generator,
        Proxy(stack.restorer.port) as to_restorer,
    ):
        settings: dict[str, object] = {
            "DEADLINE_SECONDS": DEADLINE_S,
            "JOBS_DATABASE": "none",
            "GENERATOR": f"127.0.0.1:{to_generator.port}",
            "RESTORER": f"127.0.0.1:{to_restorer.port}",
        }
        ways: list[tuple[Proxy, str, tuple[str, ...]]] = [
            (to_generator, "generator", ("/generate",)),
            (to_restorer, "restorer", ("/generate", "/restore")),
        ]
        with stack.another_gateway(settings) as gateway:
            await asyncio.to_thread(gateway.wait_ready)
            async with client_of(gateway.url, _HUNG_AFTER_S) as client:
                await _until_well(client)
                for proxy, name, paths in ways[scale.of(0, 1) :]:
                    for fault in faults:
                        proxy.fault = fault
                        try:
                            answers, (said, took) = await _under(client, fault, paths)
                        finally:
                            proxy.fault = Fault.NONE
                        seen += answers
                        healths.append(took)
                        healthy_in_silence += fault in _SILENT and said == "healthy"
                        row = {
                            "between the gateway and": name,
                            "fault": fault.value,
                            "answers": kinds(answers),
                        }
                        row |= {"slowest": f"{longest(answers):.1f} s", "/health": said}
                        backs.append(await _until_well(client))  # nor does a fault run into the next
                        row["whole again after"] = f"{backs[-1][0]:.1f} s"
                        rows.append(row)
    whole_again, healthy_again = (max(seconds) for seconds in zip(*backs, strict=True))
    goal = DEADLINE_S + scale.grace_s
    figures: list[Figure] = [
        none_of("requests that hung", count(seen, lambda each: each.status == HUNG), "R8"),
        none_of("neither an answer nor an error that says so", count(seen, _is_unexplained), "R8"),
        none_of("black holes in which /health says healthy", healthy_in_silence, "R8"),
        at_most("slowest answer", longest(seen), goal, "s", "R5", "R8", of="deadline of 8 s"),
        at_most("slowest /health", max(healths), 3, "s", "R8", timed=True),
        at_most("whole answers again after a fault", whole_again, _AGAIN_S, "s", "R8"),
        at_most("/health says healthy again after a fault", healthy_again, _AGAIN_S, "s", "R8"),
    ]
    return Result(figures, rows)


async def _until_well(client: httpx.AsyncClient) -> tuple[float, float]:
    """Wait until no fault is left; return the seconds until answers are whole, and until /health tells."""

    async def is_healthy() -> bool:
        return (await health_of(client))[0] == "healthy"

    start = time.monotonic()
    whole = await until_whole(client, "/generate", _GIVE_UP_S)  # by way of both services
    await until(is_healthy, _GIVE_UP_S - whole)
    return whole, time.monotonic() - start


async def _under(
    client: httpx.AsyncClient, fault: Fault, paths: tuple[str, ...]
) -> tuple[list[Answer], tuple[str, float]]:
    """Return what six requests got (of resets forty), and what /health said meanwhile."""
    number, at_once = (40, 4) if fault is Fault.RESETS else (6, 6)
    wanted = [paths[n % len(paths)] for n in range(number)]
    asking = asyncio.create_task(ask_for(client, wanted, at_once))
    try:
        await asyncio.sleep(1)
        said = await health_of(client)
        return await asking, said
    finally:
        asking.cancel()


def _is_unexplained(answer: Answer) -> bool:
    """Return whether a client was told nothing useful: neither a picture, a refusal nor the deadline."""
    return answer.status not in (HUNG, 200, 504) and not answer.is_refusal
