"""A server on this machine, with or without TLS, that answers byte by byte as a test says; also a proxy."""

from __future__ import annotations

import socket
import socketserver
import ssl
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.serving import LocalServer, serving

TLS = Path(__file__).parent / "tls"


@dataclass(frozen=True)
class Asked:
    """A request's first line and its headers, with names in lower case."""

    line: str
    headers: dict[str, str]

    @property
    def path(self) -> str:
        return self.line.split()[1]

    @property
    def start(self) -> int:
        """The first byte that Range asks for, 0 without one."""
        return int(self.headers.get("range", "bytes=0-").removeprefix("bytes=").removesuffix("-"))


Answer = Callable[[Asked], bytes]


@dataclass
class AnsweringServer:
    """`answers`: what is sent for each request, in order; the last one for all that follow."""

    url: str
    answers: list[Answer] = field(default_factory=list)
    asked: list[Asked] = field(default_factory=list)

    @property
    def ranges(self) -> list[int]:
        return [asked.start for asked in self.asked]


def answer(
    status: str, body: bytes = b"", headers: Mapping[str, str] | None = None, *, length: bool = True
) -> bytes:
    """Return the bytes of a response; `_` in the names of headers stands for `-`."""
    lines = [f"HTTP/1.1 {status}", "Connection: close"]
    lines += [f"Content-Length: {len(body)}"] if length else []
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in (headers or {}).items()]
    return "\r\n".join([*lines, "", ""]).encode() + body


def rest_of(content: bytes, most: int | None = None) -> Answer:
    """Send what Range asks for, with no validator; `most`: cut the connection after so many bytes."""

    def send(asked: Asked) -> bytes:
        body = content[asked.start :]
        headers = {"Content-Length": str(len(body))}
        if asked.start:
            headers["Content-Range"] = f"bytes {asked.start}-{len(content) - 1}/{len(content)}"
        line = "206 Partial Content" if asked.start else "200 OK"
        return answer(line, body if most is None else body[:most], headers, length=False)

    return send


@contextmanager
def answering_server(*, tls: bool = False) -> Iterator[AnsweringServer]:
    """Serve until the block ends; with `tls`, under a certificate that only tests/tls/ca.pem vouches for."""
    context = None
    if tls:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(TLS / "server.pem")
    lock = threading.Lock()

    class Handler(socketserver.StreamRequestHandler):
        def setup(self) -> None:
            self.request.settimeout(60)
            if context is not None:
                self.request = context.wrap_socket(
                    self.request, server_side=True, do_handshake_on_connect=False
                )
                try:
                    self.request.do_handshake()
                except OSError:
                    self.request.close()
                    raise
            super().setup()

        def finish(self) -> None:
            super().finish()
            self.request.close()

        def handle(self) -> None:
            if context is None and self.request.recv(1, socket.MSG_PEEK) in (b"\x16", b"\x05"):  # TLS, SOCKS
                self.wfile.write(answer("400 Bad Request"))
                return
            line = self.rfile.readline().decode().strip()
            if not line:
                return
            headers = {}
            while header := self.rfile.readline().decode().strip():
                name, _, value = header.partition(":")
                headers[name.lower()] = value.strip()
            asked = Asked(line, headers)
            with lock:
                server.asked.append(asked)
                send = server.answers.pop(0) if len(server.answers) > 1 else server.answers[0]
            self.wfile.write(send(asked))

    listener = LocalServer(Handler)
    server = AnsweringServer(f"{'https' if tls else 'http'}://127.0.0.1:{listener.port}")
    with serving(listener):
        yield server
