"""Messages between a process and its image workers: pickles whose arrays travel in shared memory.

A message is a header, the pickle, and the arrays' bytes, one after the other in a file in memory whose
descriptor is sent along (pickle protocol 5, PEP 574). The receiver maps that file, so no decoded pixel passes
through the socket, only files do; `/dev/shm`, which containers limit to 64 MiB, is not involved.

Both ends are our own processes; unpickling data from anyone else would not be safe.
"""

from __future__ import annotations

import mmap
import os
import pickle
import socket
import struct
import tempfile
from dataclasses import dataclass
from typing import Any

from atelier_runtime.errors import ErrorReason, FieldViolation


@dataclass(frozen=True)
class Failure:
    """Why a function failed: an `AtelierError` by its parts, or a bug with its traceback."""

    reason: ErrorReason
    message: str = ""
    fields: tuple[FieldViolation, ...] = ()
    traceback: str = ""


_HEADER = struct.Struct("<QI")  # bytes of the pickle, number of arrays
_LENGTH = struct.Struct("<Q")
_ALIGNMENT = 64


def send(connection: socket.socket, value: object) -> None:
    """Send a value; blocks until the other side has read it. Raises `OSError` if that side is gone."""
    buffers: list[pickle.PickleBuffer] = []
    payload = pickle.dumps(value, protocol=5, buffer_callback=buffers.append)
    arrays = [buffer.raw() for buffer in buffers]
    header = _HEADER.pack(len(payload), len(arrays))
    if arrays:
        file = _write(arrays)
        try:
            socket.send_fds(connection, [header], [file])
        finally:
            os.close(file)
    else:
        connection.sendall(header)
    connection.sendall(b"".join(_LENGTH.pack(array.nbytes) for array in arrays))
    connection.sendall(payload)


def receive(connection: socket.socket) -> Any:
    """Return the next value; its arrays are writable.

    Raises `EOFError` or `OSError` if the other side is gone.
    """
    start, files, _, _ = socket.recv_fds(connection, _HEADER.size, 1)
    try:
        header = start + _exactly(connection, _HEADER.size - len(start))
        payload_bytes, count = _HEADER.unpack(header)
        lengths = [length for (length,) in _LENGTH.iter_unpack(_exactly(connection, _LENGTH.size * count))]
        payload = _exactly(connection, payload_bytes)
        buffers = _map(files[0], lengths) if files else []
    finally:
        for file in files:
            os.close(file)
    return pickle.loads(payload, buffers=buffers)


def _write(arrays: list[memoryview]) -> int:
    """Return the descriptor of a file in memory with the arrays' bytes."""
    file = _new_file()
    offset = 0
    for array in arrays:
        written = 0
        while written < array.nbytes:
            written += os.pwrite(file, array[written:], offset + written)
        offset += _aligned(array.nbytes)
    os.ftruncate(file, max(1, offset))
    return file


def _new_file() -> int:
    if hasattr(os, "memfd_create"):
        return os.memfd_create("atelier-image")
    with tempfile.TemporaryFile() as file:  # macOS
        return os.dup(file.fileno())


def _map(file: int, lengths: list[int]) -> list[memoryview]:
    """Map a file and return the arrays in it."""
    mapped = memoryview(mmap.mmap(file, 0))
    views, offset = [], 0
    for length in lengths:
        views.append(mapped[offset : offset + length])
        offset += _aligned(length)
    return views


def _aligned(length: int) -> int:
    return -(-length // _ALIGNMENT) * _ALIGNMENT


def _exactly(connection: socket.socket, count: int) -> bytearray:
    received = bytearray(count)
    view, filled = memoryview(received), 0
    while filled < count:
        size = connection.recv_into(view[filled:])
        if size == 0:
            raise EOFError("the other side has closed the connection")
        filled += size
    return received
