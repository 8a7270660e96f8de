"""Messages for the services' gRPC methods that hypothesis makes from their descriptors, and other bytes.

Any field may hold anything that its type can: extremes, numbers that are none, long texts, numbers that no
enum of this version has, broken pictures. What begins with a request that is served changes a few of its
fields, so that more than the checks of a request is reached.
"""

from __future__ import annotations

import io
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import grpc
import numpy as np
from google.protobuf.descriptor import FieldDescriptor, MethodDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import seed as seeded
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy
from PIL import Image

from atelier.common.v1 import image_pb2
from atelier.generator.v1 import generator_service_pb2
from atelier.restorer.v1 import restorer_service_pb2

SIDE_PX = 256
_MOST_REPEATED = 3
_MOST_CHANGED = 4
_LONG = 20_000

T = TypeVar("T")


def picture(file_format: str = "PNG", side: int = 96) -> bytes:
    """Return a small picture in colors."""
    y, x = np.mgrid[0:side, 0:side]
    rgb = np.dstack([2 * x, 2 * y, x + y]).clip(0, 255).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(rgb).save(buffer, file_format)
    return buffer.getvalue()


PICTURES = [picture(name) for name in ("PNG", "JPEG", "WEBP")]


@dataclass(frozen=True)
class Method:
    """A method of a service: its path, and the class of its requests."""

    path: str
    request: type[Message]
    streams: bool

    async def call(self, channel: grpc.aio.Channel, request: bytes, timeout_s: float) -> list[bytes]:
        """Send a request as it is, a message or not, and return the responses. Raises `AioRpcError`."""
        if self.streams:
            call = channel.unary_stream(self.path)(request, timeout=timeout_s)
            return [response async for response in call]
        return [await channel.unary_unary(self.path)(request, timeout=timeout_s)]


def _method(service: str, method: MethodDescriptor) -> Method:
    request: Any = GetMessageClass(method.input_type)
    return Method(f"/{service}/{method.name}", request, bool(method.server_streaming))


def methods_of(service: str) -> list[Method]:
    """Return the methods of `generator` or `restorer`."""
    module: Any = {"generator": generator_service_pb2, "restorer": restorer_service_pb2}[service]
    [descriptor] = module.DESCRIPTOR.services_by_name.values()
    return [_method(descriptor.full_name, method) for method in descriptor.methods]


_DOUBLES = st.one_of(
    st.sampled_from([0.0, -0.0, 0.5, 1.0, -1.0, 1e-320, 1e308, math.inf, -math.inf, math.nan]),
    st.floats(-2, 20),
    st.floats(),
)
_TEXTS = st.one_of(
    st.sampled_from(
        ["", "a cat", "euler", "dpm++ 2m", "karras", "(a:1.5) [b]", "((((", "<lora:x:1>", "\0", "狐"]
    ),
    st.text(max_size=40),
    st.integers(0, _LONG).map(lambda length: "a " * length),
    st.integers(0, _LONG).map(lambda length: "(" * length),
)


@st.composite
def _broken(draw: st.DrawFn) -> bytes:
    """A picture with some of its bytes changed, cut out or added."""
    data = bytearray(draw(st.sampled_from(PICTURES)))
    for _ in range(draw(st.integers(1, 6))):
        place = draw(st.integers(0, len(data) - 1))
        data[place : place + draw(st.integers(0, 4))] = draw(st.binary(max_size=4))
        data = data or bytearray(b"\x89")
    return bytes(data)


_BYTES = st.one_of(st.sampled_from(PICTURES), _broken(), st.binary(max_size=200))


def _integers(bits: int, *, signed: bool) -> SearchStrategy[int]:
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
    extremes = st.sampled_from([low, high, high - 1, 1, 2, 8, SIDE_PX, 1024])
    return st.one_of(extremes, st.integers(0, 64), st.integers(low, high))


_SCALARS: Mapping[int, SearchStrategy[Any]] = {
    FieldDescriptor.CPPTYPE_INT32: _integers(32, signed=True),
    FieldDescriptor.CPPTYPE_INT64: _integers(64, signed=True),
    FieldDescriptor.CPPTYPE_UINT32: _integers(32, signed=False),
    FieldDescriptor.CPPTYPE_UINT64: _integers(64, signed=False),
    FieldDescriptor.CPPTYPE_DOUBLE: _DOUBLES,
    FieldDescriptor.CPPTYPE_BOOL: st.booleans(),
}


def _scalar(field: FieldDescriptor) -> SearchStrategy[Any]:
    if field.cpp_type == FieldDescriptor.CPPTYPE_STRING:
        return _BYTES if field.type == FieldDescriptor.TYPE_BYTES else _TEXTS
    if field.enum_type is not None:
        known = st.sampled_from(sorted(field.enum_type.values_by_number))
        return st.one_of(known, st.sampled_from([4711, -1, 2**31 - 1, -(2**31)]))
    return _SCALARS[field.cpp_type]


def _set(draw: st.DrawFn, message: Any, field: FieldDescriptor) -> None:
    """Give a field of a message a value; a repeated one values, an inner message some of its fields."""
    if field.is_repeated:
        message.ClearField(field.name)
        values = getattr(message, field.name)
        for _ in range(draw(st.sampled_from([0, 1, 2, _MOST_REPEATED, 300]))):
            if field.message_type is None:
                values.append(draw(_scalar(field)))
                continue
            _fill(draw, values.add())
            if len(values) > _MOST_REPEATED:
                values.extend([values[-1]] * 300)
                break
    elif field.message_type is not None:
        inner = getattr(message, field.name)
        inner.SetInParent()
        _fill(draw, inner)
    else:
        setattr(message, field.name, draw(_scalar(field)))


def _fill(draw: st.DrawFn, message: Any) -> None:
    for field in message.DESCRIPTOR.fields:
        if draw(st.booleans()):
            _set(draw, message, field)


def served(request: type[Message], services_picture: bytes = PICTURES[0]) -> Any:
    """Return a request of a type that is served, and quickly."""
    small: dict[str, Any] = {
        "prompt": "a cat",
        "width_px": SIDE_PX,
        "height_px": SIDE_PX,
        "num_inference_steps": 1,
    }
    photo = image_pb2.Image(data=services_picture)
    options: dict[str, dict[str, Any]] = {
        "GenerateImageRequest": small,
        "EstimateImageRequest": {"request": generator_service_pb2.GenerateImageRequest(**small)},
        "RestoreFacesRequest": {"image": photo},
        "DetectFacesRequest": {"image": photo},
        "CompareFidelitiesRequest": {
            "restore": restorer_service_pb2.RestoreFacesRequest(image=photo),
            "fidelities": [0.0, 1.0],
        },
    }
    return request(**options.get(request.DESCRIPTOR.name, {}))


@st.composite
def messages(draw: st.DrawFn, request: type[Message]) -> Any:
    """A message of a type: one that is served with a few fields changed, or one of any fields."""
    if draw(st.integers(0, 3)) == 0:
        message: Any = request()
        _fill(draw, message)
        return message
    message = served(request, draw(st.sampled_from(PICTURES)))
    places = list(_places(message))
    for _ in range(draw(st.integers(0, _MOST_CHANGED)) if places else 0):
        owner, field = draw(st.sampled_from(places))
        _set(draw, owner, field)
    return message


def _places(message: Any) -> Iterator[tuple[Any, FieldDescriptor]]:
    """Yield the fields of a message, and of the messages in it that are set."""
    for field in message.DESCRIPTOR.fields:
        yield message, field
        if field.message_type is not None and not field.is_repeated and message.HasField(field.name):
            yield from _places(getattr(message, field.name))


@st.composite
def serialized(draw: st.DrawFn, request: type[Message]) -> bytes:
    """What is sent: a message; or now and then bytes that are none, or one that was cut off or changed."""
    kind = draw(st.integers(0, 9))
    if kind == 0:
        return draw(st.binary(max_size=300))
    whole = bytes(draw(messages(request)).SerializeToString())
    if kind == 1:
        return whole[: draw(st.integers(0, len(whole)))]
    if kind == 2 and whole:
        place = draw(st.integers(0, len(whole) - 1))
        return whole[:place] + draw(st.binary(max_size=8)) + whole[place + draw(st.integers(0, 8)) :]
    return whole


def calls(service: str) -> SearchStrategy[tuple[Method, bytes]]:
    """A method of a service, and what is sent to it; seldom one whose requests have no fields."""

    def of(method: Method) -> SearchStrategy[tuple[Method, bytes]]:
        return st.tuples(st.just(method), serialized(method.request))

    methods = [method for method in methods_of(service) for _ in method.request.DESCRIPTOR.fields[:5] or [0]]
    return st.sampled_from(methods).flatmap(of)


EXPECTED = frozenset(
    {
        grpc.StatusCode.OK,
        grpc.StatusCode.INVALID_ARGUMENT,
        grpc.StatusCode.RESOURCE_EXHAUSTED,  # a full queue, a message that is too large
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.UNAVAILABLE,  # what would end after the deadline
        grpc.StatusCode.UNIMPLEMENTED,  # a network that the model set does not have
    }
)
"""The statuses that whatever a client sends may lead to."""


def drawn(strategy: SearchStrategy[T], number: int, seed: int) -> list[T]:
    """Return examples of a strategy, the same ones for the same seed; fewer if there are not so many."""
    found: list[T] = []

    @seeded(seed)
    @settings(
        max_examples=number,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(strategy)
    def add(example: T) -> None:
        found.append(example)

    add()
    return found


def described(method: Method, request: bytes) -> str:
    """Return what was sent, to send it again."""
    shown = request[:2000].hex()
    return f"{method.path} {shown}{f'... ({len(request)} bytes)' if len(request) > 2000 else ''}"


async def status_of(
    method: Method, request: bytes, channel: grpc.aio.Channel, timeout_s: float
) -> grpc.StatusCode:
    """Send what is a message or not, and return the status of the call.

    Raises `AssertionError` for a status that no message may lead to.
    """
    try:
        await method.call(channel, request, timeout_s)
    except grpc.aio.AioRpcError as error:
        assert error.code() in EXPECTED, f"{error.code()} {error.details()}: {described(method, request)}"
        return error.code()
    return grpc.StatusCode.OK
