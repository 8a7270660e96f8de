"""The clock of the gateway and of a restorer jumps while they are at work."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path

from bench.chaos.clients import Answer, ask_for, client_of, count, kinds, longest, not_completed, submit
from bench.chaos.figures import Result, at_most, none_of
from bench.chaos.scale import Scale
from bench.chaos.stack import Stack

JUMPS_S = (1800, -1800, 0)
"""Where the clock stands beside the right time, in turn."""
_LIBRARIES = ("/usr/lib/*/faketime/libfaketimeMT.so.1", "/usr/lib/faketime/libfaketimeMT.so.1")
_WAIT_S = 20.0
_DEADLINE_S = 30


def library() -> Path | None:
    """Return libfaketime, which Debian's package of that name has."""
    for pattern in _LIBRARIES:
        for found in Path("/").glob(pattern.removeprefix("/")):
            return found
    return None


async def clock_jumps(stack: Stack, scale: Scale) -> Result:
    """The time of day jumps half an hour ahead, an hour back, and to the right time, with requests in flight.

    By libfaketime, in the two processes alone. Their monotonic clock goes on, as where a clock is set. In the
    short half it only jumps ahead.
    """
    found = library()
    if found is None:
        return Result(skipped="libfaketime is not installed (Debian's package libfaketime)")
    offset = stack.folder / "offset"
    faked = {
        "LD_PRELOAD": str(found),
        "FAKETIME_TIMESTAMP_FILE": str(offset),
        "FAKETIME_NO_CACHE": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        "FAKETIME_DONT_RESET": "1",
    }
    offset.write_text("+0")
    with contextlib.ExitStack() as running:
        restorer = running.enter_context(stack.service("restorer", environment=faked))
        gateway = running.enter_context(
            stack.another_gateway(
                {"RESTORER": restorer.address, "DEADLINE_SECONDS": _DEADLINE_S, "JOBS_AT_ONCE": 1}, faked
            )
        )
        for each in (restorer, gateway):
            await asyncio.to_thread(each.wait_ready)
        answers: list[Answer] = []
        failed: list[str] = []
        async with client_of(gateway.url, _DEADLINE_S + 20) as client:
            for jump in JUMPS_S[: scale.of(3, 1)]:
                jobs = [(await submit(client))[1] for _ in range(3)]
                asking = asyncio.create_task(ask_for(client, ("/generate", "/restore") * 4, 4))
                await asyncio.sleep(0.3)
                offset.write_text(f"{jump:+d}")
                answers += await asking
                answers += await ask_for(client, ("/generate", "/restore"), 2)
                failed += await not_completed(client, jobs, _WAIT_S)
    goal = _DEADLINE_S + scale.grace_s
    return Result(
        [
            none_of("requests that were not answered", count(answers, lambda a: not a.is_whole), "R8"),
            at_most("slowest answer", longest(answers), goal, "s", "R8", of="deadline of 30 s"),
            none_of("jobs that were not completed within 20 s", len(failed), "R8"),
        ],
        [{"answers": kinds(answers), "jobs": ", ".join(failed) or "all completed"}],
    )
