"""Gateway, generator and restorer as processes that can be killed, held and watched, on loopback."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import httpx
import psutil

from tests.processes import free_port

START_S = 240.0
_END_S = 30.0
_DRAIN_S = 60

GAUGES = (
    "atelier_requests_in_progress",
    "atelier_queue_depth",
    "atelier_backend_pending",
    "atelier_image_workers_busy",
    "atelier_image_queue_depth",
    "atelier_cpu_pool_busy",
    "atelier_gateway_bytes_in_flight",
)
"""What is 0 in every process that has nothing to do."""


@dataclass(frozen=True)
class Usage:
    """What a process and its image workers hold; `private_kib` is memory that they share with nobody."""

    files: int
    threads: int
    private_kib: float


class Service:
    """One process, `atelier-NAME serve`.

    `environment` is added to the settings; `prefix` is a command that executes the one that follows it.
    `exits`: when it ended, by `time.monotonic`, and its exit code, each time that it was restarted.
    """

    def __init__(
        self,
        name: str,
        folder: Path,
        settings: dict[str, object],
        environment: dict[str, str] | None = None,
        prefix: Sequence[str] = (),
    ) -> None:
        self.name = name
        self.port, self.metrics_port = free_port(), free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.address = f"127.0.0.1:{self.port}"
        self.log = folder / f"{name}-{self.port}.log"
        own: dict[str, object] = {
            "HOST": "127.0.0.1",
            "PORT": self.port,
            "METRICS_PORT": self.metrics_port,
            "LOG_LEVEL": "warning",
            "DRAIN_SECONDS": _DRAIN_S,
        }
        kept = {key: value for key, value in os.environ.items() if not key.startswith("ATELIER_")}
        given = {f"ATELIER_{name.upper()}_{key}": str(value) for key, value in (own | settings).items()}
        self._environment = kept | given | (environment or {})
        self._command = [*prefix, sys.executable, "-m", f"atelier_{name}", "serve"]
        self._child: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()
        self._wanted = False
        self.supervised = False
        self.exits: list[tuple[float, int]] = []

    def start(self) -> None:
        """Start the process, which then is restarted by `restart_if_gone`."""
        with self._lock:
            self._wanted = True
            self._spawn()

    def restart_if_gone(self) -> None:
        """Do what a supervisor does: start it again at once."""
        with self._lock:
            if not self._wanted or self._child is None:
                return
            code = self._child.poll()
            if code is not None:
                self.exits.append((time.monotonic(), code))
                self._spawn()

    def _spawn(self) -> None:
        with self.log.open("ab") as log:
            # a session of its own: Ctrl-C reaches only us, and all of its processes can be found
            self._child = subprocess.Popen(
                self._command, env=self._environment, stdout=log, stderr=log, start_new_session=True
            )

    @property
    def pid(self) -> int:
        """The process's ID, which is also that of its session."""
        assert self._child is not None, "it was started"
        return self._child.pid

    @property
    def exit_code(self) -> int | None:
        """What it ended with; None while it runs."""
        assert self._child is not None, "it was started"
        return self._child.poll()

    def send(self, number: signal.Signals) -> None:
        """Send it a signal, if it still runs."""
        with suppress(ProcessLookupError):
            os.kill(self.pid, number)

    def is_ready(self) -> bool:
        """Return whether it is loaded and warm."""
        with suppress(httpx.HTTPError):
            answer = httpx.get(f"http://127.0.0.1:{self.metrics_port}/readyz", timeout=5, trust_env=False)
            return answer.status_code == 200
        return False

    def wait_ready(self, within_s: float = START_S) -> None:
        """Wait until it is. Raises `RuntimeError` if it ends before, or takes too long."""
        end = time.monotonic() + within_s
        while not self.is_ready():
            if self.exit_code is not None and not self.supervised:
                raise RuntimeError(f"the {self.name} ended: {self.last_lines()}")
            if time.monotonic() > end:
                raise RuntimeError(f"the {self.name} is not ready after {within_s:g} s: {self.last_lines()}")
            time.sleep(0.1)

    def last_lines(self) -> str:
        """Return the end of its log."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-5:])

    def metric(self, name: str, label: str = "") -> float:
        """Return the sum of a metric's samples, of those with a label such as `cause="unread"` or of all."""
        text = httpx.get(f"http://127.0.0.1:{self.metrics_port}/metrics", timeout=30, trust_env=False).text
        rows = [line for line in text.splitlines() if line.startswith((f"{name} ", f"{name}{{"))]
        return sum(float(row.rpartition(" ")[2]) for row in rows if label in row)

    def busy(self) -> dict[str, float]:
        """Return the gauges that are not 0."""
        values = {name: self.metric(name) for name in GAUGES}
        return {name: value for name, value in values.items() if value}

    def usage(self) -> Usage:
        """Return what it holds now, its image workers included."""
        files = threads = 0
        private = 0
        for process in self.processes():
            with suppress(psutil.NoSuchProcess):
                files += process.num_fds()
                threads += process.num_threads()
                private += process.memory_full_info().uss
        return Usage(files, threads, private / 1024)

    def processes(self) -> list[psutil.Process]:
        """Return it and those that it has started."""
        return processes_of(self.pid)

    def end(self) -> None:
        """Ask it to end, wait, and kill what is left."""
        with self._lock:
            self._wanted = False
            if self._child is None:
                return
        self.send(signal.SIGCONT)
        self.send(signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            self._child.wait(_END_S)
        self.kill_all()

    def kill_all(self) -> None:
        """Kill the process and those that it has started."""
        with self._lock:
            self._wanted = False
            if self._child is None:
                return
            with suppress(ProcessLookupError):
                os.killpg(self._child.pid, signal.SIGKILL)
            self._child.wait()


def processes_of(session: int) -> list[psutil.Process]:
    """Return the processes of a session that have not ended."""
    found = []
    for process in psutil.process_iter(["status"]):
        with suppress(ProcessLookupError, psutil.NoSuchProcess):
            if os.getsid(process.pid) == session and process.info["status"] != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


class Stack:
    """The three on the demo models, as a context; a supervisor restarts each at once when it has ended.

    Jobs are in SQLite; a job whose gateway was killed is begun again after five seconds. `patience`: they may
    take so many times four minutes to be ready.
    """

    def __init__(self, patience: float = 1.0) -> None:
        self._start_s = patience * START_S
        self._running = ExitStack()
        self._ended = threading.Event()

    def __enter__(self) -> Self:
        try:
            self._open()
        except BaseException:  # Ctrl-C, too: whoever enters never leaves
            self._running.close()
            raise
        return self

    def _open(self) -> None:
        folder = tempfile.TemporaryDirectory(prefix="chaos_", ignore_cleanup_errors=True)
        self.folder = Path(self._running.enter_context(folder))
        self.generator = self._running.enter_context(self.service("generator"))
        self.restorer = self._running.enter_context(self.service("restorer"))
        self.gateway = self._running.enter_context(self.another_gateway())
        for each in self.services:
            each.supervised = True
        watching = threading.Thread(target=self._watch)
        watching.start()
        self._running.callback(watching.join)
        self._running.callback(self._ended.set)
        for each in self.services:
            each.wait_ready(self._start_s)

    def __exit__(self, *exc_info: object) -> None:
        self._running.close()

    @property
    def services(self) -> tuple[Service, Service, Service]:
        """Gateway, generator, restorer."""
        return self.gateway, self.generator, self.restorer

    @property
    def url(self) -> str:
        """The gateway's."""
        return self.gateway.url

    def _watch(self) -> None:
        while not self._ended.wait(0.05):
            for each in self.services:
                each.restart_if_gone()

    @contextmanager
    def service(
        self,
        name: str,
        settings: dict[str, object] | None = None,
        environment: dict[str, str] | None = None,
        prefix: Sequence[str] = (),
    ) -> Iterator[Service]:
        """Start a process; it ends with the context."""
        started = Service(name, self.folder, settings or {}, environment, prefix)
        try:
            started.start()
            yield started
        except BaseException:
            started.kill_all()
            raise
        finally:
            started.end()

    @contextmanager
    def another_gateway(
        self,
        settings: Mapping[str, object] | None = None,
        environment: dict[str, str] | None = None,
        prefix: Sequence[str] = (),
    ) -> Iterator[Service]:
        """Start a gateway of the same services, with jobs of its own."""
        jobs = Path(tempfile.mkdtemp(prefix="jobs_", dir=self.folder))
        given: dict[str, object] = {
            "GENERATOR": self.generator.address,
            "RESTORER": self.restorer.address,
            "JOBS_DATABASE": f"sqlite:///{jobs}/jobs.db",
            "JOBS_FILES": f"file:{jobs}/files",
            "JOBS_LEASE_SECONDS": 5,
        }
        with self.service("gateway", given | dict(settings or {}), environment, prefix) as gateway:
            yield gateway
