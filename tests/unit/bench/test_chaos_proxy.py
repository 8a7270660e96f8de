"""The proxy of `bench.chaos` has the faults that it names."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import pytest

from bench.chaos.proxy import CUT_AFTER_BYTES, Fault, Proxy

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]
LONG = bytes(4 * CUT_AFTER_BYTES)


class Behind:
    """A proxy, and connections through it to a server that sends back what it reads."""

    def __init__(self, proxy: Proxy) -> None:
        self.proxy = proxy
        self._writers: list[asyncio.StreamWriter] = []

    async def connect(self) -> Streams:
        streams = await asyncio.open_connection("127.0.0.1", self.proxy.port)
        self._writers.append(streams[1])
        return streams

    async def close(self) -> None:
        for writer in self._writers:
            writer.transport.abort()
            with suppress(OSError):
                await writer.wait_closed()


@asynccontextmanager
async def echo_behind_a_proxy() -> AsyncIterator[Behind]:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while piece := await reader.read(2**16):
                writer.write(piece)
                await writer.drain()
        writer.transport.abort()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server, Proxy(server.sockets[0].getsockname()[1]) as proxy:
        behind = Behind(proxy)
        try:
            yield behind
        finally:
            await behind.close()


async def echo(streams: Streams, content: bytes) -> bytes:
    streams[1].write(content)
    return await streams[0].readexactly(len(content))


async def is_silent(streams: Streams, content: bytes) -> bool:
    """Whether nothing comes back for a while."""
    streams[1].write(content)
    try:
        await asyncio.wait_for(streams[0].read(1), 0.5)
    except TimeoutError:
        return True
    return False


@pytest.mark.parametrize("fault", [Fault.NONE, Fault.LATENCY])
async def test_all_that_is_sent_arrives(fault: Fault) -> None:
    async with echo_behind_a_proxy() as behind:
        behind.proxy.fault = fault
        assert await echo(await behind.connect(), LONG) == LONG


async def test_what_a_black_hole_held_comes_out_once_it_is_gone() -> None:
    async with echo_behind_a_proxy() as behind:
        streams = await behind.connect()
        assert await echo(streams, b"before") == b"before"
        behind.proxy.fault = Fault.BLACK_HOLE
        assert await is_silent(streams, b"meanwhile")
        assert await is_silent(await behind.connect(), b"a new one")
        behind.proxy.fault = Fault.NONE
        assert await streams[0].readexactly(9) == b"meanwhile"


async def test_half_open_connections_stay_dead_and_new_ones_work() -> None:
    async with echo_behind_a_proxy() as behind:
        old = await behind.connect()
        assert await echo(old, b"before") == b"before"
        behind.proxy.fault = Fault.HALF_OPEN
        assert await is_silent(old, b"lost")
        assert await echo(await behind.connect(), b"new") == b"new"
        behind.proxy.fault = Fault.NONE
        assert await is_silent(old, b"lost as well")


async def test_a_response_is_cut() -> None:
    async with echo_behind_a_proxy() as behind:
        behind.proxy.fault = Fault.CUT
        reader, writer = await behind.connect()
        writer.write(LONG)
        try:
            received = await reader.read()
        except ConnectionResetError:
            received = b""
        assert len(received) <= CUT_AFTER_BYTES


async def test_some_pieces_reset_their_connection() -> None:
    async with echo_behind_a_proxy() as behind:
        behind.proxy.fault = Fault.RESETS
        streams = await behind.connect()
        with pytest.raises((ConnectionResetError, asyncio.IncompleteReadError)):
            for _ in range(2000):
                await echo(streams, b"x")


@pytest.mark.parametrize("fault", [Fault.SLOW_READER, Fault.SLOW_WRITER])
async def test_slow_ones_pass_on_little_at_a_time(fault: Fault) -> None:
    async with echo_behind_a_proxy() as behind:
        behind.proxy.fault = fault
        streams = await behind.connect()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(echo(streams, LONG), 1)
        behind.proxy.fault = Fault.NONE
        assert await streams[0].readexactly(1) == b"\0"
