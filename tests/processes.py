"""Atelier's processes and other programs, as the tests start, watch and stop them on free loopback ports."""

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
from typing import Any

import httpx
import pytest

START_TIMEOUT_S = 240.0


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def wait_for(condition: Callable[[], bool], timeout_s: float = START_TIMEOUT_S) -> None:
    """Poll until the condition holds; fail the test if it never does."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"still waiting after {timeout_s} s"
        time.sleep(0.1)


def program(name: str) -> str:
    """The path of a program that comes from a Debian package.

    Without it the test is skipped, which in CI is a failure.
    """
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
    if name == "gateway":  # each has jobs of its own
        environment.setdefault("ATELIER_GATEWAY_JOBS_DATABASE", f"sqlite:///{log}.jobs.db")
        environment.setdefault("ATELIER_GATEWAY_JOBS_FILES", f"file:{log}.jobs")
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


def content(url: str) -> bytes:
    """What is behind a URL; nothing while no server listens there."""
    try:
        return httpx.get(url, timeout=5).content
    except httpx.HTTPError:
        return b""


def ready(url: str) -> bool:
    """Whether the gateway and the services behind it are ready."""
    try:
        response = httpx.get(f"{url}/health", timeout=5)
    except httpx.HTTPError:
        return False
    return response.status_code == 200 and response.json()["status"] == "healthy"


@dataclass(frozen=True)
class Atelier:
    """The addresses of a gateway, a generator and a restorer, and the folder with their logs."""

    url: str
    generator: str
    restorer: str
    generator_metrics: str
    restorer_metrics: str
    logs: Path

    def post(self, timeout_s: float = 300, **body: Any) -> httpx.Response:
        return httpx.post(f"{self.url}/generate", json=body, timeout=timeout_s)

    def metric(self, name: str, address: str) -> float:
        """The sum over all labels of one sample name."""
        lines = httpx.get(f"http://{address}/metrics").text.splitlines()
        rows = [line for line in lines if line.startswith((f"{name} ", f"{name}{{"))]
        return sum(float(row.rsplit(" ", 1)[1]) for row in rows)

    def log(self, name: str) -> str:
        return (self.logs / f"{name}.log").read_text(errors="replace")
