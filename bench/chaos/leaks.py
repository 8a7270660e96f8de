"""Whether a process grows with the requests that it has served."""

from __future__ import annotations

import asyncio
import time
from itertools import cycle, islice

import numpy as np

from bench.chaos.clients import ask_for, client_of, kinds, until
from bench.chaos.figures import Figure, Result, at_most, informs, none_of
from bench.chaos.scale import Scale
from bench.chaos.stack import Service, Stack, Usage

PATHS = ("/generate", "/restore", "/detect")
AT_ONCE = 4
ASK_S, ENOUGH_LOOKS = 240.0, 6
WARM_UP = 1 / 3
SLOPE_KIB = 10
SPARE_FILES, SPARE_THREADS = 5, 2
"""More than at the start may be open: idle connections and pools that fill once."""


async def leaks(stack: Stack, scale: Scale) -> Result:
    """1,500 requests, or what four minutes allow: a third of each kind, four at a time.

    Memory is what the process and its image workers share with nobody, looked at twenty times at most. The
    first third of the requests is the warm-up, which does not count: in it, allocators of each thread take
    their arenas, each image worker decodes and encodes its first pictures, and libraries fill caches of fixed
    size (OpenCV's plans, oneDNN's kernels for each shape). The slope is that of a line by least squares
    through what follows.
    """
    requests, looks = scale.of(1500, 36), scale.of(20, 6)
    each_time = requests // looks
    used: dict[str, list[Usage]] = {each.name: [] for each in stack.services}
    answers = []
    async with client_of(stack.url) as client:
        await ask_for(client, PATHS, 1)
        counted = await asyncio.to_thread(_counted, stack.gateway)
        end = time.monotonic() + scale.of(ASK_S, ASK_S / 4)
        for n in range(looks):
            paths = islice(cycle(PATHS), n * each_time, (n + 1) * each_time)
            answers += await ask_for(client, paths, AT_ONCE)
            for service in stack.services:
                used[service.name].append(await asyncio.to_thread(service.usage))
            if n + 1 >= ENOUGH_LOOKS and time.monotonic() > end:
                break

        async def idle() -> bool:
            return not any([await asyncio.to_thread(each.busy) for each in stack.services])

        await until(idle, 30)
        counted = await asyncio.to_thread(_counted, stack.gateway) - counted
    warm = int(len(used[stack.gateway.name]) * WARM_UP)
    figures: list[Figure] = [
        informs("requests", len(answers), "", "R12"),
        none_of("requests that were not answered in whole", sum(not a.is_whole for a in answers), "R12"),
        none_of(
            "requests that the gateway's counters missed, or counted twice",
            abs(len(answers) - counted),
            "R14",
        ),
    ]
    for name, usages in used.items():
        later = usages[warm:]
        files = max(u.files for u in later[1:]) - later[0].files
        threads = max(u.threads for u in later[1:]) - later[0].threads
        figures += [
            at_most(f"file descriptors more, {name}", files, SPARE_FILES, "", "R12", timed=False),
            at_most(f"threads more, {name}", threads, SPARE_THREADS, "", "R12", timed=False),
            at_most(f"memory, {name}", _slope(later, each_time), SLOPE_KIB, "KiB a request", "R12"),
        ]
    rows = [
        {
            "process": name,
            "before the warm-up's end": f"{usages[warm - 1].private_kib / 1024:.0f} MiB",
            "at the end": f"{usages[-1].private_kib / 1024:.0f} MiB",
            "files": str(usages[-1].files),
            "threads": str(usages[-1].threads),
        }
        for name, usages in used.items()
    ]
    if any(not answer.is_whole for answer in answers):
        rows.append({"process": "answers", "at the end": kinds(answers)})
    return Result(figures, rows)


def _slope(usages: list[Usage], requests: int) -> float:
    """Return KiB a request; `requests` are between two looks."""
    x = np.arange(len(usages)) * requests
    return float(np.polyfit(x, [usage.private_kib for usage in usages], 1)[0])


def _counted(gateway: Service) -> int:
    return int(gateway.metric("atelier_request_duration_seconds_count"))
