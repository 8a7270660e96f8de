"""Reads the body of a request by the table of its fields."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from starlette.requests import Request

from atelier_gateway.api.automatic1111.fields import Field, is_no_picture, is_untold
from atelier_gateway.api.automatic1111.kinds import is_one_of
from atelier_gateway.http.body import read_json
from atelier_gateway.http.long_text import LONG_TEXT_BYTES, LongText
from atelier_gateway.http.validation import refusal
from atelier_runtime.errors import FieldViolation, MalformedBody

MOST_NESTED = 64
"""Levels of a body: it is read, kept and written back by code that needs some of the stack for each."""


@dataclass
class Given:
    """What a client sent: `values` as they were read, without those that are null or left out."""

    values: dict[str, Any]
    echo: dict[str, Any]
    """For `parameters`: every field, as it came, without pictures; those left out as they are in effect."""
    told: list[str] = field(default_factory=list)
    """Names for the header: what was ignored, and would have mattered in AUTOMATIC1111's web UI."""

    def __getitem__(self, name: str) -> Any:
        """Return a value, None where there is none."""
        return self.values.get(name)

    def tell(self, name: str) -> None:
        """Name a field in the header."""
        if name not in self.told:
            self.told.append(name)


async def read_body(
    request: Request, table: Mapping[str, Field], *, max_bytes: int, max_fields_bytes: int
) -> Given:
    """Read a body and its fields. Raises what `read_json` raises, and what `read_fields` does."""
    body = await read_json(request, max_bytes=max_bytes, max_fields_bytes=max_fields_bytes)
    announced = request.headers.get("content-length", "")
    if announced.isdecimal() and int(announced[:20]) < LONG_TEXT_BYTES:
        return read_fields(body, table)  # no picture is long: it takes less time than to begin in a thread
    return await asyncio.to_thread(read_fields, body, table)


def require_shallow(body: Mapping[str, Any]) -> None:
    """Raise `MalformedBody` for a body of more than `MOST_NESTED` levels."""
    level: list[Any] = [body]
    for _ in range(MOST_NESTED):
        level = [part for whole in level for part in _parts(whole) if isinstance(part, dict | list)]
        if not level:
            return
    raise MalformedBody(f"The body is nested too deeply: the limit is {MOST_NESTED} levels.")


def _parts(whole: Any) -> Iterable[Any]:
    return whole.values() if isinstance(whole, dict) else whole


def read_fields(body: Mapping[str, Any], table: Mapping[str, Field]) -> Given:
    """Read the fields of a body. A large picture takes a while: not for the event loop.

    Raises:
        InvalidRequest: names every field that is wrong.
        MalformedBody: it is nested too deeply.
    """
    require_shallow(body)
    given = Given({}, {name: each.default for name, each in table.items()})
    violations: list[FieldViolation] = []
    for name, value in body.items():
        known = table.get(name)
        if known is None or value is not None:
            given.echo[name] = _shortened(value)
        if value is None or (value == "" and known is not None and is_no_picture(known)):
            continue
        if known is None:
            given.tell(name)
            continue
        try:
            given.values[name] = known.kind.read(value)
        except ValueError as error:
            violations.append(FieldViolation(name, str(error)))
        if known.treatment == "ignored" and not is_untold(known) and not is_one_of(value, known.harmless):
            given.tell(name)
    for name, each in table.items():
        if each.required and body.get(name) is None:
            violations.append(FieldViolation(name, f"is required: {each.kind.words()}"))
    if violations:
        raise refusal(violations)
    return given


def _shortened(value: Any) -> Any:
    """Return a value for the echo: what is as long as a picture is left out."""
    if isinstance(value, LongText):
        return None
    if isinstance(value, list):
        return [_shortened(part) for part in value]
    if isinstance(value, dict):
        return {name: _shortened(part) for name, part in value.items()}
    return value
