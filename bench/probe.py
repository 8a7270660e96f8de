"""Asks for a path again and again, as the kubelet does, from a process of its own.

So it waits for nothing but the server, and for the machine: how late this process wakes up from its pauses
says how much of a delay is the machine's. See `probing`.
"""

from __future__ import annotations

import argparse
import asyncio
import http.client
import json
import signal
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from urllib.parse import urlsplit

PAUSE_S = 0.05
TIMEOUT_S = 10.0


@dataclass
class Probes:
    """What a probe saw: seconds of all of its requests, and how many of them failed.

    `late`: seconds by which it woke up too late from its pauses, one after each request. `clients_late`: the
    same of the event loop that sends the load (`own_delays`), where that is measured.
    """

    seconds: list[float] = field(default_factory=list)
    failed: int = 0
    late: list[float] = field(default_factory=list)
    clients_late: list[float] = field(default_factory=list)


@asynccontextmanager
async def probing(url: str, path: str, start: float = 0.0) -> AsyncIterator[Probes]:
    """Probe while the context lasts, from `start` on (`time.monotonic`); the figures are there after it.

    A request that fails counts as failed and ends nothing. One that is unfinished at the end leaves its age.
    """
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "bench.probe", url, path, "--start", str(start)),
        stdout=asyncio.subprocess.PIPE,
    )
    probes = Probes()
    try:
        assert process.stdout is not None
        await process.stdout.readline()  # it can be ended from now on
        yield probes
        process.terminate()
        found, _ = await process.communicate()
        vars(probes).update(json.loads(found))
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def own_delays(late: list[float], start: float) -> None:
    """Add, from `start` on, by how many seconds this event loop wakes up too late; until it is canceled."""
    await asyncio.sleep(start - time.monotonic())
    while True:
        begun = time.perf_counter()
        await asyncio.sleep(PAUSE_S)
        late.append(time.perf_counter() - begun - PAUSE_S)


class _Ended(BaseException):
    """The process is to end."""


def main() -> None:
    """Probe until SIGTERM, and print what was seen."""
    parser = argparse.ArgumentParser(prog="python -m bench.probe", description=__doc__)
    parser.add_argument("url")
    parser.add_argument("path")
    parser.add_argument("--start", type=float, default=0.0, help="when to begin, by `time.monotonic`")
    args = parser.parse_args()
    probes = Probes()
    signal.signal(signal.SIGTERM, _end)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches whoever started this, too
    print("ready", flush=True)
    try:
        time.sleep(max(0.0, args.start - time.monotonic()))
        _probe(urlsplit(args.url).netloc, args.path, probes)
    except _Ended:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        print(json.dumps(vars(probes)))


def _probe(address: str, path: str, probes: Probes) -> None:
    connection = http.client.HTTPConnection(address, timeout=TIMEOUT_S)
    while True:
        begun = time.perf_counter()
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            response.read()
            probes.failed += response.status != 200
        except (OSError, http.client.HTTPException):
            probes.failed += 1
            connection.close()  # the next request opens it again
        finally:
            probes.seconds.append(time.perf_counter() - begun)
        begun = time.perf_counter()
        time.sleep(PAUSE_S)
        probes.late.append(time.perf_counter() - begun - PAUSE_S)


def _end(number: int, frame: object) -> None:
    raise _Ended


if __name__ == "__main__":
    main()
