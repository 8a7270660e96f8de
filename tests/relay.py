"""A proxy before a real HTTP server: it counts requests, and answers or loses some as a test says."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import httpx

from tests.serving import LocalServer, serving

LOSE = b""
"""In place of an answer: the request is carried out, and the connection closed without a word."""

Interfere = Callable[[str], bytes | None]
"""Takes a request's line, METHOD PATH. Returns the bytes to answer with, `LOSE`, or None: relay it."""


@dataclass
class Relay:
    """`asked`: METHOD PATH of every request."""

    url: str
    interfere: Interfere = lambda line: None
    asked: list[str] = field(default_factory=list)

    def count(self, start: str) -> int:
        return sum(line.startswith(start) for line in self.asked)


@contextmanager
def relay(upstream: str) -> Iterator[Relay]:
    """Serve what `upstream`, the URL of a server, does until the block ends."""
    lock = threading.Lock()

    class Handler(http.server.BaseHTTPRequestHandler):
        def _handle(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            line = f"{self.command} {self.path}"
            with lock:
                here.asked.append(line)
                instead = here.interfere(line)
            self.close_connection = True
            if instead:
                self.wfile.write(instead)
                return
            headers = {name: value for name, value in self.headers.items() if name.lower() != "host"}
            answer = client.request(self.command, self.path, content=body, headers=headers)
            if instead == LOSE:
                return
            self.send_response(answer.status_code)
            for name in ("Content-Type", "Retry-After", "Location"):
                if name in answer.headers:
                    self.send_header(name, answer.headers[name])
            self.send_header("Content-Length", str(len(answer.content)))
            self.end_headers()
            self.wfile.write(answer.content)

        do_GET = do_POST = do_DELETE = _handle

        def log_message(self, format: str, *args: object) -> None:
            pass

    listener = LocalServer(Handler)
    here = Relay(f"http://127.0.0.1:{listener.port}")
    with httpx.Client(base_url=upstream, timeout=60, trust_env=False) as client, serving(listener):
        yield here
