"""`make run`: start generator, restorer and gateway, say when they are ready, stop all three on Ctrl-C.

Orders that were accepted are finished first; a second Ctrl-C ends everything at once.

Settings are those of the processes (ATELIER_GATEWAY_*, ATELIER_GENERATOR_*, ATELIER_RESTORER_*);
logs go to `.run/NAME.log`.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

NAMES = ("generator", "restorer", "gateway")
LOGS = Path(".run")
STAGES = {
    "generator": ("50051", "atelier.generator.v1.GeneratorService"),
    "restorer": ("50052", "atelier.restorer.v1.RestorerService"),
}
READY_TIMEOUT_S = 600.0
STOP_TIMEOUT_S = 70.0


class Processes:
    """The three processes, as a context: leaving it stops them."""

    def __init__(self, environment: dict[str, str]) -> None:
        self._environment = environment
        self._children: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> Processes:
        LOGS.mkdir(exist_ok=True)
        for name in NAMES:
            with (LOGS / f"{name}.log").open("wb") as log:
                self._children[name] = subprocess.Popen(
                    [sys.executable, "-m", f"atelier_{name}", "serve"],
                    env=self._environment,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,  # Ctrl-C reaches us alone; we stop them in order
                )
        return self

    def __exit__(self, *_: object) -> None:
        deadline = time.monotonic() + STOP_TIMEOUT_S
        try:
            # The gateway first: for the orders that it has accepted it needs both stages.
            for names in (("gateway",), ("generator", "restorer")):
                for name in names:
                    self._children[name].terminate()
                for name in names:
                    self._children[name].wait(max(0.1, deadline - time.monotonic()))
        except (subprocess.TimeoutExpired, KeyboardInterrupt):
            print("Not waiting any longer.", file=sys.stderr)
        finally:
            for child in self._children.values():
                child.kill()  # does nothing to one that has ended
                child.wait()

    def ended(self) -> str | None:
        """Return the name of a process that has ended by itself."""
        return next((name for name, child in self._children.items() if child.poll() is not None), None)


def all_ready(environment: Mapping[str, str]) -> bool:
    """Tell whether both stages say by grpc.health.v1 that they are warm, and the gateway that it turns."""
    try:
        for name, (port, service) in STAGES.items():
            address = f"127.0.0.1:{environment.get(f'ATELIER_{name.upper()}_PORT', port)}"
            with grpc.insecure_channel(address) as channel:
                request = health_pb2.HealthCheckRequest(service=service)
                answer = health_pb2_grpc.HealthStub(channel).Check(request, timeout=5)
                if answer.status != health_pb2.HealthCheckResponse.SERVING:
                    return False
        with urllib.request.urlopen(f"{gateway_url(environment)}/readyz", timeout=5):
            return True
    except (grpc.RpcError, urllib.error.URLError, OSError):
        return False


def gateway_url(environment: Mapping[str, str]) -> str:
    """Return the address that a person on this machine types."""
    return f"http://127.0.0.1:{environment.get('ATELIER_GATEWAY_PORT', '7860')}"


def main() -> int:
    """Run until Ctrl-C or SIGTERM, or until a process ends by itself."""
    url = gateway_url(os.environ)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    start = time.monotonic()
    ready = False
    try:
        with Processes(dict(os.environ)) as processes:
            print("Starting generator, restorer and gateway ...", flush=True)
            while True:
                if (name := processes.ended()) is not None:
                    print(f"The {name} stopped. The end of {LOGS / name}.log:", file=sys.stderr)
                    lines = (LOGS / f"{name}.log").read_text(errors="replace").splitlines()
                    print(*lines[-10:], sep="\n", file=sys.stderr)
                    return 1
                if not ready and all_ready(os.environ):
                    ready = True
                    print(f"Atelier is ready: {url}  (Ctrl-C stops it, logs are in {LOGS}/)", flush=True)
                if not ready and time.monotonic() - start > READY_TIMEOUT_S:
                    print(f"Not ready after {READY_TIMEOUT_S:.0f} s; see {LOGS}/*.log", file=sys.stderr)
                    return 1
                time.sleep(0.3)
    except KeyboardInterrupt:
        print("\nStopped.")
        return 0


if __name__ == "__main__":
    sys.exit(main())
