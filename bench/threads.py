"""How many threads each service should use for its networks where several processes share the processors.

`python -m bench.threads services` keeps the three processes running once for each variant of `CPU_THREADS`,
on the demo models, and sends each the same requests in turn, round by round: from one client, from two at
once (while one is in the restorer, the other is in the generator), and both while another program keeps a
processor busy.

`python -m bench.threads networks` times a network of published size in one process and in two at once, by the
number of threads and how they wait for each other.

`--processors 1` limits everything to the first processor, `--quota 1.5` to that much time of all of them: the
latter needs to be root, where control groups of version 1 can be made.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path

import torch

from atelier_runtime.processors import usable_processors
from atelier_runtime.torch_setup import prepare_torch
from bench.cpu import NETWORKS
from bench.generate import generate, running
from bench.report import machine, print_json, spread

REQUEST = {
    "prompt": "portrait of a smiling woman with long brown hair",
    "width": 512,
    "height": 512,
    "num_inference_steps": 4,
}
GROUPS = Path("/sys/fs/cgroup/cpu")
WAITING = {"sleeping": {"OMP_WAIT_POLICY": "passive"}, "spinning": {"GOMP_SPINCOUNT": "300000"}}
"""How OpenMP's threads wait; the second is libgomp's default: some milliseconds, then they sleep."""


# --- three processes ---


class Chain:
    """Three running processes and what is asked of them."""

    def __init__(self, url: str) -> None:
        self._url = url

    def whole(self) -> None:
        """Generate an image and restore its face."""
        answer = generate(self._url, seed=1, **REQUEST)[1]
        assert answer["face_restoration_applied"], answer["face_restoration_reason"]


def rates(seconds: float, *works: Callable[[], None]) -> list[float]:
    """Run functions over and over, each in a thread, for some time; return how often a second each ran."""
    end = time.perf_counter() + seconds

    def ask(work: Callable[[], None]) -> float:
        start, count = time.perf_counter(), 0
        while time.perf_counter() < end:
            work()
            count += 1
        return count / (time.perf_counter() - start)

    with ThreadPoolExecutor(len(works)) as pool:
        return list(pool.map(ask, works))


@contextmanager
def busy_processor() -> Iterator[None]:
    """Keep the first processor busy."""
    first = min(os.sched_getaffinity(0))
    program = f"import os\nos.sched_setaffinity(0, {{{first}}})\nwhile True: pass"
    with subprocess.Popen([sys.executable, "-c", program]) as other:
        try:
            yield
        finally:
            other.kill()


def measure_services(
    names: Sequence[str], rounds: int, seconds: float, wait_for_quiet: Callable[[], object]
) -> dict[str, object]:
    """Return answers a second by kind of load and variant, and each variant's over the first's."""
    variants = {n: v for n, v in service_variants(usable_processors()).items() if n in names or not names}
    samples: dict[str, dict[str, list[float]]] = {}

    def add(load: str, variant: str, rate: float) -> None:
        samples.setdefault(load, {}).setdefault(variant, []).append(rate)
        print(f"{load}, {variant}: {rate:.3f} a second", file=sys.stderr)

    with ExitStack() as stack:
        chains = {name: Chain(stack.enter_context(running(given))) for name, given in variants.items()}
        for chain in chains.values():
            chain.whole()
        wait_for_quiet()
        for _ in range(rounds):
            for name, chain in chains.items():
                add("one client", name, rates(seconds, chain.whole)[0])
                add("two clients", name, sum(rates(seconds, chain.whole, chain.whole)))
                with busy_processor():
                    add("one client, and another program", name, rates(seconds, chain.whole)[0])
                    add(
                        "two clients, and another program",
                        name,
                        sum(rates(seconds, chain.whole, chain.whole)),
                    )
    return {load: compared(by_variant) for load, by_variant in samples.items()}


def service_variants(processors: int) -> dict[str, dict[str, str]]:
    """Return environment variables by variant; the first is what version 0.1 does."""
    half = max(1, processors // 2)
    threads = {
        f"{generator} + {restorer}": {
            "ATELIER_GENERATOR_CPU_THREADS": str(generator),
            "ATELIER_RESTORER_CPU_THREADS": str(restorer),
        }
        for generator in (processors, half)
        for restorer in (processors, half)
    }
    if processors == 1:
        threads["2 + 2"] = {"ATELIER_GENERATOR_CPU_THREADS": "2", "ATELIER_RESTORER_CPU_THREADS": "2"}
    spinning = next(iter(threads.values())) | WAITING["spinning"]
    return {name: given | WAITING["sleeping"] for name, given in threads.items()} | {
        f"{processors} + {processors}, spinning": spinning
    }


# --- networks alone ---


def measure_networks(network: str, variant: str, rounds: int, seconds: float) -> dict[str, object]:
    """Return forward passes a second of one process and of two at once."""
    most = usable_processors()
    settings = [("1 thread each", 1, "sleeping")] + [
        (f"{threads} threads each, {waiting}", threads, waiting)
        for threads in dict.fromkeys((max(2, most), max(2, most // 2)))
        for waiting in WAITING
    ]
    samples: dict[str, dict[str, list[float]]] = {"one process": {}, "two processes": {}}
    for _ in range(rounds):
        for name, threads, waiting in settings:
            for load, processes in (("one process", 1), ("two processes", 2)):
                rate = networks_at_once(processes, network, variant, threads, waiting, seconds)
                samples[load].setdefault(name, []).append(rate)
                print(f"{load}, {name}: {rate:.3f} a second", file=sys.stderr)
    return {load: compared(by_variant) for load, by_variant in samples.items()}


def networks_at_once(
    processes: int, network: str, variant: str, threads: int, waiting: str, seconds: float
) -> float:
    """Return forward passes a second of some processes together; they begin when all are warm."""
    command = [sys.executable, "-m", "bench.threads", "run", network, "--variant", variant]
    command += ["--threads", str(threads), "--seconds", str(seconds)]
    environment = os.environ | WAITING[waiting]
    with ExitStack() as stack:
        started = [
            stack.enter_context(
                subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
            )
            for _ in range(processes)
        ]
        for process in started:
            stack.callback(process.kill)  # before it is waited for, also if this is interrupted
        for process in started:
            assert process.stdout is not None
            process.stdout.readline()  # warm
        for process in started:
            assert process.stdin is not None
            process.stdin.write(b"\n")
            process.stdin.flush()
        total = 0.0
        for process in started:
            assert process.stdout is not None
            total += float(process.stdout.readline())
        return total


def run_network(network: str, variant: str, threads: int, seconds: float) -> None:
    """Be one of the processes of `networks_at_once`."""
    prepare_torch()
    torch.set_num_threads(threads)
    with torch.inference_mode():
        (work,) = NETWORKS[network](variant).values()
        work()
        print("warm", flush=True)
        sys.stdin.readline()
        print(rates_here(work, seconds), flush=True)


def rates_here(work: Callable[[], object], seconds: float) -> float:
    """Return how often a second a function ran, in at least some time."""
    start, count = time.perf_counter(), 0
    while count == 0 or time.perf_counter() - start < seconds:
        work()
        count += 1
    return count / (time.perf_counter() - start)


# --- both ---


def compared(by_variant: Mapping[str, Sequence[float]]) -> dict[str, object]:
    """Return rates by variant, and each over the first variant's of the same round."""
    first = next(iter(by_variant.values()))
    return {
        name: {
            "a_second": spread(rates),
            "over_the_first": spread([r / f for r, f in zip(rates, first, strict=True)]),
        }
        for name, rates in by_variant.items()
    }


@contextmanager
def quota(processors: float) -> Iterator[None]:
    """Run in a control group with a quota, this process and those that it starts."""
    group = GROUPS / f"atelier-bench-{os.getpid()}"
    group.mkdir()
    try:
        (group / "cpu.cfs_quota_us").write_text(str(round(processors * 100_000)))
        (group / "cgroup.procs").write_text(str(os.getpid()))
        yield
    finally:
        (GROUPS / "cgroup.procs").write_text(str(os.getpid()))
        group.rmdir()


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("services", "networks", "run"))
    parser.add_argument("network", nargs="?", default="codeformer", choices=sorted(set(NETWORKS) - {"sdxl"}))
    parser.add_argument("--variant", default="float32", help="of bench.cpu")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=5.0, help="for each sample, at least")
    parser.add_argument("--only", nargs="+", default=(), dest="variants", help="of services, such as '2 + 2'")
    parser.add_argument(
        "--wait", action="store_true", help="measure services after a line from standard input"
    )
    parser.add_argument("--processors", type=int, help="use only so many")
    parser.add_argument("--quota", type=float, help="processors' worth of time")
    parser.add_argument("--threads", type=int, default=1, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.what == "run":
        run_network(given.network, given.variant, given.threads, given.seconds)
        return
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # or the processes would go on
    if given.processors:
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: given.processors])
    with quota(given.quota) if given.quota else nullcontext():
        result: dict[str, object] = {"machine": machine(), "usable_processors": usable_processors()}
        if given.what == "services":
            wait = sys.stdin.readline if given.wait else lambda: None
            result |= measure_services(given.variants, given.rounds, given.seconds, wait)
        else:
            result[given.network] = measure_networks(
                given.network, given.variant, given.rounds, given.seconds
            )
    print_json(result)


if __name__ == "__main__":
    main()
