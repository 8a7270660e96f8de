"""Clients that leave at random moments."""

from __future__ import annotations

import asyncio
import random

from bench.chaos.clients import ask, ask_for, client_of, until
from bench.chaos.figures import Figure, Result, at_most, informs, none_of
from bench.chaos.scale import Scale
from bench.chaos.stack import Stack

PATHS = ("/generate", "/restore", "/detect")
AT_ONCE = 8
SETTLED_S = 60.0
GROWTH_OF_0_1_MIB = {"gateway": 25, "generator": 210, "restorer": 220}


async def cancels(stack: Stack, scale: Scale) -> Result:
    """100 requests, eight at a time, are given up after 0 to 1.5 times the time of one."""
    number = scale.of(100, 24)
    chance = random.Random(5)
    async with client_of(stack.url) as client:
        first = await ask_for(client, PATHS * scale.of(8, 2), 4)
        longest = max(answer.seconds for answer in first)
        before = {each.name: each.usage() for each in stack.services}
        waiting = iter(range(number))
        left = 0

        async def leave_again_and_again() -> None:
            nonlocal left
            for n in waiting:
                asking = asyncio.create_task(ask(client, PATHS[n % len(PATHS)]))
                done, _ = await asyncio.wait([asking], timeout=chance.uniform(0, 1.5 * longest))
                left += not done
                asking.cancel()
                await asyncio.gather(asking, return_exceptions=True)

        await asyncio.gather(*(leave_again_and_again() for _ in range(AT_ONCE)))

        async def idle() -> bool:
            busy = [await asyncio.to_thread(each.busy) for each in stack.services]
            return not any(busy)

        seconds = await until(idle, SETTLED_S)
        still = sum(len(each.busy()) for each in stack.services)
        after = await ask_for(client, PATHS, 1)
    figures: list[Figure] = [
        informs("requests given up", left, "", "R4"),
        none_of("gauges that are not 0 afterwards", still, "R4"),
        informs("all gauges at 0 after", seconds, "s", "R4"),
        none_of("requests afterwards that are not answered", sum(not each.is_whole for each in after), "R4"),
    ]
    for each in stack.services:
        grown = (each.usage().private_kib - before[each.name].private_kib) / 1024
        goal = GROWTH_OF_0_1_MIB[each.name]
        figures.append(at_most(f"memory more, {each.name}", grown, goal, "MiB", "R4", of="0.1's"))
    return Result(figures)
