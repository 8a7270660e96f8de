"""The gateway as its own process: its log, and how it stops."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import httpx

from atelier_runtime.api_keys import KeyRing, digest_of
from tests.contract.services import eventually
from tests.contract.stack import Stack
from tests.processes import free_port, process


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


def test_what_has_not_finished_when_the_time_is_over_gets_an_answer(stack: Stack, tmp_path: Path) -> None:
    stack.generator.hold = True
    bodies = {
        "/generate": {"prompt": "a red apple"},
        "/v1/images/generations": {"prompt": "a red apple"},
        "/sdapi/v1/txt2img": {"prompt": "a red apple"},
    }
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    own = {"PORT": port, "DRAIN_SECONDS": 1, "GENERATOR": f"127.0.0.1:{stack.generator_port}"}
    own["RESTORER"] = f"127.0.0.1:{stack.restorer_port}"
    try:
        with ThreadPoolExecutor(3) as clients, process("gateway", tmp_path / "log", **own) as gateway:
            eventually(lambda: responds(url + "/readyz"), within_s=60)
            asked = {
                path: clients.submit(httpx.post, url + path, json=body, timeout=60, trust_env=False)
                for path, body in bodies.items()
            }
            eventually(lambda: stack.generator.running == len(bodies))
            gateway.send_signal(signal.SIGTERM)
            found = {path: each.result() for path, each in asked.items()}
    finally:
        stack.generator.hold = False
    assert {path: each.status_code for path, each in found.items()} == dict.fromkeys(bodies, 503)
    assert all(each.headers["retry-after"] and each.headers["x-request-id"] for each in found.values())
    assert found["/generate"].json()["error"]["code"] == "stage_draining"
    assert found["/v1/images/generations"].json()["error"]["type"] == "server_error"
    assert found["/sdapi/v1/txt2img"].json().keys() >= {"error", "detail"}
    assert "Traceback" not in (tmp_path / "log").read_text()


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


def test_metrics_on_a_port_of_their_own_and_a_warning_where_anybody_may_come(tmp_path: Path) -> None:
    port, metrics_port = free_port(), free_port()
    own = {"HOST": "0.0.0.0", "PORT": port, "METRICS_PORT": metrics_port, "JOBS_DATABASE": "none"}
    with process("gateway", tmp_path / "log", **own):
        eventually(lambda: responds(f"http://127.0.0.1:{port}/livez"), within_s=60)
        assert not responds(f"http://127.0.0.1:{port}/metrics")
        text = httpx.get(f"http://127.0.0.1:{metrics_port}/metrics", trust_env=False).text
        assert "atelier_requests_in_progress" in text
    lines = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
    [warning] = [line for line in lines if line["level"] == "warning"]
    assert "whoever can reach this port" in warning["message"] and "API_KEYS" in warning["help"]


def test_the_command_makes_keys_and_lists_them(tmp_path: Path) -> None:
    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "atelier_gateway", "keys", *arguments]
        return subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=60)

    file = tmp_path / "keys.toml"
    made = run("new", "photo-team", "--scope", "restore", "--requests-per-minute", "60", "--file", str(file))
    secret = made.stdout.strip()
    assert made.returncode == 0 and secret.startswith("atelier_") and secret not in made.stderr
    assert secret not in file.read_text() and digest_of(secret).hex() in file.read_text()
    assert file.stat().st_mode & 0o007 == 0, "nobody else reads it"
    assert run("new", "app", "--expires", "2027-06-30", "--file", str(file)).returncode == 0
    listed = run("list", "--file", str(file)).stdout.splitlines()
    assert listed == [
        "photo-team: restore; 60 requests a minute",
        "app: generate, restore; until 2027-06-30 23:59 UTC",
    ]
    assert KeyRing(file).find(secret).name == "photo-team"
    again = run("new", "app", "--file", str(file))
    assert again.returncode == 2 and "there is a key of the name app" in again.stderr
    for wrong in (["Not A Name"], ["b", "--expires", "soon"], ["b", "--jobs-at-once", "0"]):
        refused = run("new", *wrong, "--file", str(file))
        assert refused.returncode == 2 and "usage:" in refused.stderr
    assert len(KeyRing(file).keys) == 2


def responds(url: str) -> bool:
    try:
        return httpx.get(url, timeout=5, trust_env=False).status_code == 200
    except httpx.HTTPError:
        return False
