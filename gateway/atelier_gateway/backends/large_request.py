"""Requests with an image of many megabytes, serialized with one copy of it instead of three."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import grpc
from google.protobuf.message import Message

_LENGTH_DELIMITED = 2


def serialize_with(message: Message, path: tuple[str, ...], data: bytes) -> bytes:
    """Serialize a message with one more field: the bytes at a path of nested messages.

    Protobuf reads a nested message that comes twice as one, so what is there already stays.
    """
    return b"".join((message.SerializeToString(), _head(message, path, data), data))


def serialize_with_files(message: Message, files: Mapping[str, bytes]) -> bytes:
    """Serialize a message with more fields of its own, by name."""
    pieces = [message.SerializeToString()]
    for name, data in files.items():
        pieces += [_head(message, (name,), data), data]
    return b"".join(pieces)


def _head(message: Message, path: tuple[str, ...], data: bytes) -> bytes:
    """Return what comes before the data of a field."""
    descriptor: Any = message.DESCRIPTOR
    tags = []
    for name in path:
        field = descriptor.fields_by_name[name]
        tags.append(_varint(field.number << 3 | _LENGTH_DELIMITED))
        descriptor = field.message_type
    head = b""
    for tag in reversed(tags):
        head = tag + _varint(len(head) + len(data)) + head
    return head


def _varint(value: int) -> bytes:
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


class SerializedRequests:
    """A channel for a stub whose methods also take requests that have been serialized already."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._channel = channel

    def unary_unary(self, method: str, request_serializer: Callable[[Any], bytes], **options: Any) -> Any:
        """Return the callable of a method, as a stub asks for it."""
        return self._channel.unary_unary(method, _unless_bytes(request_serializer), **options)

    def unary_stream(self, method: str, request_serializer: Callable[[Any], bytes], **options: Any) -> Any:
        """Return the callable of a method, as a stub asks for it."""
        return self._channel.unary_stream(method, _unless_bytes(request_serializer), **options)


def _unless_bytes(serialize: Callable[[Any], bytes]) -> Callable[[Any], bytes]:
    return lambda request: request if isinstance(request, bytes) else serialize(request)
