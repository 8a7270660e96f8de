"""`make run`: start generator, restorer and gateway, report when they are ready, stop all three on Ctrl-C.

Accepted requests are finished first, each process within its own DRAIN_SECONDS; a second Ctrl-C kills
everything at once.

Settings are those of the processes (ATELIER_GATEWAY_*, ATELIER_GENERATOR_*, ATELIER_RESTORER_*);
logs go to `.run/NAME.log`.
"""

from __future__ import annotations

import argparse
import os
import signal
import socket
import ssl
import subprocess
import sys
import time
import urllib.request
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from pathlib import Path

NAMES = ("generator", "restorer", "gateway")
LOGS = Path(".run")
METRICS_PORTS = {"generator": "9101", "restorer": "9102"}
READY_TIMEOUT_S = 600.0
STOP_TIMEOUT_S = 75.0
"""By default: what a process has for accepted requests (DRAIN_SECONDS), and to end afterwards."""
_OFF = ("0", "f", "false", "n", "no", "off")  # what the gateway's settings take for false
_END_S = 15.0  # a process ends itself ten seconds after DRAIN_SECONDS


class Processes:
    """The processes, as a context: leaving it stops them."""

    def __init__(self, environment: dict[str, str]) -> None:
        self._environment = environment
        self._names = started(environment)
        self._children: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> Processes:
        with ExitStack() as logs:
            LOGS.mkdir(exist_ok=True)
            # All of them before the first process: if one cannot be written, none is left running.
            files = {name: logs.enter_context((LOGS / f"{name}.log").open("wb")) for name in self._names}
            try:
                for name in self._names:
                    self._children[name] = subprocess.Popen(
                        [sys.executable, "-m", f"atelier_{name}", "serve"],
                        env=self._environment,
                        stdout=files[name],
                        stderr=subprocess.STDOUT,
                        start_new_session=True,  # Ctrl-C reaches only us; we stop them in order
                    )
            except BaseException:  # Ctrl-C, too; whoever enters never leaves
                self.__exit__()
                raise
        return self

    def __exit__(self, *_: object) -> None:
        try:
            # The gateway first: it needs both services for the requests that it has accepted.
            for names in (("gateway",), ("generator", "restorer")):
                children = {name: self._children[name] for name in names if name in self._children}
                for child in children.values():
                    child.terminate()
                start = time.monotonic()
                for name, child in children.items():
                    self._wait(name, child, start + stop_seconds(name, self._environment))
        except KeyboardInterrupt:
            print("Not waiting any longer.", file=sys.stderr)
        finally:
            for child in self._children.values():
                child.kill()  # a no-op for one that has exited
            for child in self._children.values():
                child.wait()

    def _wait(self, name: str, child: subprocess.Popen[bytes], deadline: float) -> None:
        """Wait for a process, and kill it alone if it takes longer: the others have their own time."""
        try:
            child.wait(max(0.1, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            print(f"The {name} did not stop in its time.", file=sys.stderr)
            child.kill()

    def exited(self) -> str | None:
        """Return the name of a process that has exited on its own, if there is one."""
        return next((name for name, child in self._children.items() if child.poll() is not None), None)


def started(environment: Mapping[str, str]) -> tuple[str, ...]:
    """Return the processes to start: no generator if the gateway's setting says that there is none."""
    alone = environment.get("ATELIER_GATEWAY_GENERATOR") == "none"
    return tuple(name for name in NAMES if not (alone and name == "generator"))


def stop_seconds(name: str, environment: Mapping[str, str]) -> float:
    """Return how long a process may take to stop."""
    try:
        return float(environment[f"ATELIER_{name.upper()}_DRAIN_SECONDS"]) + _END_S
    except (KeyError, ValueError):  # unset; or invalid, and the process has said so
        return STOP_TIMEOUT_S


def all_ready(environment: Mapping[str, str]) -> bool:
    """Return whether the services are warm, by their metrics ports, and the gateway is ready."""
    try:
        for name, default in METRICS_PORTS.items():
            if name in started(environment):
                port = environment.get(f"ATELIER_{name.upper()}_METRICS_PORT") or default
                _require(f"http://127.0.0.1:{port}/readyz")
        metrics_port = environment.get("ATELIER_GATEWAY_METRICS_PORT")
        if metrics_port:
            _require(f"http://127.0.0.1:{metrics_port}/readyz")
        elif environment.get("ATELIER_GATEWAY_TLS_CA"):  # it would not answer us, who have no certificate
            socket.create_connection(("127.0.0.1", int(gateway_port(environment))), timeout=5).close()
        else:
            _require(f"{gateway_url(environment)}/readyz")
    except OSError:  # URLError is one
        return False
    return True


def _require(url: str) -> None:
    """Raise `OSError` unless a process of this machine answers with 200, whatever its certificate."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with urllib.request.urlopen(url, timeout=5, context=context):
        pass


def gateway_port(environment: Mapping[str, str]) -> str:
    """Return the port of the gateway."""
    return environment.get("ATELIER_GATEWAY_PORT", "7860")


def gateway_url(environment: Mapping[str, str]) -> str:
    """Return the gateway's URL on this machine."""
    scheme = "https" if environment.get("ATELIER_GATEWAY_TLS_CERT") else "http"
    return f"{scheme}://127.0.0.1:{gateway_port(environment)}"


def main() -> int:
    """Run until Ctrl-C or SIGTERM, or until a process exits on its own."""
    url = gateway_url(os.environ)
    for number in (signal.SIGTERM, signal.SIGHUP):  # SIGHUP: the terminal was closed
        signal.signal(number, signal.default_int_handler)
    if all_ready(os.environ):  # or it would be taken for ours, before ours find their ports taken
        print(f"Atelier is running already: {url}", file=sys.stderr)
        return 1
    start = time.monotonic()
    ready = False
    try:
        with Processes(dict(os.environ)) as processes:
            *others, last = started(os.environ)
            print(f"Starting {', '.join(others)} and {last} ...", flush=True)
            while True:
                if (name := processes.exited()) is not None:
                    print(f"The {name} stopped. Last lines of {LOGS / name}.log:", file=sys.stderr)
                    lines = (LOGS / f"{name}.log").read_text(errors="replace").splitlines()
                    print(*lines[-10:], sep="\n", file=sys.stderr)
                    return 1
                if not ready and all_ready(os.environ):
                    ready = True
                    print(f"Atelier is ready: {url}  (Ctrl-C stops it, logs are in {LOGS}/)", flush=True)
                    if os.environ.get("ATELIER_GATEWAY_STUDIO", "").lower() not in _OFF:
                        print(f"Open {url} in a browser to draw and to restore.", flush=True)
                if not ready and time.monotonic() - start > READY_TIMEOUT_S:
                    print(f"Not ready after {READY_TIMEOUT_S:.0f} s; see {LOGS}/*.log", file=sys.stderr)
                    return 1
                time.sleep(0.3)
    except KeyboardInterrupt:
        with suppress(OSError):  # of a terminal that was closed
            print("\nStopped.", flush=True)
        return 0
    except OSError as error:
        print(f"{error.filename or LOGS}: {error.strerror or error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    argparse.ArgumentParser(prog="make run", description=__doc__).parse_args()
    sys.exit(main())
