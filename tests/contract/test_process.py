"""The gateway as its own process: its log, and how it stops."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from contextlib import ExitStack
from pathlib import Path

import httpx

from tests.contract.services import eventually
from tests.contract.stack import Stack


def test_sigterm_lets_accepted_work_finish_and_the_log_is_json(stack: Stack, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    log = tmp_path / "log"
    environment = {
        **os.environ,
        "ATELIER_GATEWAY_HOST": "127.0.0.1",
        "ATELIER_GATEWAY_PORT": str(port),
        "ATELIER_GATEWAY_JOBS_DATABASE": "none",
        "ATELIER_GATEWAY_GENERATOR": f"127.0.0.1:{stack.generator_port}",
        "ATELIER_GATEWAY_RESTORER": f"127.0.0.1:{stack.restorer_port}",
    }
    with log.open("wb") as stderr:
        process = subprocess.Popen(
            [sys.executable, "-m", "atelier_gateway", "serve"], env=environment, stderr=stderr
        )
    try:
        eventually(lambda: responds(url + "/readyz"), within_s=60)
        stack.generator.hold = True
        responses: list[httpx.Response] = []
        body = {"prompt": "a secret wish", "width": 256, "height": 256}
        client = threading.Thread(
            target=lambda: responses.append(
                httpx.post(
                    url + "/generate",
                    json=body,
                    headers={"X-Request-ID": "last-request"},
                    timeout=60,
                    trust_env=False,
                )
            )
        )
        client.start()
        eventually(lambda: stack.generator.running == 1)
        process.send_signal(signal.SIGTERM)
        eventually(lambda: not responds(url + "/livez"))
        assert process.poll() is None, "it waits for the accepted request"
        stack.generator.hold = False
        client.join(timeout=60)
        assert responses[0].status_code == 200 and responses[0].json()["request_id"] == "last-request"
        assert process.wait(timeout=60) == 0
    finally:
        stack.generator.hold = False
        process.kill()
        process.wait()
    lines = [json.loads(line) for line in log.read_text().splitlines() if line.startswith("{")]
    [request] = [line for line in lines if line["message"] == "request"]
    assert (request["request_id"], request["path"], request["code"]) == ("last-request", "/generate", "200")
    assert "a secret wish" not in log.read_text(), "prompts are private"


def test_more_connections_than_files_may_be_open(tmp_path: Path) -> None:
    """Where the limit of open files is small, connections are limited with it, and the log stays short."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    log = tmp_path / "log"
    command = f"ulimit -n 300 && exec '{sys.executable}' -m atelier_gateway serve"
    own = {"HOST": "127.0.0.1", "PORT": str(port), "JOBS_DATABASE": "none"}
    environment = os.environ | {f"ATELIER_GATEWAY_{name}": value for name, value in own.items()}
    with log.open("wb") as stderr, ExitStack() as connections:
        process = subprocess.Popen(["sh", "-c", command], env=environment, stderr=stderr)
        connections.callback(process.wait)
        connections.callback(process.kill)
        eventually(lambda: responds(url + "/livez"), within_s=60)
        for _ in range(500):
            connections.enter_context(socket.create_connection(("127.0.0.1", port), timeout=20))
        eventually(lambda: responds(url + "/livez"))
    assert log.stat().st_size < 20_000, log.read_text()[-2000:]


def responds(url: str) -> bool:
    try:
        return httpx.get(url, timeout=5, trust_env=False).status_code == 200
    except httpx.HTTPError:
        return False
