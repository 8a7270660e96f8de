"""A TCP proxy with the faults of networks."""

from __future__ import annotations

import asyncio
import random
import socket
import struct
import time
from contextlib import suppress
from enum import Enum
from typing import Self

LATENCY_S = 2.0
RESET_SHARE = 0.01
CUT_AFTER_BYTES = 32 * 1024
SLOW_BYTES_PER_S = 8 * 1024
_CHUNK_BYTES = 16 * 1024
_LOOK_AGAIN_S = 0.05
_RESET = struct.pack("ii", 1, 0)  # SO_LINGER of 0 s: closing sends RST


class Fault(Enum):
    """What happens to what passes, as its value says."""

    NONE = "none"
    LATENCY = "2 s later"
    RESETS = "1 % of all pieces reset the connection"
    BLACK_HOLE = "nothing arrives, nothing is refused"
    HALF_OPEN = "open connections are dead, new ones are not"
    CUT = "connections are closed within a response"
    SLOW_READER = "the service reads 8 KiB/s"
    SLOW_WRITER = "the service sends 8 KiB/s"


class Proxy:
    """Relays connections to a port, as an asynchronous context manager; `fault` may change at any time."""

    def __init__(self, target: int) -> None:
        self.port = 0
        self._target = target
        self._fault = Fault.NONE
        self._changes = 0
        self._chance = random.Random(3)
        self._open: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        self._server.close()
        for task in list(self._open):
            task.cancel()
        await asyncio.gather(*self._open, return_exceptions=True)
        await self._server.wait_closed()

    @property
    def fault(self) -> Fault:
        """What happens now."""
        return self._fault

    @fault.setter
    def fault(self, fault: Fault) -> None:
        self._fault = fault
        self._changes += 1

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(_Connection(self, reader, writer).run())
        self._open.add(task)
        task.add_done_callback(self._open.discard)

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Open a connection to the target."""
        return await asyncio.open_connection("127.0.0.1", self._target)

    @property
    def changes(self) -> int:
        """Return how often the fault has changed."""
        return self._changes

    def resets_now(self) -> bool:
        """Return whether this piece resets its connection."""
        return self._fault is Fault.RESETS and self._chance.random() < RESET_SHARE


class _Connection:
    """One connection of a client, and the one to the target."""

    def __init__(self, proxy: Proxy, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._proxy, self._reader, self._writer = proxy, reader, writer
        self._began_at = proxy.changes
        self._dead = False
        self._sent_back = 0

    async def run(self) -> None:
        """Relay until either side ends."""
        ends = [self._writer]
        try:
            reader, writer = await self._proxy.connect()
            ends.append(writer)
            ways = [
                asyncio.create_task(self._relay(self._reader, writer, back=False)),
                asyncio.create_task(self._relay(reader, self._writer, back=True)),
            ]
            try:
                await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for way in ways:
                    way.cancel()
                await asyncio.gather(*ways, return_exceptions=True)
        except OSError:  # the target does not listen
            pass
        finally:
            for end in ends:
                end.close()
                with suppress(OSError):
                    await end.wait_closed()

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, back: bool) -> None:
        """Relay one way; `back`: of the target's responses. Returns at the end of either side."""
        due: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(64)
        sending = asyncio.create_task(self._send(due, writer))
        try:
            while not sending.done():
                await self._pass_holes()
                fault = self._proxy.fault
                slow = fault is (Fault.SLOW_WRITER if back else Fault.SLOW_READER)
                # a piece may have been asked for before the fault came: it passes the hole afterwards
                piece = await reader.read(SLOW_BYTES_PER_S // 10 if slow else _CHUNK_BYTES)
                await self._pass_holes()
                if not piece:
                    break
                if self._proxy.resets_now():
                    self._reset()
                    return
                if back and self._proxy.fault is Fault.CUT:
                    self._sent_back += len(piece)
                    if self._sent_back > CUT_AFTER_BYTES:
                        return
                if slow:
                    await asyncio.sleep(0.1)
                late = LATENCY_S if back and self._proxy.fault is Fault.LATENCY else 0.0
                await due.put((time.monotonic() + late, piece))
            await due.put((0.0, b""))
            await sending
        except OSError:
            return
        finally:
            sending.cancel()
            await asyncio.gather(sending, return_exceptions=True)

    async def _send(self, due: asyncio.Queue[tuple[float, bytes]], writer: asyncio.StreamWriter) -> None:
        while True:
            when, piece = await due.get()
            await asyncio.sleep(max(0.0, when - time.monotonic()))
            if not piece:
                return
            writer.write(piece)
            await writer.drain()

    async def _pass_holes(self) -> None:
        """Wait while nothing passes; what a black hole held comes out afterwards, as TCP sends it again."""
        while True:
            fault = self._proxy.fault
            is_old = self._began_at < self._proxy.changes
            self._dead = self._dead or (fault is Fault.HALF_OPEN and is_old)
            if not self._dead and fault is not Fault.BLACK_HOLE:
                return
            await asyncio.sleep(_LOOK_AGAIN_S)

    def _reset(self) -> None:
        raw: socket.socket = self._writer.get_extra_info("socket")
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        self._writer.transport.abort()
