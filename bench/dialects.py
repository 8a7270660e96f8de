"""What a dialect costs over `/generate`: the same request in each, in turns, on the same machine.

`python -m bench.dialects` starts a gateway with scripted services (see tests/contract), which return an image
at once: what is left is reading, checking, calling and answering. Times are milliseconds; the differences are
of neighboring requests.
"""

from __future__ import annotations

import argparse
import statistics
import time
from typing import Any

from bench.report import machine, percentile, print_json, spread
from tests.contract.stack import Stack

SIDE = 1024
PROMPT = "portrait of a smiling woman with long brown hair, blue background"
STEPS, GUIDANCE, SEED = 30, 7.5, 6

NATIVE = "/generate"
REQUESTS: dict[str, dict[str, Any]] = {
    NATIVE: {
        "prompt": PROMPT,
        "width": SIDE,
        "height": SIDE,
        "num_inference_steps": STEPS,
        "guidance_scale": GUIDANCE,
        "seed": SEED,
    },
    "/v1/images/generations": {
        "model": "gpt-image-1",
        "prompt": PROMPT,
        "size": f"{SIDE}x{SIDE}",
        "n": 1,
        "num_inference_steps": STEPS,
        "guidance_scale": GUIDANCE,
        "seed": SEED,
    },
    "/sdapi/v1/txt2img": {
        "prompt": PROMPT,
        "width": SIDE,
        "height": SIDE,
        "steps": STEPS,
        "cfg_scale": GUIDANCE,
        "seed": SEED,
        "restore_faces": True,
    },
}


def seconds_of(stack: Stack, path: str) -> float:
    """Return the seconds that a request takes, its response read."""
    start = time.perf_counter()
    response = stack.client.post(path, json=REQUESTS[path])
    seconds = time.perf_counter() - start
    assert response.status_code == 200, response.text
    return seconds


def summary(samples: list[float]) -> dict[str, float | int]:
    """Return the spread of seconds as milliseconds, with the 99th percentile."""
    milliseconds = [1000 * each for each in samples]
    return {**spread(milliseconds), "p99": round(percentile(milliseconds, 0.99), 3)}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--requests", type=int, default=200, help="of each dialect")
    given = parser.parse_args()
    samples: dict[str, list[float]] = {path: [] for path in REQUESTS}
    with Stack() as stack:
        for number in range(given.requests + 10):
            for path in REQUESTS:
                seconds = seconds_of(stack, path)
                if number >= 10:  # the first ones fill caches
                    samples[path].append(seconds)
    over = {
        path: [own - native for own, native in zip(samples[path], samples[NATIVE], strict=True)]
        for path in REQUESTS
        if path != NATIVE
    }
    print_json(
        {
            "machine": machine(),
            "request, ms": {path: summary(seconds) for path, seconds in samples.items()},
            "over /generate, ms": {path: summary(seconds) for path, seconds in over.items()},
            "over /generate, median, ms": {
                path: round(1000 * statistics.median(seconds), 3) for path, seconds in over.items()
            },
        }
    )


if __name__ == "__main__":
    main()
