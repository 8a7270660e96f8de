"""What traces cost: requests with scripted services, without a tracer and with one, in turn.

`python -m bench.tracing` starts a gateway with scripted services (see tests/contract) and a receiver of OTLP
in a process of its own. In each round some requests are sent without a tracer, then as many with one that
keeps every trace, then with one that keeps none. Times are CPU time, which other programs disturb less; the
ratios are of the same round. The scripted services do next to nothing, so this is the most that traces cost.
"""

from __future__ import annotations

import argparse
import multiprocessing
import time
from contextlib import nullcontext
from multiprocessing.connection import Connection

from atelier_runtime import tracing
from bench.report import machine, print_json, spread
from tests.contract.stack import Stack
from tests.tracing.otlp_receiver import receiving, tracing_to


def receive(pipe: Connection) -> None:
    """Receive spans until the other end says that it is enough; then tell how many came."""
    with receiving() as receiver:
        pipe.send(receiver.endpoint)
        pipe.recv()
        pipe.send(len(receiver.spans))


def milliseconds_of(stack: Stack, requests: int) -> float:
    """Return the mean CPU time of some requests, one after the other: of the gateway and all around it."""
    start = time.process_time()
    for _ in range(requests):
        assert stack.generate().status_code == 200
    return 1000 * (time.process_time() - start) / requests


def nanoseconds_of_a_span(count: int = 200_000) -> float:
    """Return what a span takes where nothing is traced."""
    start = time.process_time()
    for _ in range(count):
        with tracing.span("stage"):
            pass
    return 1e9 * (time.process_time() - start) / count


def ratio(these: list[float], others: list[float]) -> dict[str, float | int]:
    """Return the ratios of the same rounds."""
    return spread([a / b for a, b in zip(these, others, strict=True)])


def main() -> None:
    """Measure, and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--requests", type=int, default=100, help="of each kind in a round")
    arguments = parser.parse_args()
    ours, theirs = multiprocessing.Pipe()
    spawn = multiprocessing.get_context("spawn")
    receiver = spawn.Process(target=receive, args=(theirs,), daemon=True)
    receiver.start()
    endpoint: str = ours.recv()
    variables: dict[str, dict[str, str] | None] = {
        "off": None,
        "kept": {"OTEL_BSP_SCHEDULE_DELAY": "1000"},
        "dropped": {"OTEL_TRACES_SAMPLER": "always_off"},
    }
    times: dict[str, list[float]] = {kind: [] for kind in variables}
    with Stack() as stack:
        milliseconds_of(stack, arguments.requests)  # the first do not count
        for number in range(arguments.rounds):
            kinds = list(variables)
            for kind in kinds[number % 3 :] + kinds[: number % 3]:  # each is as often the first
                own = variables[kind]
                with nullcontext() if own is None else tracing_to(endpoint, **own):
                    times[kind].append(milliseconds_of(stack, arguments.requests))
    ours.send(None)
    spans: int = ours.recv()
    receiver.join()
    print_json(
        {
            "machine": machine(),
            "spans_received": spans,
            "span_when_off_ns": round(nanoseconds_of_a_span()),
            **{f"{kind}_cpu_ms": spread(times[kind]) for kind in variables},
            **{f"{kind}_to_off": ratio(times[kind], times["off"]) for kind in ("kept", "dropped")},
        }
    )


if __name__ == "__main__":
    main()
