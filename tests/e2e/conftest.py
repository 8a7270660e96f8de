"""Three real processes on free loopback ports, on the demo models, on a CPU."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

START_TIMEOUT_S = 240.0


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def wait_for(condition: Callable[[], bool], timeout_s: float = START_TIMEOUT_S) -> None:
    """Poll until the condition holds; fail the test if it never does."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"not so after {timeout_s} s"
        time.sleep(0.1)


def program(name: str) -> str:
    """The path of a program that Debian brings. Without it the test is skipped, which in CI is a failure."""
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not on PATH")
    return found


@contextmanager
def process(name: str, log: Path, **settings: object) -> Iterator[subprocess.Popen[bytes]]:
    """Run `atelier-NAME serve` with settings such as PORT=1; stop it on leaving."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("ATELIER_")}
    environment |= {f"ATELIER_{name.upper()}_{k}": str(v) for k, v in settings.items()}
    environment.setdefault(f"ATELIER_{name.upper()}_HOST", "127.0.0.1")
    with log.open("wb") as file:
        child = subprocess.Popen(
            [sys.executable, "-m", f"atelier_{name}", "serve"],
            env=environment,
            stdout=file,
            stderr=subprocess.STDOUT,
        )
    try:
        yield child
    finally:
        child.send_signal(signal.SIGTERM)
        try:
            child.wait(60)
        except subprocess.TimeoutExpired:
            child.kill()
            raise


@dataclass(frozen=True)
class Atelier:
    url: str
    generator: str
    restorer: str
    generator_metrics: str
    restorer_metrics: str
    logs: Path

    def post(self, timeout_s: float = 300, **order: object) -> httpx.Response:
        return httpx.post(f"{self.url}/generate", json=order, timeout=timeout_s)

    def metric(self, name: str, address: str) -> float:
        """The sum over all labels of one sample name."""
        lines = httpx.get(f"http://{address}/metrics").text.splitlines()
        rows = [line for line in lines if line.startswith((f"{name} ", f"{name}{{"))]
        return sum(float(row.rsplit(" ", 1)[1]) for row in rows)

    def log(self, name: str) -> str:
        return (self.logs / f"{name}.log").read_text(errors="replace")


def ready(url: str) -> bool:
    try:
        answer = httpx.get(f"{url}/health", timeout=5)
    except httpx.HTTPError:
        return False
    return answer.status_code == 200 and answer.json()["status"] == "healthy"


@pytest.fixture(scope="session")
def atelier(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Atelier]:
    logs = tmp_path_factory.mktemp("logs")
    door, generator, restorer, metrics_1, metrics_2 = (free_port() for _ in range(5))
    with (
        process("generator", logs / "generator.log", PORT=generator, METRICS_PORT=metrics_1) as first,
        process("restorer", logs / "restorer.log", PORT=restorer, METRICS_PORT=metrics_2) as second,
        process(
            "gateway",
            logs / "gateway.log",
            PORT=door,
            GENERATOR=f"127.0.0.1:{generator}",
            RESTORER=f"127.0.0.1:{restorer}",
        ),
    ):
        url = f"http://127.0.0.1:{door}"
        wait_for(lambda: ready(url) or first.poll() is not None or second.poll() is not None)
        assert first.poll() is None, (logs / "generator.log").read_text()
        assert second.poll() is None, (logs / "restorer.log").read_text()
        yield Atelier(
            url,
            f"127.0.0.1:{generator}",
            f"127.0.0.1:{restorer}",
            f"127.0.0.1:{metrics_1}",
            f"127.0.0.1:{metrics_2}",
            logs,
        )
