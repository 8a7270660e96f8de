"""How many whole answers a chain gives under five times the clients that keep it busy.

A whole answer is a 200 with its faces restored, or without a face. Each round measures the chain with as many
clients as it has slots, then with five times as many, who come back after a refusal as its Retry-After says,
at most a second later. Run it against a chain that is up: python -m bench.overload http://127.0.0.1:8000
"""

from __future__ import annotations

import argparse
import asyncio
import time
from collections import Counter

import httpx

from bench.report import machine, print_json, spread

ROUNDS = 3
SECONDS = 30.0
CLIENTS = 9  # one running and eight waiting
OVERLOAD = 5
REQUEST = {
    "prompt": "portrait of a woman with red hair",
    "width": 512,
    "height": 512,
    "num_inference_steps": 4,
}
LONGEST_PAUSE_S = 1.0


async def load(client: httpx.AsyncClient, clients: int) -> tuple[float, Counter[str]]:
    """Return whole answers per second and the outcomes of all requests that ended in time."""
    outcomes: Counter[str] = Counter()
    end = time.monotonic() + SECONDS

    async def ask() -> None:
        while time.monotonic() < end:
            response = await client.post("/generate", json=REQUEST)
            if time.monotonic() > end:
                return
            if response.status_code == 200:
                outcomes[response.json()["face_restoration_reason"] or "whole"] += 1
            else:
                outcomes[str(response.status_code)] += 1
                pause = float(response.headers.get("Retry-After", 1))
                await asyncio.sleep(min(pause, LONGEST_PAUSE_S))

    await asyncio.gather(*(ask() for _ in range(clients)))
    return (outcomes["whole"] + outcomes["no_face"]) / SECONDS, outcomes


async def measure(url: str) -> dict[str, object]:
    """Return both rates of each round, their ratio, and what the requests under overload ended with."""
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(base_url=url, timeout=600, limits=limits, trust_env=False) as client:
        alone, crowded, ended = [], [], Counter[str]()
        for _ in range(ROUNDS):
            alone.append((await load(client, CLIENTS))[0])
            rate, outcomes = await load(client, OVERLOAD * CLIENTS)
            crowded.append(rate)
            ended += outcomes
    return {
        "whole_answers_per_second": {"at_capacity": spread(alone), "overloaded": spread(crowded)},
        "ratio": spread([many / few for few, many in zip(alone, crowded, strict=True)]),
        "outcomes_overloaded": dict(ended),
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url", help="of the gateway")
    print_json({"machine": machine(), **asyncio.run(measure(parser.parse_args().url))})
