"""HTTP as bytes on a real socket: for requests that no client library would send."""

from __future__ import annotations

import json
import socket

import httpx

from tests.contract.stack import Stack

BODY = json.dumps({"prompt": "x", "width": 256, "height": 256}).encode()
GENERATE = b"POST /generate HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
CHUNKED = GENERATE + b"Transfer-Encoding: chunked\r\n\r\n"


def connect(stack: Stack) -> socket.socket:
    """Return a new connection to the gateway."""
    return socket.create_connection(("127.0.0.1", stack.port), timeout=20)


def received(connection: socket.socket) -> bytes:
    """Return all that comes until the server closes the connection."""
    data = bytearray()
    try:
        while chunk := connection.recv(2**16):
            data += chunk
    except ConnectionResetError:
        pass
    return bytes(data)


def response(connection: socket.socket) -> bytes:
    """Return one response with a Content-Length, or what came of it."""
    data = bytearray()
    while b"\r\n\r\n" not in data:
        chunk = connection.recv(1)
        if not chunk:
            return bytes(data)
        data += chunk
    header = data.lower()
    size = int(header[header.index(b"content-length:") + 15 :].split(b"\r\n")[0])
    while size > 0 and (chunk := connection.recv(min(size, 2**16))):
        data += chunk
        size -= len(chunk)
    return bytes(data)


def form(image: bytes) -> tuple[bytes, bytes]:
    """Return the header and the body of a form for /detect."""
    request = httpx.Request("POST", "http://a/detect", files={"image": ("a", image)})
    body = request.read()
    content_type = request.headers["content-type"].encode()
    return (
        b"POST /detect HTTP/1.1\r\nHost: a\r\nContent-Type: %s\r\nContent-Length: %d\r\n\r\n"
        % (content_type, len(body)),
        body,
    )
