"""Sends what nobody expects to all three processes: `python -m bench.fuzz`, or `make fuzz`.

Schemathesis makes valid and invalid requests for every operation of the gateway's OpenAPI document, in every
dialect; hypothesis makes messages for every method of both services from the protos, and bytes that are none.
The processes are real, their networks those of the tests: real classes, a few channels wide.

Exits with 1, and says by which request, if
- a response has a status from 500 on other than 503 and 504, or a call one of those that are the service's
  own fault (INTERNAL, UNKNOWN, DATA_LOSS, ...), or none comes;
- a process has ended or logged an error;
- something grows: memory, open files or threads of a process, with those that it has started. Each is
  looked at after every fifth of the examples, when it has nothing to do. The first fifth is the warm-up and
  does not count; a line through the other looks tells by how much it has grown. The notes in the result say
  what is allowed.

Prints JSON, with the operations that can succeed and never did: those were only refused. Needs Linux.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import json
import os
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import grpc
import httpx
import psutil
import requests
import schemathesis
from hypothesis import strategies as st
from hypothesis.errors import Unsatisfiable
from schemathesis.generation import GenerationMode

from atelier_runtime import images
from bench.chaos.stack import Usage
from bench.fuzz_growth import ALLOWED, NOTES, Look, grown, shown
from bench.fuzz_requests import TEXT_FILE, make_served
from bench.report import machine, print_json
from tests import tiny_loras, tiny_sdxl
from tests.processes import free_port, process, ready, wait_for
from tests.random_messages import EXPECTED, PICTURES, calls, described, drawn
from tests.tiny_restorer import FACES_OF_512_PX, build_set, codeformer_state, detector_state

_ROUNDS = 5  # of which the first is the warm-up
_MAX_PIXELS = 512 * 512
_DEADLINE_S = 20
_PATIENCE_S = 120.0
_DOCUMENTED = (503, 504)
_METHODS = ("get", "post", "put", "patch", "delete", "head", "options")
_WITH_BODY, _WITH_PARAMETERS, _PLAIN = 12, 4, 1  # weights of operations
_HELD = "atelier_heap_in_use_bytes"


@dataclass
class Found:
    """What was sent, and what went wrong; of each kind the first."""

    http: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    grpc: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    findings: dict[str, str] = field(default_factory=dict)

    def add(self, kind: str, detail: str) -> None:
        """Remember the first of a kind."""
        if kind not in self.findings:
            self.findings[kind] = detail[:6000]
            print(f"FOUND {kind}: {detail[:6000]}", file=sys.stderr)


class Processes:
    """Gateway, generator and restorer on free ports of this machine, until `close`."""

    def __init__(self, folder: Path) -> None:
        self._stack = ExitStack()
        self._logs = folder
        ports = {name: free_port() for name in ("gateway", "generator", "restorer")}
        self.url = f"http://127.0.0.1:{ports['gateway']}"
        self.addresses = {name: f"127.0.0.1:{ports[name]}" for name in ("generator", "restorer")}
        faces = {FACES_OF_512_PX: 0.99}
        generator = tiny_sdxl.build_set(folder / "drawing", refiner=True, inpaint=True)
        tiny_loras.write(generator / "loras" / "x.safetensors")
        restorer = build_set(folder / "faces", detector=detector_state(faces), codeformer=codeformer_state())
        self._metrics = {name: free_port() for name in ports}
        common: dict[str, object] = {"MAX_PIXELS": _MAX_PIXELS}
        stage = common | {"DEVICE": "cpu", "DTYPE": "float32", "CPU_THREADS": 1}
        gateway = {
            "GENERATOR": self.addresses["generator"],
            "RESTORER": self.addresses["restorer"],
            "DEADLINE_SECONDS": _DEADLINE_S,
            "JOBS_WAITING": 10_000,
            "JOBS_WAITING_PER_KEY": 10_000,
        }
        settings: dict[str, dict[str, object]] = {
            "generator": stage | {"MODEL_SET": generator},
            "restorer": stage | {"MODEL_SET": restorer},
            "gateway": common | gateway,
        }
        self.running = {
            name: psutil.Process(self._start(name, ports[name], given).pid)
            for name, given in settings.items()
        }
        wait_for(lambda: ready(self.url) or not all(each.is_running() for each in self.running.values()))

    def _start(self, name: str, port: int, settings: dict[str, object]) -> Any:
        listening = {"PORT": port, "METRICS_PORT": self._metrics[name]}
        return self._stack.enter_context(process(name, self._logs / f"{name}.log", **listening, **settings))

    def close(self) -> None:
        """Stop them."""
        self._stack.close()

    def look(self, found: Found) -> Look:
        """Wait until they have nothing to do; return what each holds. Adds those that have ended."""
        self._wait_until_idle(found)
        held: Look = {}
        for name, first in self.running.items():
            if not first.is_running() or first.status() == psutil.STATUS_ZOMBIE:
                found.add(f"{name} has ended", (self._logs / f"{name}.log").read_text()[-3000:])
                continue
            held[name] = {
                each.pid: Usage(each.num_fds(), each.num_threads(), each.memory_full_info().uss / 1024)
                for each in [first, *first.children(recursive=True)]
            }
            held[name][first.pid] = replace(held[name][first.pid], private_kib=self._heap_kib(name))
        return held

    def _heap_kib(self, name: str) -> float:
        """Return what a service holds from malloc.

        What it shares with nobody swings by 200 MiB: it keeps up to 512 MiB of what is freed.
        """
        text = httpx.get(f"http://127.0.0.1:{self._metrics[name]}/metrics", timeout=_PATIENCE_S).text
        [line] = [line for line in text.splitlines() if line.startswith(f"{_HELD} ")]
        return float(line.split()[1]) / 1024

    def _wait_until_idle(self, found: Found) -> None:
        """Wait until no job waits or runs, then for connections that nobody uses to be closed."""
        deadline = time.monotonic() + _PATIENCE_S
        while time.monotonic() < deadline:
            try:
                jobs = httpx.get(f"{self.url}/v1/jobs", params={"limit": 100}, timeout=_PATIENCE_S).json()
                state = httpx.get(f"{self.url}/health", timeout=_PATIENCE_S).json()
            except (httpx.HTTPError, ValueError) as error:
                found.add("the gateway does not answer", repr(error))
                return
            if not _pending(jobs) and state.get("status") == "healthy":
                time.sleep(6)  # longer than an unused connection is kept
                return
            time.sleep(0.5)
        found.add("work does not end", f"still jobs after {_PATIENCE_S} s")

    def errors(self, found: Found) -> None:
        """Add what the processes have logged as errors."""
        for name in self.running:
            for line in (self._logs / f"{name}.log").read_text(errors="replace").splitlines():
                try:
                    entry = json.loads(line)
                except ValueError:
                    found.add(f"{name} wrote what is no log line: {line[:60]}", line)
                    continue
                if str(entry.get("level", "")).lower() in ("error", "critical"):
                    found.add(f"{name} logged an error: {entry.get('message')}", line)


def _pending(jobs: Any) -> list[Any]:
    entries = jobs.get("data") or [] if isinstance(jobs, dict) else []
    return [job for job in entries if job.get("status") in ("queued", "in_progress")]


class Http:
    """Requests that schemathesis makes from the gateway's OpenAPI document."""

    def __init__(self, url: str, found: Found) -> None:
        image = PICTURES[0]
        schemathesis.openapi.format("byte", st.just(base64.b64encode(image).decode()))
        # schemathesis cannot validate bytes and raises ValueError; `make_served` puts pictures there.
        schemathesis.openapi.format("binary", st.just(TEXT_FILE))
        self._found = found
        self._session = requests.Session()
        self._session.trust_env = False
        self._jobs: list[str] = []
        self.schema = schemathesis.openapi.from_url(f"{url}/openapi.json")
        paths = httpx.get(f"{url}/openapi.json").json()["paths"]
        self._can_succeed = [
            f"{method.upper()} {path}"
            for path, methods in paths.items()
            for method in methods
            if method in _METHODS and any(code.startswith("2") for code in methods[method]["responses"])
        ]
        self.operations = [
            (path, method, _weight(methods[method], methods.get("parameters", [])))
            for path, methods in paths.items()
            for method in methods
            if method in _METHODS
        ]

    def run(self, number: int, seed: int) -> int:
        """Send about so many requests to all operations; return how many they were.

        Half of them are valid, where a document can say of an operation what is not.
        """
        modes, sent = (GenerationMode.POSITIVE, GenerationMode.NEGATIVE), 0
        shares = number / sum(weight for _, _, weight in self.operations)
        for path, method, weight in self.operations:
            for mode in modes[: 1 if weight == _PLAIN else 2]:
                share = max(1, round(shares * weight / len(modes)))
                for case, adapted, picture in self._cases(path, method.upper(), mode, share, seed):
                    if adapted:
                        make_served(case, self._jobs, picture)
                    self._send(f"{method.upper()} {path}", case)
                    sent += 1
        return sent

    def never_succeeded(self) -> list[str]:
        """Return the operations that can succeed, and had no response with a status from 200 to 299."""
        seen = self._found.http
        return [name for name in self._can_succeed if not any(code.startswith("2") for code in seen[name])]

    def _cases(
        self, path: str, method: str, mode: GenerationMode, number: int, seed: int
    ) -> list[tuple[Any, bool, bytes]]:
        cases = self.schema[path][method].as_strategy(generation_mode=mode)
        try:  # the first one drawn is the simplest: one that is to be served
            return drawn(
                st.tuples(cases, st.sampled_from([True, False]), st.sampled_from(PICTURES)), number, seed
            )
        except Unsatisfiable:  # a path's parameter that is any text
            return []

    def _send(self, name: str, case: Any) -> None:
        try:
            response = case.call(session=self._session, timeout=_PATIENCE_S)
        except requests.RequestException as error:
            self._found.http[name][type(error).__name__] += 1
            self._found.add(f"{name}: {type(error).__name__}", f"{error} {case.as_curl_command()}")
            return
        self._found.http[name][str(response.status_code)] += 1
        if response.status_code >= 500 and response.status_code not in _DOCUMENTED:
            detail = f"{response.text[:500]} {case.as_curl_command()}"
            self._found.add(f"{name}: {response.status_code}", detail)
        if response.status_code == 202 and isinstance(told := response.json(), dict):
            self._jobs += [str(told[key]) for key in ("id", "job_id") if key in told]


def _weight(operation: dict[str, Any], shared: Sequence[Any]) -> int:
    """Return how many examples an operation gets, compared with others: by how much can be sent to it."""
    if "requestBody" in operation:
        return _WITH_BODY
    return _WITH_PARAMETERS if operation.get("parameters") or shared else _PLAIN


def send_messages(processes: Processes, number: int, seed: int, found: Found) -> int:
    """Send messages to both services; return how many they were."""

    async def to(service: str) -> int:
        options = [("grpc.max_receive_message_length", images.message_limit_bytes(_MAX_PIXELS))]
        chosen = drawn(calls(service), number // 2, seed)
        async with grpc.aio.insecure_channel(processes.addresses[service], options=options) as channel:
            for method, request in chosen:
                code, details = grpc.StatusCode.OK, ""
                try:
                    await method.call(channel, request, _DEADLINE_S)
                except grpc.aio.AioRpcError as error:
                    code, details = error.code(), str(error.details())
                found.grpc[method.path][code.name] += 1
                if code not in EXPECTED:
                    found.add(
                        f"{method.path}: {code.name} {details[:60]}",
                        f"{details} {described(method, request)}",
                    )
        return len(chosen)

    return sum(asyncio.run(to(service)) for service in ("generator", "restorer"))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run it; return the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--examples", type=int, default=1500, help="in all; half of them over HTTP")
    parser.add_argument("--seed", type=int, default=int(time.time()), help="the same seed sends the same")
    given = parser.parse_args(arguments)
    found, looks, sent = Found(), [], Counter[str]()
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        processes = Processes(Path(folder))
        stack.callback(processes.close)
        http = Http(processes.url, found)
        for number in range(_ROUNDS):
            seed, share = given.seed + number, given.examples // _ROUNDS
            sent["http"] += http.run(share // 2, seed)
            sent["grpc"] += send_messages(processes, share // 2, seed, found)
            looks.append(processes.look(found))
            print(
                f"{dict(sent)} after {time.perf_counter() - start:.0f} s: {shown(looks[-1])}",
                file=sys.stderr,
            )
        processes.errors(found)
    for kind, figures in grown(looks, sent.total() // _ROUNDS):
        found.add(kind, figures)
    print_json(
        {
            "machine": machine(),
            "notes": {**NOTES, "allowed_are": ALLOWED},
            "seed": given.seed,
            "examples": dict(sent),
            "seconds": round(time.perf_counter() - start),
            "statuses": {"http": found.http, "grpc": found.grpc},
            "never_succeeded": http.never_succeeded(),
            "held_after_each_fifth": [shown(look) for look in looks],
            "findings": found.findings,
        }
    )
    return 1 if found.findings else 0


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    sys.exit(main())
