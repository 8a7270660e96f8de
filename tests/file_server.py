"""A real HTTP server on this machine that serves bytes from memory, with faults: for tests of downloads."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler

from tests.serving import LocalServer, serving


@dataclass(frozen=True)
class Fault:
    """What goes wrong with one response."""

    cut_after: int | None = None  # bytes of the body, then the connection breaks
    stall_after: int | None = None  # bytes of the body, then silence until the server ends
    status: int | None = None
    headers: tuple[tuple[str, str], ...] = ()  # instead of the right ones
    ranges: bool = True  # False: Range is ignored
    etag: bool = True


@dataclass
class Received:
    """One request as received."""

    path: str
    range: str | None
    if_range: str | None


@dataclass
class FileServer:
    """What it serves, how it fails (one fault per response, in order), and the requests that it received."""

    url: str
    files: dict[str, bytes] = field(default_factory=dict)
    faults: dict[str, list[Fault]] = field(default_factory=dict)
    received: list[Received] = field(default_factory=list)
    ended: threading.Event = field(default_factory=threading.Event)

    def ranges_of(self, path: str) -> list[str | None]:
        """The Range headers of every request for a file, in order."""
        return [request.range for request in self.received if request.path == path]


@contextmanager
def file_server() -> Iterator[FileServer]:
    """Serve until the block ends."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            respond(self, server)

        def log_message(self, format: str, *args: object) -> None:
            pass

    class Listener(LocalServer):
        daemon_threads = True  # they wait for another request of a client that keeps its connection

    listener = Listener(Handler)
    server = FileServer(f"http://127.0.0.1:{listener.port}")
    with serving(listener):
        try:
            yield server
        finally:
            server.ended.set()


def respond(request: BaseHTTPRequestHandler, server: FileServer) -> None:
    """Respond to one GET, with the next fault."""
    byte_range, if_range = request.headers.get("Range"), request.headers.get("If-Range")
    server.received.append(Received(request.path, byte_range, if_range))
    faults = server.faults.get(request.path, [])
    fault = faults.pop(0) if faults else Fault()
    content = server.files.get(request.path)
    status = fault.status or (200 if content is not None else 404)
    body = content if status == 200 and content is not None else b""
    headers = {}
    if status == 200:
        etag = f'"{hashlib.md5(body, usedforsecurity=False).hexdigest()}"'
        if fault.etag:
            headers["ETag"] = etag
        if byte_range and fault.ranges and if_range in (None, etag):
            start = int(byte_range.removeprefix("bytes=").removesuffix("-"))
            status, headers["Content-Range"] = 206, f"bytes {start}-{len(body) - 1}/{len(body)}"
            body = body[start:]
    headers |= {"Content-Length": str(len(body)), **dict(fault.headers)}
    request.send_response(status)
    for name, value in headers.items():
        request.send_header(name, value)
    request.end_headers()
    stop = next((n for n in (fault.cut_after, fault.stall_after) if n is not None), len(body))
    request.wfile.write(body[:stop])
    request.wfile.flush()
    if fault.stall_after is not None:
        server.ended.wait()
    request.close_connection = request.close_connection or stop < len(body) or bool(fault.headers)
