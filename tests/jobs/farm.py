"""Gateways as processes that can be killed, before scripted services that can be stopped."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import httpx

from tests.contract.services import ScriptedServices
from tests.processes import content, free_port, process, wait_for

FINAL = ("completed", "failed", "cancelled")
PROMPT = {"prompt": "a red apple", "width": 256, "height": 256}


class Gateway:
    """One gateway's process and a client of it."""

    def __init__(self, port: int, child: subprocess.Popen[bytes], log: Path) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self.log = log
        self._child = child
        wait_for(lambda: b"alive" in content(f"{self.url}/livez") or child.poll() is not None)
        assert child.poll() is None, log.read_text()
        self.client = httpx.Client(base_url=self.url, timeout=30, trust_env=False)

    def kill(self) -> None:
        """End it at once."""
        self._child.kill()
        self._child.wait()
        self.client.close()

    def pause(self, seconds: float) -> None:
        """Let it stand still, as a laptop that sleeps."""
        self._child.send_signal(signal.SIGSTOP)
        time.sleep(seconds)
        self._child.send_signal(signal.SIGCONT)

    def terminate(self) -> None:
        """Ask it to end, and wait until it has."""
        self._child.send_signal(signal.SIGTERM)
        self._child.wait(60)

    def submit(self, headers: dict[str, str] | None = None, **body: Any) -> Any:
        """Submit a job that generates an image unless the body says otherwise."""
        given = {"type": "generate", "input": PROMPT, **body}
        response = self.client.post("/v1/jobs", json=given, headers=headers)
        assert response.status_code in (200, 202), response.text
        return response.json()

    def look(self, job: Any) -> Any:
        return self.client.get(f"/v1/jobs/{job['id']}").json()

    def finished(self, job: Any, within_s: float = 90.0) -> Any:
        wait_for(lambda: self.look(job)["status"] in FINAL, within_s)
        return self.look(job)

    def metric(self, name: str) -> dict[str, float]:
        """The samples of a metric, by their labels."""
        lines = self.client.get("/metrics").text.splitlines()
        rows = [
            line.removeprefix(name).rpartition(" ")
            for line in lines
            if line.startswith((f"{name} ", f"{name}{{"))
        ]
        return {labels: float(value) for labels, _, value in rows}


class Farm:
    """Where gateways of one database are started."""

    def __init__(self, services: ScriptedServices, folder: Path, database: str, **settings: Any) -> None:
        self.services = services
        self._folder = folder
        self._settings = {
            "JOBS_DATABASE": database,
            "JOBS_FILES": f"file:{folder}/files",
            "GENERATOR": f"127.0.0.1:{services.generator_port}",
            "RESTORER": f"127.0.0.1:{services.restorer_port}",
            "BACKEND_WAIT_SECONDS": 0.5,
            "DRAIN_SECONDS": 10,
            **settings,
        }
        self._stack = contextlib.ExitStack()
        self._count = 0

    def __enter__(self) -> Farm:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._stack.close()

    def gateway(self, **settings: Any) -> Gateway:
        """Start one."""
        self._count += 1
        port, log = free_port(), self._folder / f"gateway_{self._count}.log"
        given = {**self._settings, **settings}
        child = self._stack.enter_context(process("gateway", log, PORT=port, **given))
        gateway = Gateway(port, child, log)
        self._stack.callback(gateway.client.close)
        return gateway
