"""How the three processes bear more clients than they can serve, and whether they share them fairly.

`python -m bench.load` starts gateway, generator and restorer on the demo models and measures, over sockets:
one client alone; a crowd of clients; and a greedy client, with many connections and without patience, among
clients with few that come again when Retry-After says so. Each client has an address of its own, 127.0.x.y,
by which the gateway tells callers apart. A picture counts if it is whole: with its faces restored, or without
any. What is unfinished at the end counts among the accepted ones with its age. With `--asleep` networks take
100 ms instead of computing, so that the figures depend less on what else runs on the machine. Prints a table
and JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import signal
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any

import httpx

from bench import overlap
from bench.probe import Probes, own_delays, probing
from bench.report import machine, percentile, print_json

REQUEST = {
    "prompt": "portrait of a woman with red hair",
    "width": 256,
    "height": 256,
    "num_inference_steps": 2,
    "use_refiner": False,
}
IMPATIENCE_S = 0.05
WARM_UP_S = 15.0
"""At the start of each phase, not counted: until then whoever came first has the queues to itself."""
LOST_PAUSE_S = 1.0
"""After a lost connection, and before the next attempt."""
LOST = 0
"""In place of a status: the connection was closed, or could not be made."""
UNRESTORED = -2
"""In place of the status 200: a picture that came with its faces as they were drawn."""
_NAMES = {LOST: "lost", UNRESTORED: "unrestored"}
_DISPLACED = "others have had less of it"
"""What a request is told that had a place, and gave it up (docs/decisions/fair-queues.md)."""


def serve(name: str) -> int:
    """Serve as `bench.overlap` does; the restorer's networks, once asleep, take batches too."""
    if name == "generator":
        return overlap.serve(name)
    import numpy as np

    from atelier_restorer.__main__ import main
    from atelier_restorer.detect import FaceDetector
    from atelier_restorer.models import FaceRestorer
    from atelier_restorer.parse import FaceParser

    asleep = threading.Event()
    signal.signal(signal.SIGUSR1, lambda number, frame: asleep.set())
    awake: dict[str, Any] = {"restore": FaceRestorer.restore, "classify": FaceParser.classify}

    def restore(network: Any, crops: Any, decodes: Sequence[tuple[int, float]], **options: Any) -> Any:
        if not asleep.is_set():
            return awake["restore"](network, crops, decodes, **options)
        time.sleep(overlap.STAGE_S)
        return [crops[number] for number, _ in decodes]

    def classify(network: Any, crops: Any) -> Any:
        return np.ones(crops.shape[:3], np.uint8) if asleep.is_set() else awake["classify"](network, crops)

    replaced: list[tuple[Any, str, Any]] = [
        (FaceDetector, "detect", overlap.sleeping(FaceDetector.detect, asleep)),
        (FaceRestorer, "restore", restore),
        (FaceParser, "classify", classify),
    ]
    for owner, attribute, function in replaced:
        setattr(owner, attribute, function)
    return main(["serve"])


@dataclass
class Seen:
    """What one client saw: seconds of each response by its status, `LOST` or `UNRESTORED`, and pictures."""

    seconds: dict[int, list[float]] = field(default_factory=lambda: defaultdict(list))
    displaced: list[float] = field(default_factory=list)
    """Seconds of those that were refused after they had waited; they are not among the others."""
    unfinished: list[float] = field(default_factory=list)
    """Ages, in seconds, of the requests that had no response at the end."""
    without_retry_after: int = 0

    @property
    def pictures(self) -> int:
        """Responses with a whole picture."""
        return len(self.seconds[200])


def is_restored(picture: Mapping[str, Any]) -> bool:
    """Return whether a response of /generate has a whole picture: faces restored, or none there."""
    return picture["face_restoration_reason"] in (None, "no_face")


@dataclass(frozen=True)
class Client:
    """`connections`: requests at the same time. `patient`: comes again when Retry-After says so."""

    address: str
    connections: int = 1
    patient: bool = True

    async def load(self, url: str, start: float, end: float, request: dict[str, Any]) -> Seen:
        """Ask for pictures until the end, and return what came from the start on."""
        seen = Seen()
        begun: dict[int, float] = {}
        transport = httpx.AsyncHTTPTransport(
            local_address=self.address,
            limits=httpx.Limits(max_connections=None),
            verify=False,  # nothing is encrypted; reading the certificates holds everybody up
        )
        async with httpx.AsyncClient(base_url=url, timeout=600, transport=transport) as client:
            asking = [
                asyncio.create_task(self._ask(client, seen, request, begun, n))
                for n in range(self.connections)
            ]
            await asyncio.sleep(start - time.monotonic())
            seen.seconds.clear()
            seen.displaced.clear()
            ended, _ = await asyncio.wait(asking, timeout=end - time.monotonic())
            seen.unfinished += [time.perf_counter() - since for since in begun.values()]
            for task in asking:
                task.cancel()
            await asyncio.gather(*asking, return_exceptions=True)
        for task in ended:  # they never end by themselves: an error of ours
            task.result()
        return seen

    async def _ask(
        self,
        client: httpx.AsyncClient,
        seen: Seen,
        request: dict[str, Any],
        begun: dict[int, float],
        number: int,
    ) -> None:
        """Ask again and again; `begun` says by the number of the connection since when it waits."""
        await asyncio.sleep(random.random())  # or all would come again in the same moments
        while True:
            begun[number] = time.perf_counter()
            try:
                response = await client.post("/generate", json=request)
            except httpx.TransportError:
                seen.seconds[LOST].append(time.perf_counter() - begun.pop(number))
                await asyncio.sleep(LOST_PAUSE_S)
                continue
            seconds = time.perf_counter() - begun.pop(number)
            status = response.status_code
            if status == 200:
                seen.seconds[200 if is_restored(response.json()) else UNRESTORED].append(seconds)
                continue
            if status == 429 and _DISPLACED in response.text:
                seen.displaced.append(seconds)
            else:
                seen.seconds[status].append(seconds)
            retry_after = response.headers.get("Retry-After")
            seen.without_retry_after += retry_after is None
            await asyncio.sleep(float(retry_after or 1) if self.patient else IMPATIENCE_S)


async def phase(
    url: str,
    clients: Sequence[Client],
    seconds: float,
    request: dict[str, Any] = REQUEST,
    *,
    warm_up_s: float = WARM_UP_S,
) -> tuple[list[Seen], Probes]:
    """Return what each client saw in so many seconds, and what probes of /livez saw meanwhile."""
    print(f"{len(clients)} clients for {seconds:g} s", file=sys.stderr, flush=True)
    start = time.monotonic() + warm_up_s
    end = start + seconds
    late: list[float] = []
    async with probing(url, "/livez", start) as probes:
        watching = asyncio.create_task(own_delays(late, start))
        seen = await asyncio.gather(*(client.load(url, start, end, request) for client in clients))
        watching.cancel()
    probes.clients_late = late
    return seen, probes


def crowd_of(number: int, first: int = 10) -> list[Client]:
    """Return so many patient clients with one connection each."""
    return [Client(f"127.0.{1 + n // 200}.{first + n % 200}") for n in range(number)]


def milliseconds(samples: Sequence[float]) -> dict[str, float | int]:
    """Return number, median, 99th percentile and maximum of some seconds, in ms."""
    if not samples:
        return {"n": 0}
    return {
        "n": len(samples),
        "p50": round(1000 * percentile(samples, 0.5), 1),
        "p99": round(1000 * percentile(samples, 0.99), 1),
        "max": round(1000 * max(samples), 1),
    }


def together(seen: Sequence[Seen], status: int) -> list[float]:
    """Return the seconds of all responses with a status."""
    return [second for each in seen for second in each.seconds[status]]


def accepted(seen: Sequence[Seen]) -> list[float]:
    """Return the seconds of all whole pictures, and the ages of what was unfinished at the end.

    These are the least that they would have taken, so that a request that hangs is not left out.
    """
    return together(seen, 200) + [age for each in seen for age in each.unfinished]


def summary(seen: Sequence[Seen], probes: Probes, seconds: float) -> dict[str, Any]:
    """Return the figures of a phase."""
    statuses = sorted({status for each in seen for status in each.seconds if each.seconds[status]})
    return {
        "pictures_per_second": round(sum(each.pictures for each in seen) / seconds, 3),
        "accepted_ms": milliseconds(accepted(seen)),
        "unfinished": sum(len(each.unfinished) for each in seen),
        "refused_ms": milliseconds(together(seen, 429)),
        "displaced_ms": milliseconds([second for each in seen for second in each.displaced]),
        "livez_ms": milliseconds(probes.seconds),
        "livez_failed": probes.failed,
        "machine_late_ms": milliseconds(probes.late),
        "clients_late_ms": milliseconds(probes.clients_late),
        "responses": {str(_NAMES.get(status, status)): len(together(seen, status)) for status in statuses},
        "refused_without_retry_after": sum(each.without_retry_after for each in seen),
    }


def shares(seen: Sequence[Seen]) -> list[float]:
    """Return the share of each client in all pictures, as a multiple of 1/N."""
    total = sum(each.pictures for each in seen)
    return [round(len(seen) * each.pictures / max(1, total), 3) for each in seen]


async def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Start the processes and return the figures of all phases."""
    async with AsyncExitStack() as stack:
        url, put_to_sleep = stack.enter_context(overlap.chain("bench.load"))
        async with httpx.AsyncClient(base_url=url, timeout=600, trust_env=False) as client:
            while not await overlap.ready(client):
                await asyncio.sleep(0.2)
            for _ in range(3):
                (await client.post("/generate", json=REQUEST)).raise_for_status()
        if args.asleep:
            put_to_sleep()
        result: dict[str, Any] = {"machine": machine(), "asleep": args.asleep, "seconds": args.seconds}
        alone, probes = await phase(url, crowd_of(1), args.seconds)
        result["alone"] = summary(alone, probes, args.seconds)
        crowd, probes = await phase(url, crowd_of(args.clients), args.seconds)
        result["crowd"] = {"clients": args.clients, **summary(crowd, probes, args.seconds)}
        result["crowd"]["goodput_of_alone"] = round(
            result["crowd"]["pictures_per_second"] / result["alone"]["pictures_per_second"], 3
        )
        result["crowd"]["shares"] = {"least": min(shares(crowd)), "most": max(shares(crowd))}
        greedy = Client("127.0.0.9", args.connections, patient=False)
        others = [Client(f"127.0.0.{10 + n}", args.of_others) for n in range(args.others)]
        mixed, probes = await phase(url, [greedy, *others], args.seconds)
        result["greedy"] = {"connections": args.connections, **summary(mixed, probes, args.seconds)}
        result["greedy"] |= {"share": shares(mixed)[0], "shares_of_others": shares(mixed)[1:]}
        return result


def table(result: dict[str, Any]) -> str:
    """Return the figures as lines of text."""
    lines = [
        f"{'':8}{'pictures/s':>11}{'accepted p50, p99':>20}{'refused p50, p99':>20}{'/livez p50, p99':>18}"
    ]
    for name in ("alone", "crowd", "greedy"):
        row = result[name]
        pairs = [
            f"{row[key].get('p50', 0):.0f}, {row[key].get('p99', 0):.0f} ms"
            for key in ("accepted_ms", "refused_ms", "livez_ms")
        ]
        lines.append(f"{name:8}{row['pictures_per_second']:>11.2f}{pairs[0]:>20}{pairs[1]:>20}{pairs[2]:>18}")
    lines.append(f"goodput of the crowd: {result['crowd']['goodput_of_alone']:.0%} of one client's")
    lines.append(f"shares in the crowd, as multiples of 1/N: {result['crowd']['shares']}")
    greedy = result["greedy"]
    lines.append(f"share of the greedy one: {greedy['share']}, of the others: {greedy['shares_of_others']}")
    return "\n".join(lines)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0, help="of each of the three phases")
    parser.add_argument("--clients", type=int, default=40, help="of the crowd")
    parser.add_argument("--connections", type=int, default=20, help="of the greedy client")
    parser.add_argument("--others", type=int, default=4, help="clients beside the greedy one")
    parser.add_argument("--of-others", type=int, default=2, help="connections of each of them")
    parser.add_argument("--asleep", action="store_true", help="networks take 100 ms and compute nothing")
    parser.add_argument("--serve", choices=("generator", "restorer"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        sys.exit(serve(arguments.serve))
    figures = asyncio.run(measure(arguments))
    print(table(figures), file=sys.stderr)
    print_json(figures)
