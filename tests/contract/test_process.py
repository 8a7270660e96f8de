"""The gateway as its own process: its log, and how it ends."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import httpx

from tests.contract.scripted_stages import House, eventually


def test_sigterm_lets_accepted_work_finish_and_the_log_is_json(house: House, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    log = tmp_path / "log"
    environment = {
        **os.environ,
        "ATELIER_GATEWAY_HOST": "127.0.0.1",
        "ATELIER_GATEWAY_PORT": str(port),
        "ATELIER_GATEWAY_GENERATOR": f"127.0.0.1:{house.generator_port}",
        "ATELIER_GATEWAY_RESTORER": f"127.0.0.1:{house.restorer_port}",
    }
    with log.open("wb") as stderr:
        process = subprocess.Popen(
            [sys.executable, "-m", "atelier_gateway", "serve"], env=environment, stderr=stderr
        )
    try:
        eventually(lambda: answers(url + "/readyz"), within_s=60)
        house.generator.hold = True
        answered: list[httpx.Response] = []
        order = {"prompt": "a secret wish", "width": 256, "height": 256}
        drawing = threading.Thread(
            target=lambda: answered.append(
                httpx.post(
                    url + "/generate",
                    json=order,
                    headers={"X-Request-ID": "last-order"},
                    timeout=60,
                    trust_env=False,
                )
            )
        )
        drawing.start()
        eventually(lambda: house.generator.running == 1)
        process.send_signal(signal.SIGTERM)
        eventually(lambda: not answers(url + "/livez"))
        assert process.poll() is None, "it waits for the accepted order"
        house.generator.hold = False
        drawing.join(timeout=60)
        assert answered[0].status_code == 200 and answered[0].json()["request_id"] == "last-order"
        assert process.wait(timeout=60) == 0
    finally:
        house.generator.hold = False
        process.kill()
        process.wait()
    lines = [json.loads(line) for line in log.read_text().splitlines() if line.startswith("{")]
    [request] = [line for line in lines if line["message"] == "request"]
    assert (request["request_id"], request["path"], request["code"]) == ("last-order", "/generate", "200")
    assert "a secret wish" not in log.read_text(), "prompts are nobody's business"


def answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=5, trust_env=False).status_code == 200
    except httpx.HTTPError:
        return False
