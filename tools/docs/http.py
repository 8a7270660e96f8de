"""The HTTP API, from the OpenAPI document and the tables of errors."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

import grpc

from atelier_gateway.app import create_app
from atelier_gateway.http.errors import HTTP_STATUS
from atelier_gateway.settings import GatewaySettings
from atelier_runtime.errors import RETRYABLE, ErrorReason
from atelier_runtime.outcomes import SkipReason, WarningCode
from atelier_runtime.rpc_errors import GRPC_CODES
from tools.docs import protos
from tools.docs.markdown import allowed, code, default, table

_GRPC_NAMES = {status.value[0]: status.name for status in grpc.StatusCode}
_HTTP_ONLY = "(HTTP only)"


def fields(path: str) -> str:
    """Return a table of the fields of a request's body, each with its aliases."""
    return _fields(_body_schema(path)["properties"], _body_schema(path)["required"])


def face_fields() -> str:
    """Return a table of the fields of an element of `faces`."""
    faces = _body_schema("/restore")["properties"]["faces"]
    [element] = [option["items"] for option in faces["anyOf"] if option["type"] == "array"]
    return _fields(element["properties"], element["required"])


def differing_fields(path: str, other: str) -> str:
    """Return a table of the fields of a path's body that the other path's body does not have."""
    schema, known = _body_schema(path), _body_schema(other)["properties"]
    new = {name: field for name, field in schema["properties"].items() if name not in known}
    return _fields(new, schema["required"])


def errors() -> str:
    """Return a table of the error codes and what each is over HTTP and over gRPC."""
    meanings = protos.enum_comments("ErrorReason")
    rows = []
    for reason in ErrorReason:
        meaning = meanings[reason.name]
        over_grpc = "" if _HTTP_ONLY in meaning else _GRPC_NAMES[GRPC_CODES[reason]]
        retry = "yes" if reason in RETRYABLE else ""
        row = (code(reason.value), str(HTTP_STATUS[reason]), over_grpc, code(reason.name), retry, meaning)
        rows.append(row)
    return table(("`error.code`", "HTTP", "gRPC", "`ErrorInfo.reason`", "retry", "meaning"), rows)


def skip_reasons() -> str:
    """Return a table of the reasons why something was skipped."""
    meanings = protos.enum_comments("SkipReason")
    return table(("reason", "meaning"), ((code(r.value), meanings[r.name]) for r in SkipReason))


def warning_codes() -> str:
    """Return a table of the codes of warnings."""
    meanings = protos.enum_comments("WarningCode")
    return table(("code", "meaning"), ((code(w.value), meanings[w.name]) for w in WarningCode))


@cache
def _body_schema(path: str) -> dict[str, Any]:
    # built without reading the environment: the machine that generates the page may have settings
    document = create_app(GatewaySettings.model_construct()).openapi()
    content = document["paths"][path]["post"]["requestBody"]["content"]
    schema: dict[str, Any] = content["application/json"]["schema"]
    return schema


def _fields(properties: Mapping[str, Any], required: list[str]) -> str:
    aliases: dict[str, list[str]] = {}
    for name, field in properties.items():
        if field.get("deprecated"):
            aliases.setdefault(field["description"].split()[2].rstrip(";"), []).append(code(name))
    rows = []
    for name, field in properties.items():
        if field.get("deprecated"):
            continue
        shown = f"{code(name)} ({', '.join(aliases[name])})" if name in aliases else code(name)
        given = "required" if name in required else default(field.get("default"))
        rows.append((shown, allowed(field), given, field["description"]))
    return table(("field (alias)", "values", "default", "meaning"), rows)
