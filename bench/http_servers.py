"""What HTTP servers do with clients that are slow on purpose, and how fast they are with others.

Runs the gateway's application, without services behind it, on its own server, on plain uvicorn, and on
hypercorn and granian where they are installed; their limits are set to `LIMIT_S` where they have one. Run it
on a quiet machine: python -m bench.http_servers
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import socket
import subprocess
import sys
import threading
import time
from contextlib import ExitStack, suppress
from typing import Any

from bench.report import machine, percentile, print_json, spread

LIMIT_S = 5
WAIT_S = 3 * LIMIT_S
HELD = 40
FLOODS = 8
FLOOD_S = 5.0
CLIENTS = 4
RATE_S = 3.0
ROUNDS = 3

FACTORY = "bench.http_servers:create"
COMMANDS = {
    "ours": ["-m", "atelier_gateway", "serve"],
    "uvicorn": [
        "-m",
        "uvicorn",
        FACTORY,
        "--factory",
        "--http",
        "httptools",
        "--no-access-log",
        "--port",
        "{port}",
    ],
    "hypercorn": [
        "-m",
        "hypercorn",
        f"{FACTORY}()",
        "--read-timeout",
        str(LIMIT_S),
        "--bind",
        "127.0.0.1:{port}",
    ],
    "granian": [
        *("-m", "granian", FACTORY, "--factory", "--interface", "asgi", "--http", "1", "--port", "{port}"),
        *("--http1-header-read-timeout", str(LIMIT_S * 1000), "--no-log"),
    ],
}

GET = b"GET /livez HTTP/1.1\r\nHost: a\r\n\r\n"
LARGE = b"GET /docs/assets/swagger-ui-bundle.js HTTP/1.1\r\nHost: a\r\n\r\n" * 20
POST = b"POST /detect HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
SLOW = {
    "half of a header": GET[:20],
    "half of a body": POST + b"Content-Length: 1000\r\n\r\n{",
    "unread responses": LARGE,
}
ONE_BYTE_CHUNKS = b"1\r\nx\r\n" * 20_000


def create() -> Any:
    """Return the application."""
    from atelier_gateway.app import create_app
    from atelier_gateway.settings import GatewaySettings
    from atelier_runtime.settings import load

    return create_app(load(GatewaySettings))


class Server:
    """A server in a process of its own."""

    def __init__(self, name: str) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port: int = free.getsockname()[1]
        settings = {"HOST": "127.0.0.1", "PORT": str(self.port), "STALL_SECONDS": str(LIMIT_S)}
        settings["HEADER_SECONDS"] = str(LIMIT_S)
        settings = {**settings, "JOBS_DATABASE": "none"}
        environment = {f"ATELIER_GATEWAY_{name}": value for name, value in settings.items()}
        command = [sys.executable, *(part.format(port=self.port) for part in COMMANDS[name])]
        self._process = subprocess.Popen(
            command, env={**os.environ, **environment}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        end = time.monotonic() + 60
        while time.monotonic() < end:
            with suppress(OSError):
                self.ask(self.connect())
                return
            time.sleep(0.1)
        raise SystemExit(f"{name} did not start")

    def connect(self, receive_buffer: int | None = None) -> socket.socket:
        """Open a connection."""
        connection = socket.socket()
        if receive_buffer is not None:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        connection.settimeout(60)
        connection.connect(("127.0.0.1", self.port))
        return connection

    @staticmethod
    def ask(connection: socket.socket) -> float:
        """Ask for /livez, and return how long it took in s."""
        started = time.perf_counter()
        connection.sendall(GET)
        answer = b""
        while not answer.endswith(b"}"):
            chunk = connection.recv(2**16)
            if not chunk:
                raise OSError("no answer")
            answer += chunk
        return time.perf_counter() - started

    def close(self) -> None:
        """End the process."""
        self._process.terminate()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(10)
        self._process.kill()
        self._process.wait()


def still_open(server: Server, begin: bytes) -> int:
    """Return how many of `HELD` connections the server has not closed after `WAIT_S`."""
    with ExitStack() as everything:
        connections = [everything.enter_context(server.connect(4096)) for _ in range(HELD)]
        for connection in connections:
            connection.sendall(begin)
        time.sleep(WAIT_S)
        return sum(not _is_closed(connection) for connection in connections)


def _is_closed(connection: socket.socket) -> bool:
    connection.settimeout(0.2)
    with suppress(TimeoutError, BlockingIOError):
        try:
            while connection.recv(2**20):
                pass
        except ConnectionError:
            pass
        return True
    return False


def during_floods(server: Server) -> list[float]:
    """Return how long /livez takes in ms while clients send bodies in chunks of one byte."""
    end = time.monotonic() + FLOOD_S

    def flood() -> None:
        while time.monotonic() < end:
            with suppress(OSError), server.connect() as connection:
                connection.sendall(POST + b"Transfer-Encoding: chunked\r\n\r\n")
                while time.monotonic() < end:
                    connection.sendall(ONE_BYTE_CHUNKS)

    threads = [threading.Thread(target=flood) for _ in range(FLOODS)]
    for thread in threads:
        thread.start()
    times = []
    with server.connect() as connection:
        while time.monotonic() < end:
            times.append(server.ask(connection) * 1000)
            time.sleep(0.02)
    for thread in threads:
        thread.join()
    return times


def requests_per_second(server: Server) -> float:
    """Return the rate of requests for /livez by `CLIENTS` clients."""
    counts: list[int] = []

    def ask() -> None:
        end = time.monotonic() + RATE_S
        count = 0
        while time.monotonic() < end:
            with server.connect() as connection, suppress(OSError):  # hypercorn closes after 1,000 requests
                while time.monotonic() < end:
                    server.ask(connection)
                    count += 1
        counts.append(count)

    threads = [threading.Thread(target=ask) for _ in range(CLIENTS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(counts) / RATE_S


def measure(name: str, *, attack: bool) -> dict[str, Any]:
    """Return the figures of one server; its rate is measured before the attacks, in `ROUNDS` rounds."""
    with ExitStack() as running:

        def fresh() -> Server:
            server = Server(name)
            running.callback(server.close)
            return server

        server = fresh()
        rates = [requests_per_second(server) for _ in range(ROUNDS)]
        if not attack:
            return {"requests_per_second": spread(rates)}
        times = during_floods(server)
        return {
            "requests_per_second": spread(rates),
            "livez_ms_during_one_byte_chunks": {"p50": percentile(times, 0.5), "max": max(times)},
            "connections": HELD,
            "waited_s": WAIT_S,
            "still_open": {what: still_open(fresh(), begin) for what, begin in SLOW.items()},
        }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rates", action="store_true", help="measure the rates only, which takes a minute")
    attack = not parser.parse_args().rates
    installed = [name for name in COMMANDS if name == "ours" or importlib.util.find_spec(name)]
    print_json({"machine": machine(), **{name: measure(name, attack=attack) for name in installed}})
