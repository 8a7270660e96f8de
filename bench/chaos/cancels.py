"""Clients that leave at random moments."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from typing import Any

from bench.chaos.clients import ask, ask_for, client_of, until
from bench.chaos.figures import Figure, Result, at_least, at_most, informs, none_of
from bench.chaos.scale import Scale
from bench.chaos.stack import Stack

PATHS = ("/generate", "/restore", "/detect")
AT_ONCE = 8
LONG: dict[str, Any] = {"num_inference_steps": 100}
LEAVE_AFTER_S = 0.2, 3.0
SETTLED_S = 60.0
SETTLED_SHARE = 0.25
GROWTH_OF_0_1_MIB = {"gateway": 25, "generator": 210, "restorer": 220}


async def cancels(stack: Stack, scale: Scale) -> Result:
    """100 requests, eight at a time, are given up after 0.2 to 3 s; each third is a drawing of 100 steps.

    One of these, alone, takes tens of seconds on two cores. A quarter of what it takes is the time in which
    all gauges have to be 0 after the last was given up: a single drawing that went on would need more, and
    on any machine.
    """
    number = scale.of(100, 24)
    chance = random.Random(5)
    async with client_of(stack.url) as client:
        first = await ask_for(client, PATHS * scale.of(8, 2), 4)
        whole = await ask(client, **LONG)
        before = {each.name: each.usage() for each in stack.services}
        waiting = iter(range(number))
        left: Counter[str] = Counter()

        async def leave_again_and_again() -> None:
            for n in waiting:
                path = PATHS[n % len(PATHS)]
                asking = asyncio.create_task(ask(client, path, **(LONG if path == "/generate" else {})))
                done, _ = await asyncio.wait([asking], timeout=chance.uniform(*LEAVE_AFTER_S))
                left[path] += not done
                asking.cancel()
                await asyncio.gather(asking, return_exceptions=True)

        await asyncio.gather(*(leave_again_and_again() for _ in range(AT_ONCE)))

        async def idle() -> bool:
            busy = await asyncio.gather(*(asyncio.to_thread(each.busy) for each in stack.services))
            return not any(busy)

        seconds = await until(idle, max(SETTLED_S, 2 * whole.seconds))
        still = sum(len(each.busy()) for each in stack.services)
        after = await ask_for(client, PATHS, 1)
    figures: list[Figure] = [
        none_of("requests before that are not answered", sum(not a.is_whole for a in [*first, whole]), "R4"),
        informs("requests given up", left.total(), "", "R4"),
        at_least("drawings given up", left["/generate"], 1, "", "R4"),
        informs("a drawing that nobody gives up", whole.seconds, "s", "R4"),
        none_of("gauges that are not 0 afterwards", still, "R4"),
        settled(seconds, whole.seconds),
        none_of("requests afterwards that are not answered", sum(not each.is_whole for each in after), "R4"),
    ]
    for each in stack.services:
        grown = (each.usage().private_kib - before[each.name].private_kib) / 1024
        goal = GROWTH_OF_0_1_MIB[each.name]
        figures.append(at_most(f"memory more, {each.name}", grown, goal, "MiB", "R4", timed=True, of="0.1's"))
    return Result(figures)


def settled(seconds: float, whole_s: float) -> Figure:
    """Return the figure of the seconds until nothing was busy; `whole_s`: what a whole drawing takes."""
    goal = round(SETTLED_SHARE * whole_s, 1)
    return at_most("all gauges at 0 after", seconds, goal, "s", "R4", of="a quarter of that drawing")
