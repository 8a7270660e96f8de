"""A service that stands still, and services that are asked to end."""

from __future__ import annotations

import asyncio
import signal
import time

from bench.chaos.clients import (
    Answer,
    ask,
    ask_for,
    client_of,
    count,
    health_of,
    kinds,
    longest,
    steady,
    until,
    until_whole,
)
from bench.chaos.figures import Figure, Result, at_most, informs, none_of
from bench.chaos.scale import Scale
from bench.chaos.stack import Service, Stack
from bench.probe import probing
from bench.report import percentile

_WHOLE_AGAIN_S = 60.0
_GONE_S, _ALL_IN_S = 90.0, 3.0
_EXIT_S = 3.0
"""From the last answer to the end of the process."""
_NEVER = -1
"""In place of the exit code of a process that has not ended."""
_PATHS = {"gateway": ("/generate", "/restore"), "generator": ("/generate",), "restorer": ("/restore",)}


async def held(stack: Stack, scale: Scale) -> Result:
    """SIGSTOP of a stage for 20 s while four clients ask for what needs it.

    The slowest answer is that beyond what the slowest of four takes when nothing is held.
    """
    seconds = scale.of(20.0, 4.0)
    figures: list[Figure] = []
    rows: list[dict[str, str]] = []
    for service in scale.of((stack.generator, stack.restorer), (stack.restorer,)):
        path = _PATHS[service.name][0]
        async with client_of(stack.url, 90) as client:
            usual = longest(await ask_for(client, (path,) * 8, 4))
            async with (
                probing(stack.url, "/livez") as probes,
                steady(client, (path,) * 4) as answers,
            ):
                await asyncio.sleep(1)
                service.send(signal.SIGSTOP)
                stopped = time.monotonic()
                try:
                    await asyncio.sleep(seconds / 2)
                    said, took = await health_of(client)
                    await asyncio.sleep(max(0.0, stopped + seconds - time.monotonic()))
                finally:
                    service.send(signal.SIGCONT)
                resumed = time.monotonic()
            back = await until_whole(client, path, _WHOLE_AGAIN_S)
        asked = [each for each in answers if each.begun < resumed]
        name, livez_ms = service.name, 1000 * percentile(probes.seconds, 0.99)
        figures += [
            at_most(
                f"{name} held: slowest answer, beyond the usual",
                longest(asked) - usual,
                seconds + scale.grace_s,
                "s",
                "R8",
            ),
            none_of(f"{name} held: neither whole nor refused", count(asked, _is_neither), "R8"),
            none_of(f"{name} held: /health says healthy", int(said == "healthy"), "R8"),
            at_most(f"{name} held: /health", took, 3, "s", "R8", timed=True),
            at_most(f"{name} held: /livez, p99", livez_ms, 200, "ms", "R1", timed=True),
            none_of(f"{name} held: /livez failed", probes.failed, "R1"),
            at_most(f"{name} held: whole again after", back, _WHOLE_AGAIN_S, "s", "R8"),
        ]
        rows.append({"held": name, "answers": kinds(asked), "/health": said})
    return Result(figures, rows)


def _is_neither(answer: Answer) -> bool:
    return not answer.is_whole and not answer.is_refusal and answer.status != 504


async def drains(stack: Stack, scale: Scale) -> Result:
    """SIGTERM of each service while requests are in flight: for the gateway 8 drawings and 8 photos.

    The time until it has ended is compared with that of the same requests when nothing ends.
    """
    figures: list[Figure] = []
    rows: list[dict[str, str]] = []
    number = scale.of(8, 4)
    for service in scale.of(stack.services, (stack.gateway, stack.restorer)):
        paths = _PATHS[service.name]
        async with client_of(stack.url, 90) as client:
            usual = longest(await ask_for(client, paths * number, len(paths) * number))
            asking = [asyncio.create_task(ask(client, path)) for path in paths * number]

            async def all_in(service: Service = service, wanted: int = len(asking)) -> bool:
                return await asyncio.to_thread(service.metric, "atelier_requests_in_progress") >= wanted

            before = len(service.exits)

            async def gone(service: Service = service, before: int = before) -> bool:
                return len(service.exits) > before

            await until(all_in, _ALL_IN_S, pause_s=0.02)
            start = time.monotonic()
            service.send(signal.SIGTERM)
            answers = await asyncio.gather(*asking)
            await until(gone, _GONE_S)
            ended, code = service.exits[-1] if await gone() else (time.monotonic(), _NEVER)
            await until_whole(client, paths[0], 2 * _WHOLE_AGAIN_S)
        in_flight = [each for each in answers if each.begun + each.seconds > start]
        name, took = service.name, ended - start
        last = max(each.begun + each.seconds for each in answers)
        figures += [
            informs(f"{name} ended: in flight at that moment", len(in_flight), "", "R2"),
            none_of(
                f"{name} ended: of these not whole", count(in_flight, lambda each: not each.is_whole), "R2"
            ),
            none_of(f"{name} ended: exit code", code, "R2"),
            informs(f"{name} ended after", took, "s", "R2"),
            at_most(
                f"{name} ended after, of the usual time of these", took / usual, 1.25, "", "R2", timed=True
            ),
            at_most(f"{name} ended, after its last answer", ended - last, _EXIT_S, "s", "R2", timed=True),
        ]
        rows.append({"ended": name, "answers": kinds(answers)})
    return Result(figures, rows)
