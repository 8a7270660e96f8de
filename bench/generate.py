"""Time requests to /generate, from gateway to face restoration, with whatever models the services run.

`python -m bench.generate` starts the three processes on free ports with the demo models;
`--url` times a running gateway instead. All options but those named in CASES have their defaults.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import threading
import time
import urllib.request
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from bench.report import machine, percentile, print_json, spread
from tools.run import Processes, all_ready, gateway_url

PROMPT = "portrait of a smiling woman with long brown hair, blue background"
CASES: dict[str, dict[str, object]] = {
    "1024x1024, 25 steps": {"num_inference_steps": 25},
    "1024x1024, 25 steps, hires fix": {"num_inference_steps": 25, "hires_fix": True},
}
BUDGETS_S = {"1024x1024, 25 steps": 15.0, "1024x1024, 25 steps, hires fix": 45.0}


def _free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    return ports


@contextmanager
def running(given: Mapping[str, str] | None = None) -> Iterator[str]:
    """Start the three processes, with further variables, and yield the gateway's URL once all are ready."""
    gateway, generator, restorer, metrics_1, metrics_2 = _free_ports(5)
    settings = {
        "ATELIER_GATEWAY_PORT": gateway,
        "ATELIER_GATEWAY_JOBS_DATABASE": "none",
        "ATELIER_GATEWAY_GENERATOR": f"127.0.0.1:{generator}",
        "ATELIER_GATEWAY_RESTORER": f"127.0.0.1:{restorer}",
        "ATELIER_GENERATOR_PORT": generator,
        "ATELIER_GENERATOR_METRICS_PORT": metrics_1,
        "ATELIER_RESTORER_PORT": restorer,
        "ATELIER_RESTORER_METRICS_PORT": metrics_2,
    }
    environment = os.environ | {name: str(value) for name, value in settings.items()} | dict(given or {})
    with Processes(environment) as processes:
        while not all_ready(environment):
            if (name := processes.exited()) is not None:
                raise RuntimeError(f"the {name} stopped; see .run/{name}.log")
            time.sleep(0.2)
        yield gateway_url(environment)


def generate(url: str, **fields: object) -> tuple[float, dict[str, Any]]:
    """Send one request; return the seconds that it took here, and the response."""
    request = urllib.request.Request(
        f"{url}/generate", json.dumps(fields).encode(), {"Content-Type": "application/json"}
    )
    start = time.perf_counter()
    with urllib.request.urlopen(request, timeout=600) as response:
        body = response.read()
    return time.perf_counter() - start, json.loads(body)


def time_case(url: str, fields: dict[str, object], runs: int) -> dict[str, object]:
    """Time one kind of request with seeds 1 to `runs`; report the total and each stage.

    A stage that a request goes through several times (the hires fix decodes twice) counts once, as the sum.
    """
    totals, stages, faces, size = [], defaultdict(list), [], ""
    for seed in range(1, runs + 1):
        seconds, response = generate(url, prompt=PROMPT, seed=seed, **fields)
        totals.append(seconds)
        faces.append(sum(face["restored"] for face in response["faces"]))
        size = response["final_resolution"]
        for name, total in stage_seconds(response["stages"]).items():
            stages[name].append(total)
    return {
        "seconds": spread(totals),
        "stages": {name: spread(samples) for name, samples in stages.items()},
        "faces_restored": faces,
        "final_resolution": size,
    }


def stage_seconds(stages: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Return the seconds of each stage in one response's `stages`, summed over stages of the same name."""
    total: dict[str, float] = defaultdict(float)
    for stage in stages:
        total[stage["stage"]] += stage["seconds"]
    return dict(total)


def time_health(url: str, calls: int = 100) -> dict[str, object]:
    """Time /health while an image is being generated."""
    generation = threading.Thread(  # if it fails, "still_generating" is false and its traceback is printed
        target=generate, args=(url,), kwargs={"prompt": PROMPT, "num_inference_steps": 150}
    )
    generation.start()
    time.sleep(1.0)
    samples = []
    for _ in range(calls):
        start = time.perf_counter()
        with urllib.request.urlopen(f"{url}/health", timeout=10) as response:
            response.read()
        samples.append(time.perf_counter() - start)
        time.sleep(0.05)
    busy = generation.is_alive()
    generation.join()
    return {"seconds": spread(samples), "p99": round(percentile(samples, 0.99), 4), "still_generating": busy}


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", help="a running gateway; default: start everything")
    parser.add_argument("--runs", type=int, default=5)
    given = parser.parse_args()
    result: dict[str, object] = {"machine": machine()}

    def measure(url: str) -> None:
        generate(url, prompt=PROMPT, num_inference_steps=2, seed=1)  # the first one is not counted
        for name, fields in CASES.items():
            result[name] = time_case(url, fields, given.runs) | {"budget_seconds": BUDGETS_S[name]}
        result["/health while generating"] = time_health(url)

    if given.url:
        measure(given.url)
    else:
        with running() as url:
            measure(url)
    print_json(result)


if __name__ == "__main__":
    main()
