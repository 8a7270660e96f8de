"""Whether an ONNX file is whole: its weights may be in other files, which no manifest lists.

OpenCV reads those from wherever the file says, also from outside of the model set. ONNX files are protobuf
messages; read here are only the lengths of their parts.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

_MOST_LEVELS = 100
_TENSOR, _EXTERNAL_DATA, _DATA_LOCATION = "TensorProto", 13, 14
_VARINT, _EIGHT_BYTES, _LENGTH, _FOUR_BYTES = 0, 1, 2, 5
_PARTS: Mapping[str, Mapping[int, str]] = {
    "ModelProto": {7: "GraphProto", 20: "TrainingInfoProto", 25: "FunctionProto"},
    "GraphProto": {1: "NodeProto", 5: _TENSOR, 15: "SparseTensorProto"},
    "NodeProto": {5: "AttributeProto"},
    "AttributeProto": {
        **{5: _TENSOR, 6: "GraphProto", 10: _TENSOR, 11: "GraphProto"},
        **{22: "SparseTensorProto", 23: "SparseTensorProto"},
    },
    "SparseTensorProto": {1: _TENSOR, 2: _TENSOR},
    "FunctionProto": {7: "NodeProto", 11: "AttributeProto"},
    "TrainingInfoProto": {1: "GraphProto", 2: "GraphProto"},
    _TENSOR: {},
}
"""By message and field number of onnx.proto: the messages in which there may be tensors."""


def has_external_data(content: bytes) -> bool:
    """Return whether any tensor of an ONNX file says that its values are in another file.

    Raises `ValueError` if the content is not a protobuf message that any program would write.
    """
    return _has_external_data(memoryview(content), "ModelProto", _MOST_LEVELS)


def _has_external_data(message: memoryview, kind: str, levels: int) -> bool:
    if levels == 0:
        raise ValueError("nested too deeply")
    for number, value in _fields(message):
        if kind == _TENSOR and (number == _EXTERNAL_DATA or (number == _DATA_LOCATION and value != 0)):
            return True
        part = _PARTS[kind].get(number)
        if part is None:
            continue
        if not isinstance(value, memoryview):
            raise ValueError(f"{number} of {kind} is not a message")
        if _has_external_data(value, part, levels - 1):
            return True
    return False


def _fields(message: memoryview) -> Iterator[tuple[int, memoryview | int]]:
    """Yield the fields of a message: number and content; of numbers with a fixed size 0."""
    place = 0
    while place < len(message):
        key, place = _varint(message, place)
        number, wire_type = key >> 3, key & 7
        value: memoryview | int = 0
        if wire_type == _VARINT:
            value, place = _varint(message, place)
        elif wire_type == _LENGTH:
            length, place = _varint(message, place)
            value, place = message[place : place + length], place + length
        elif wire_type in (_EIGHT_BYTES, _FOUR_BYTES):
            place += 8 if wire_type == _EIGHT_BYTES else 4
        else:
            raise ValueError(f"a field of the wire type {wire_type}")
        if place > len(message) or not 1 <= number < 2**29:
            raise ValueError("cut off, or not a protobuf message")
        yield number, value


def _varint(message: memoryview, place: int) -> tuple[int, int]:
    """Return the number at a place, and the place behind it."""
    value = 0
    for position in range(10):
        if place + position >= len(message):
            raise ValueError("cut off within a number")
        byte = message[place + position]
        value |= (byte & 0x7F) << 7 * position
        if byte < 0x80:
            return value, place + position + 1
    raise ValueError("a number of more than ten bytes")
