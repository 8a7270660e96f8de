"""A SOCKS5 proxy on this machine (RFC 1928) that demands a user and a password (RFC 1929)."""

from __future__ import annotations

import shutil
import socket
import socketserver
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from tests.serving import LocalServer, serving


@dataclass
class SocksProxy:
    """`target`: where every connection leads to. `hosts`: the names that were asked for."""

    port: int
    target: tuple[str, int]
    hosts: list[str] = field(default_factory=list)


@contextmanager
def socks_proxy(target: tuple[str, int], credentials: tuple[str, str]) -> Iterator[SocksProxy]:
    """Relay until the block ends."""

    class Handler(socketserver.StreamRequestHandler):
        timeout = 60

        def handle(self) -> None:
            self.rfile.read(self.rfile.read(2)[1])
            self.wfile.write(b"\x05\x02")
            self.rfile.read(1)
            given = [self.rfile.read(self.rfile.read(1)[0]).decode() for _ in range(2)]
            allowed = tuple(given) == credentials
            self.wfile.write(b"\x01\x00" if allowed else b"\x01\x01")
            if not allowed:
                return
            self.rfile.read(4)  # connect to a name
            proxy.hosts.append(self.rfile.read(self.rfile.read(1)[0]).decode())
            self.rfile.read(2)
            self.wfile.write(b"\x05\x00\x00\x01" + bytes(6))
            with socket.create_connection(proxy.target, timeout=60) as onward:
                request = b""
                while b"\r\n\r\n" not in request:
                    request += self.request.recv(4096)
                onward.sendall(request)
                with onward.makefile("rb") as response:
                    shutil.copyfileobj(response, self.wfile)

    listener = LocalServer(Handler)
    proxy = SocksProxy(listener.port, target)
    with serving(listener):
        yield proxy
