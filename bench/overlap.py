"""How well the stages overlap: the throughput of two requests in flight over one at a time.

`python -m bench.overlap`. Gateway, generator and restorer run as processes on the demo models. Once an image
has been made in earnest, each network's work (text encoders, a step of the UNet, decoding; detection,
CodeFormer) is replaced by 100 ms of sleep and its last result, as if it ran on a GPU of its own. All else is
real. Two in flight can give twice the throughput at most.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx

from bench.report import machine, print_json, spread
from tests.processes import free_port

STAGE_S = 0.1
ROUNDS = 5
REQUESTS = 12
REQUEST = {
    "prompt": "portrait of a woman with red hair",
    "width": 512,
    "height": 512,
    "seed": 1,
    "use_refiner": False,
}


def sleeping(function: Callable[..., Any], asleep: threading.Event) -> Callable[..., Any]:
    """Return a function that, once `asleep`, sleeps and returns what `function` returned last."""
    last: list[Any] = []

    def replaced(*arguments: Any, **options: Any) -> Any:
        if asleep.is_set():
            time.sleep(STAGE_S)
        else:
            last[:] = [function(*arguments, **options)]
        return last[0]

    return replaced


def serve(name: str) -> int:
    """Serve as `atelier-NAME serve` does, with networks that sleep after SIGUSR1."""
    if name == "generator":
        from atelier_generator import passes
        from atelier_generator.__main__ import main
        from atelier_generator.autoencoder import Autoencoder
        from atelier_generator.prompts import PromptEncoder

        networks: list[tuple[Any, str]] = [
            (PromptEncoder, "_encode"),
            (passes, "predict"),
            (Autoencoder, "decode"),
        ]
    else:
        from atelier_restorer.__main__ import main
        from atelier_restorer.detect import FaceDetector
        from atelier_restorer.models import FaceRestorer

        networks = [(FaceDetector, "detect"), (FaceRestorer, "restore")]
    asleep = threading.Event()
    signal.signal(signal.SIGUSR1, lambda number, frame: asleep.set())
    for owner, attribute in networks:
        setattr(owner, attribute, sleeping(getattr(owner, attribute), asleep))
    return main(["serve"])


@contextlib.contextmanager
def chain(module: str = "bench.overlap") -> Iterator[tuple[str, Callable[[], None]]]:
    """Run the three processes; yield the gateway's URL, and a function that puts the networks to sleep.

    `module`: what serves with networks that can sleep.
    """
    ports = {name: free_port() for name in ("gateway", "generator", "restorer")}
    children = []
    settings = {
        "gateway": {
            "GENERATOR": f"127.0.0.1:{ports['generator']}",
            "RESTORER": f"127.0.0.1:{ports['restorer']}",
            "JOBS_DATABASE": "none",
        },
    }
    for name, port in ports.items():
        own = {"HOST": "127.0.0.1", "PORT": port, "LOG_LEVEL": "warning", **settings.get(name, {})}
        if name != "gateway":
            own["METRICS_PORT"] = 0
        command = ["-m", "atelier_gateway", "serve"] if name == "gateway" else ["-m", module, "--serve", name]
        environment = {f"ATELIER_{name.upper()}_{key}": str(value) for key, value in own.items()}
        children.append(subprocess.Popen([sys.executable, *command], env=os.environ | environment))

    def put_to_sleep() -> None:
        for service in children[1:]:
            service.send_signal(signal.SIGUSR1)

    try:
        yield f"http://127.0.0.1:{ports['gateway']}", put_to_sleep
    finally:
        for child in children:
            child.send_signal(signal.SIGTERM)
        for child in children:
            child.wait(90)


async def throughput(client: httpx.AsyncClient, in_flight: int) -> float:
    """Return requests per second; each must come back with its face restored."""
    waiting = iter(range(REQUESTS))

    async def ask() -> None:
        for _ in waiting:
            response = await client.post("/generate", json={**REQUEST, "num_inference_steps": 1})
            response.raise_for_status()
            assert response.json()["face_restoration_applied"]

    start = time.perf_counter()
    await asyncio.gather(*(ask() for _ in range(in_flight)))
    return REQUESTS / (time.perf_counter() - start)


async def measure(url: str, put_to_sleep: Callable[[], None]) -> dict[str, object]:
    """Return the throughput of one and two requests in flight, and their ratio round by round."""
    async with httpx.AsyncClient(base_url=url, timeout=600, trust_env=False) as client:
        while not await ready(client):
            await asyncio.sleep(0.2)
        (await client.post("/generate", json={**REQUEST, "num_inference_steps": 20})).raise_for_status()
        put_to_sleep()
        one, two = [], []
        for _ in range(ROUNDS):
            one.append(await throughput(client, 1))
            two.append(await throughput(client, 2))
    return {
        "requests_per_second": {"one_at_a_time": spread(one), "two_in_flight": spread(two)},
        "ratio": spread([b / a for a, b in zip(one, two, strict=True)]),
    }


async def ready(client: httpx.AsyncClient) -> bool:
    """Return whether the chain is ready."""
    with contextlib.suppress(httpx.TransportError):
        return (await client.get("/readyz")).status_code == 200
    return False


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--serve", choices=("generator", "restorer"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve:
        sys.exit(serve(args.serve))
    with chain() as (address, sleep):
        print_json({"machine": machine(), **asyncio.run(measure(address, sleep))})
