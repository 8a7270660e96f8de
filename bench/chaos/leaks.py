"""Whether a process grows with the requests that it has served."""

from __future__ import annotations

import asyncio
import io
import time
from collections.abc import Hashable, Mapping, Sequence
from itertools import cycle, islice, pairwise
from typing import TypeVar

import numpy as np
import psutil
from PIL import Image

from bench.chaos.clients import ask_for, client_of, kinds, photo, until
from bench.chaos.figures import Figure, Result, at_most, informs, none_of
from bench.chaos.scale import Scale
from bench.chaos.stack import Service, Stack, Usage, total

PATHS = ("/generate", "/restore", "/detect")
AT_ONCE = 4
FACES = (1, 2, 3, 4)
"""On the pictures of the warm-up; the restorer takes four at a time on a CPU."""
ASK_S, ENOUGH_LOOKS = 180.0, 6
WARM_UP = 1 / 3
SLOPE_KIB = 10
SPARE_FILES, SPARE_THREADS = 5, 2
"""More than at the start may be open: idle connections and pools that fill once."""

_HELD = "atelier_heap_in_use_bytes"

P = TypeVar("P", bound=Hashable)


async def leaks(stack: Stack, scale: Scale) -> Result:
    """1,500 requests, or what three minutes allow: a third of each kind, four at a time.

    The warm-up does not count. It begins with pictures of one to four faces, so that the restorer has had
    batches of each size: oneDNN keeps the kernels of each, and four requests at a time seldom make a batch of
    four. The first third of the requests follows: each image worker decodes and encodes its first pictures,
    and pools start their threads.

    Memory is what the process holds from malloc (`atelier_heap_in_use_bytes`), and of its image workers what
    they share with nobody, looked at 40 times at most. What the process itself shares with nobody says
    less: the services keep what is freed up to 512 MiB, and give all of it back once it is more
    (`torch_setup`), so that it swings by up to 200 MiB; it is in the table. The slope is that of a line by
    least squares through the growth of each process from where it began, see `growth`. An image worker may
    start at any time, so how many processes there are is a figure of its own: one more than image workers
    encodes while all of them decode.
    """
    requests, looks = scale.of(1500, 36), scale.of(40, 6)
    each_time = requests // looks
    used: dict[str, list[Mapping[psutil.Process, Usage]]] = {each.name: [] for each in stack.services}
    held: dict[str, list[float]] = {each.name: [] for each in stack.services}
    answers = []
    async with client_of(stack.url) as client:
        await ask_for(client, PATHS, 1)
        for faces in scale.of(FACES * 3, FACES[-1:]):
            image = ("photo.png", _photo_of(faces))
            (await client.post("/restore", files={"image": image})).raise_for_status()
        counted = await asyncio.to_thread(_counted, stack.gateway)
        end = time.monotonic() + scale.of(ASK_S, ASK_S / 4)
        for n in range(looks):
            paths = islice(cycle(PATHS), n * each_time, (n + 1) * each_time)
            answers += await ask_for(client, paths, AT_ONCE)
            for service in stack.services:
                used[service.name].append(await asyncio.to_thread(service.usage_of_each))
                held[service.name].append(await asyncio.to_thread(service.metric, _HELD) / 1024)
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
    for service in stack.services:
        name, each = service.name, used[service.name]
        grown = growth(each[warm:])
        workers = growth([{p: u for p, u in look.items() if p.pid != service.pid} for look in each[warm:]])
        heap = [
            kib + of_workers.private_kib for kib, of_workers in zip(held[name][warm:], workers, strict=True)
        ]
        files, threads = max(g.files for g in grown[1:]), max(g.threads for g in grown[1:])
        most = await asyncio.to_thread(_processes_at_most, service)
        figures += [
            at_most(f"processes, {name}", max(map(len, each)), most, "", "R12"),
            at_most(f"file descriptors more, {name}", files, SPARE_FILES, "", "R12"),
            at_most(f"threads more, {name}", threads, SPARE_THREADS, "", "R12"),
            at_most(
                f"memory, {name}",
                _slope(heap, each_time),
                SLOPE_KIB,
                "KiB a request",
                "R12",
                timed=scale.quick,  # memory swings by more than so few requests could leave behind
            ),
        ]
    rows = []
    for name, each in used.items():
        before, after = total(each[warm - 1].values()), total(each[-1].values())
        rows.append(
            {
                "process": name,
                "before the warm-up's end": f"{before.private_kib / 1024:.0f} MiB",
                "at the end": f"{after.private_kib / 1024:.0f} MiB",
                "held from malloc": f"{held[name][warm] / 1024:.1f}, {held[name][-1] / 1024:.1f} MiB",
                "processes": str(len(each[-1])),
                "files": str(after.files),
                "threads": str(after.threads),
            }
        )
    if any(not answer.is_whole for answer in answers):
        rows.append({"process": "answers", "at the end": kinds(answers)})
    return Result(figures, rows)


def _photo_of(faces: int) -> bytes:
    """Return a picture of so many faces, side by side, a PNG."""
    with Image.open(io.BytesIO(photo())) as image:
        one = np.asarray(image.convert("RGB"))
    file = io.BytesIO()
    Image.fromarray(np.concatenate([one] * faces, axis=1)).save(file, "png")
    return file.getvalue()


def growth(looks: Sequence[Mapping[P, Usage]]) -> list[Usage]:
    """Return by how much processes have grown since the first look, for each look.

    A process counts from the look at which it is first seen, until that at which it was last seen: what it
    then held stays grown, so that one which grows and is replaced, again and again, does not look flat.
    """
    grown = [Usage(0, 0, 0.0)]
    for before, after in pairwise(looks):
        both = before.keys() & after.keys()
        grown.append(
            Usage(
                grown[-1].files + sum(after[p].files - before[p].files for p in both),
                grown[-1].threads + sum(after[p].threads - before[p].threads for p in both),
                grown[-1].private_kib + sum(after[p].private_kib - before[p].private_kib for p in both),
            )
        )
    return grown


def _slope(kib: Sequence[float], requests: int) -> float:
    """Return KiB a request; `requests` are between two looks."""
    return float(np.polyfit(np.arange(len(kib)) * requests, kib, 1)[0])


def _processes_at_most(service: Service) -> int:
    """Return how many there may be: itself, its image workers and one more of these, which encodes."""
    workers = int(service.metric("atelier_image_workers"))
    return 1 + (workers + 1 if workers else 0)


def _counted(gateway: Service) -> int:
    return int(gateway.metric("atelier_request_duration_seconds_count"))
