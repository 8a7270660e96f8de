"""Services: names that a real DNS server knows, and addresses that a proxy forwards to ready pods."""

from __future__ import annotations

import asyncio
import contextlib
import random
import signal
import socket
import struct
import subprocess
from pathlib import Path

from tests.k8s.runner.pods import WITH_US
from tests.processes import program

TTL_S = 5
"""How long an answer may be kept, as CoreDNS says by default."""


class Dns:
    """A DNS server, from `start` to `close`; `publish` sets which addresses a name has."""

    def __init__(self, address: str, port: int, folder: Path) -> None:
        self.address = f"{address}:{port}"
        self._hosts = folder / "hosts"
        self._hosts.write_text("")
        self._published: dict[str, list[str]] = {}
        self._command = [
            *WITH_US,
            program("dnsmasq"),
            "--keep-in-foreground",
            "--conf-file=/dev/null",
            "--no-resolv",
        ]
        self._command += ["--no-hosts", f"--addn-hosts={self._hosts}", f"--listen-address={address}"]
        self._command += ["--bind-interfaces", f"--port={port}", f"--local-ttl={TTL_S}"]
        self._command += ["--pid-file=", "--user="]
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the server."""
        self._process = subprocess.Popen(self._command, stdout=subprocess.DEVNULL)

    def addresses(self, name: str) -> list[str]:
        """What was published last."""
        return self._published.get(name, [])

    def publish(self, name: str, addresses: list[str]) -> None:
        """Let the name have these addresses and no others."""
        if self.addresses(name) == addresses:
            return
        assert self._process is not None, "it was not started"
        self._published[name] = addresses
        rows = [f"{each} {key}\n" for key, found in self._published.items() for each in found]
        self._hosts.write_text("".join(rows))
        self._process.send_signal(signal.SIGHUP)

    def close(self) -> None:
        """Stop the server, if it runs."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait(10)
            self._process = None


class Proxy:
    """An address that forwards each connection to one of the endpoints by chance, as kube-proxy does.

    A connection stays where it is when its endpoint leaves the list. Without endpoints it is refused.
    """

    def __init__(self) -> None:
        self.endpoints: list[tuple[str, int]] = []
        self._connections: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None

    async def start(self, address: str, port: int) -> None:
        """Listen."""
        self._server = await asyncio.start_server(self._accept, address, port)

    async def close(self) -> None:
        """Close all connections."""
        if self._server is not None:
            self._server.close()
        for task in self._connections:
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        task.add_done_callback(self._connections.discard)
        with contextlib.suppress(OSError, asyncio.CancelledError):
            await self._forward(reader, writer)
        writer.close()

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if not self.endpoints:
            accepted: socket.socket = writer.get_extra_info("socket")
            accepted.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # RST
            return
        address, port = random.choice(self.endpoints)
        behind_reader, behind_writer = await asyncio.open_connection(address, port)
        try:
            await asyncio.gather(_copy(reader, behind_writer), _copy(behind_reader, writer))
        finally:
            behind_writer.close()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Forward until the end of the stream, and forward that."""
    while data := await reader.read(1 << 16):
        writer.write(data)
        await writer.drain()
    if writer.can_write_eof():
        writer.write_eof()
