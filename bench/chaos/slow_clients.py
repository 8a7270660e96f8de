"""Clients that read or write slowly, or not at all."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncIterator
from contextlib import ExitStack, suppress

import httpx

from bench.chaos.clients import PHOTO, ask, client_of, count, steady, until
from bench.chaos.figures import Result, at_most, none_of
from bench.chaos.scale import Scale
from bench.chaos.stack import Service, Stack

HEADER_S, STALL_S = 3, 4
SLOW, UNREAD = 20, 3
_CLOSED = "atelier_gateway_connections_closed_total"
_GIVE_UP_S = 60.0
_LARGE = {"upscale": "4", "use_realesrgan": "false", "max_faces": "0"}
_KEPT_BY_KERNEL_BYTES = 4 * 2**20
"""What fits into the kernel's buffers has left the gateway, which then has nothing to close."""


async def slow_clients(stack: Stack, scale: Scale) -> Result:
    """Twenty each that send a header or a body in drops, and three that do not read what they asked for."""
    number = scale.of(SLOW, 4)
    with stack.another_gateway(
        {"HEADER_SECONDS": HEADER_S, "STALL_SECONDS": STALL_S, "JOBS_DATABASE": "none"}
    ) as gateway:
        await asyncio.to_thread(gateway.wait_ready)
        async with client_of(gateway.url) as client:
            await ask(client, "/restore")
            await _require_large(client)
            async with steady(client, ("/restore", "/generate")) as answers:
                header = [_slow_header(gateway) for _ in range(number)]
                body = [_slow_body(gateway) for _ in range(number)]
                *drops, unread = await asyncio.gather(*header, *body, _unread(gateway, UNREAD))

            async def idle() -> bool:
                return not await asyncio.to_thread(gateway.busy)

            await until(idle, 30)
            busy = len(gateway.busy())
    grace = 1 + scale.grace_s
    never = sum(seconds >= _GIVE_UP_S for seconds in (*drops, unread))
    return Result(
        [
            at_most("a header in drops: closed after", max(drops[:number]), HEADER_S + grace, "s", "R8"),
            at_most("a body in drops: closed after", max(drops[number:]), 2 * STALL_S + grace, "s", "R8"),
            at_most("an answer that nobody reads: closed after", unread, _GIVE_UP_S / 2, "s", "R8"),
            none_of("slow clients that were not closed", never, "R8"),
            none_of("other clients not answered meanwhile", count(answers, lambda a: not a.is_whole), "R8"),
            none_of("gauges that are not 0 afterwards", busy, "R8"),
        ]
    )


async def _drops(writer: asyncio.StreamWriter, content: bytes) -> AsyncIterator[None]:
    for n in range(len(content)):
        writer.write(content[n : n + 1])
        await writer.drain()
        yield
        await asyncio.sleep(0.25)


async def _send_in_drops(gateway: Service, start: bytes, content: bytes) -> float:
    """Return the seconds until the gateway has closed the connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    begun = time.monotonic()
    closed = asyncio.create_task(reader.read())
    try:
        with suppress(OSError):
            writer.write(start)
            async for _ in _drops(writer, content):
                if closed.done() or time.monotonic() > begun + _GIVE_UP_S:
                    break
        return time.monotonic() - begun
    finally:
        closed.cancel()
        await asyncio.gather(closed, return_exceptions=True)
        writer.close()


async def _slow_header(gateway: Service) -> float:
    return await _send_in_drops(
        gateway, b"POST /restore HTTP/1.1\r\n", b"Host: localhost\r\nA: " + b"a" * 999
    )


async def _slow_body(gateway: Service) -> float:
    header = b"POST /generate HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    header += b"Content-Length: 9999\r\n\r\n"
    return await _send_in_drops(gateway, header, b'{"prompt": "' + b"a" * 999)


async def _require_large(client: httpx.AsyncClient) -> None:
    """Raise `RuntimeError` unless the answer that nobody is going to read has to wait in the gateway."""
    response = await client.post("/restore", files={"image": PHOTO.read_bytes()}, data=_LARGE)
    if response.status_code != 200 or len(response.content) < _KEPT_BY_KERNEL_BYTES:
        raise RuntimeError(f"no large answer: {response.status_code}, {len(response.content)} bytes")


async def _unread(gateway: Service, number: int) -> float:
    """Ask for large pictures and read nothing; return the seconds until all connections are closed."""
    header = b"POST /restore HTTP/1.1\r\nHost: localhost\r\nContent-Type: multipart/form-data; boundary=x\r\n"
    field = b'--x\r\nContent-Disposition: form-data; name="%s"\r\n\r\n%s\r\n'
    body = b"".join(field % (name.encode(), value.encode()) for name, value in _LARGE.items())
    body += b'--x\r\nContent-Disposition: form-data; name="image"; filename="a.png"\r\n\r\n'
    body += PHOTO.read_bytes() + b"\r\n--x--\r\n"
    request = header + b"Content-Length: %d\r\n\r\n" % len(body) + body
    loop = asyncio.get_running_loop()
    begun = time.monotonic()
    with ExitStack() as stack:
        for _ in range(number):
            connection = stack.enter_context(socket.socket())
            connection.setblocking(False)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            await loop.sock_connect(connection, ("127.0.0.1", gateway.port))
            await loop.sock_sendall(connection, request)

        async def closed() -> bool:
            return await asyncio.to_thread(gateway.metric, _CLOSED, 'cause="unread"') >= number

        await until(closed, _GIVE_UP_S)
    return time.monotonic() - begun
