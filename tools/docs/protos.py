"""The gRPC API, from the protos and their comments."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path

from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    EnumDescriptorProto,
    FieldDescriptorProto,
    FileDescriptorProto,
    FileDescriptorSet,
    ServiceDescriptorProto,
)

from tools.docs.markdown import code, slug, table

PROTOS = Path(__file__).parents[2] / "protos"

# Numbers of fields in descriptor.proto, of which the paths of SourceCodeInfo are made.
_MESSAGES, _ENUMS, _SERVICES = 4, 5, 6
_PARTS = 2  # a message's fields, an enum's values, a service's methods

_SCALARS = {
    FieldDescriptorProto.TYPE_DOUBLE: "double",
    FieldDescriptorProto.TYPE_UINT32: "uint32",
    FieldDescriptorProto.TYPE_UINT64: "uint64",
    FieldDescriptorProto.TYPE_BOOL: "bool",
    FieldDescriptorProto.TYPE_STRING: "string",
    FieldDescriptorProto.TYPE_BYTES: "bytes",
}


@cache
def load() -> tuple[FileDescriptorProto, ...]:
    """Compile the protos, comments included."""
    sources = sorted(path.relative_to(PROTOS).as_posix() for path in PROTOS.glob("atelier/*/v1/*.proto"))
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "set"
        options = [f"--proto_path={PROTOS}", "--include_source_info", f"--descriptor_set_out={target}"]
        subprocess.run([sys.executable, "-m", "grpc_tools.protoc", *options, *sources], check=True)
        return tuple(FileDescriptorSet.FromString(target.read_bytes()).file)


def package(name: str) -> str:
    """Return the section of one package, such as `atelier.restorer.v1`."""
    parts: list[str] = []
    for file in (file for file in load() if file.package == name):
        comments = _comments(file)
        for number, service in enumerate(file.service):
            parts.append(_service(service, comments, (_SERVICES, number)))
        for number, message in enumerate(file.message_type):
            parts.append(_message(message, comments, (_MESSAGES, number)))
        for number, enum in enumerate(file.enum_type):
            parts.append(_enum(enum, comments, (_ENUMS, number)))
    return "\n".join(part for part in parts if part)


def enum_comments(name: str) -> dict[str, str]:
    """Return the values of an enum of `atelier.common.v1`, without their prefix, with their comments."""
    for file in load():
        for number, enum in enumerate(file.enum_type):
            if enum.name == name:
                comments = _comments(file)
                return {
                    _without_prefix(value.name, enum.value[0].name): comments[_ENUMS, number, _PARTS, index]
                    for index, value in enumerate(enum.value)
                }
    raise KeyError(name)


def _comments(file: FileDescriptorProto) -> Mapping[tuple[int, ...], str]:
    return {
        tuple(place.path): " ".join(place.leading_comments.split())
        for place in file.source_code_info.location
        if place.leading_comments
    }


Comments = Mapping[tuple[int, ...], str]


def _service(service: ServiceDescriptorProto, comments: Comments, path: tuple[int, ...]) -> str:
    rows = (
        (
            f"**{method.name}**",
            _link(method.input_type),
            f"{'stream of ' if method.server_streaming else ''}{_link(method.output_type)}",
            comments[*path, _PARTS, number],
        )
        for number, method in enumerate(service.method)
    )
    methods = table(("method", "request", "response", "meaning"), rows)
    return f"### {service.name}\n\n{comments[path]}\n\n{methods}"


def _message(message: DescriptorProto, comments: Comments, path: tuple[int, ...]) -> str:
    if not message.field:
        return ""
    rows = (
        (str(field.number), code(field.name), _type(field), comments[*path, _PARTS, number])
        for number, field in enumerate(message.field)
    )
    fields = table(("#", "field", "type", "meaning"), rows)
    return f"### {message.name}\n\n{comments[path]}{_oneofs(message)}\n\n{fields}"


def _oneofs(message: DescriptorProto) -> str:
    """Name the fields of which only one is set; an `optional` field is a oneof of its own."""
    for index, oneof in enumerate(message.oneof_decl):
        members = [f for f in message.field if f.HasField("oneof_index") and f.oneof_index == index]
        if not any(field.proto3_optional for field in members):
            return f" Exactly one field is set (`oneof {oneof.name}`)."
    return ""


def _enum(enum: EnumDescriptorProto, comments: Comments, path: tuple[int, ...]) -> str:
    rows = (
        (str(value.number), code(value.name), comments[*path, _PARTS, number])
        for number, value in enumerate(enum.value)
    )
    return f"### {enum.name}\n\n{comments[path]}\n\n{table(('#', 'value', 'meaning'), rows)}"


def _type(field: FieldDescriptorProto) -> str:
    name = _SCALARS.get(field.type) or _link(field.type_name)
    if field.label == FieldDescriptorProto.LABEL_REPEATED:
        return f"repeated {name}"
    return f"optional {name}" if field.proto3_optional else name


def _link(full_name: str) -> str:
    """Return the name of a message or enum, with a link if this page has a section about it."""
    name = full_name.rsplit(".", 1)[1]
    if full_name.removeprefix(".") not in set(_documented()):
        return "empty" if full_name.startswith(".atelier.") else name
    return f"[{name}](#{slug(name)})"


@cache
def _documented() -> tuple[str, ...]:
    return tuple(_names(load()))


def _names(protos: Iterable[FileDescriptorProto]) -> Iterator[str]:
    for file in protos:
        yield from (f"{file.package}.{message.name}" for message in file.message_type if message.field)
        yield from (f"{file.package}.{enum.name}" for enum in file.enum_type)


def _without_prefix(name: str, zero: str) -> str:
    return name.removeprefix(zero.removesuffix("UNSPECIFIED"))
