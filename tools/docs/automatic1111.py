"""The fields and options of AUTOMATIC1111's dialect, from its tables."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from atelier_gateway.api.automatic1111.fields import (
    EXTRA_BATCH,
    EXTRA_SINGLE,
    IMG2IMG,
    TXT2IMG,
    Field,
    Treatment,
    is_untold,
)
from atelier_gateway.api.automatic1111.kinds import describe_one
from atelier_gateway.api.automatic1111.options import OPTIONS
from tools.docs.markdown import code, table

_ROUTES: Mapping[str, Mapping[str, Field]] = {
    "txt2img": TXT2IMG,
    "img2img": IMG2IMG,
    "extra-single-image": EXTRA_SINGLE,
    "extra-batch-images": EXTRA_BATCH,
}


def used(*routes: str) -> str:
    """Return a table of the fields of some routes that decide on the picture."""
    rows = [
        (code(field.name), where, field.kind.words(), field.meaning)
        for field, where in _fields(routes, "used")
    ]
    return table(("field", "of", "values", "meaning"), rows)


def ignored() -> str:
    """Return a table of the fields that are ignored."""
    rows = [
        (code(field.name), where, "never" if is_untold(field) else _unless(field.harmless), field.meaning)
        for field, where in _fields(_ROUTES, "ignored")
    ]
    return table(("field", "of", "named in the header", "why"), rows)


def refused() -> str:
    """Return a table of the fields that are refused."""
    rows = [
        (code(field.name), where, field.kind.words(), field.meaning)
        for field, where in _fields(_ROUTES, "refused")
    ]
    return table(("field", "of", "the only values", "because"), rows)


def options(*, with_effect: bool) -> str:
    """Return a table of the options that have an effect, or of those that have none."""
    chosen = [option for option in OPTIONS.values() if option.has_effect is with_effect]
    if with_effect:
        rows = [
            (
                code(o.name),
                o.kind.words(),
                "" if o.default is None else code(describe_one(o.default)),
                o.meaning,
            )
            for o in chosen
        ]
        return table(("option", "values", "default", "meaning"), rows)
    told = [(code(o.name), _unless(o.harmless), o.meaning) for o in chosen]
    return table(("option", "named in the header", "why"), told)


def _unless(harmless: Iterable[str | float | bool]) -> str:
    values = [code(describe_one(value)) for value in harmless]
    return f"unless {', '.join(['null', *values])}" if values else "unless null"


def _fields(routes: Iterable[str], treatment: Treatment) -> list[tuple[Field, str]]:
    """Return each field of one treatment, and the routes that have it just so."""
    found: dict[Field, list[str]] = {}
    for route in routes:
        for field in _ROUTES[route].values():
            if field.treatment == treatment:
                found.setdefault(_hashable(field), []).append(route)
    return [(field, ", ".join(where)) for field, where in found.items()]


def _hashable(field: Field) -> Field:
    """Return the field without its default, which may be a list."""
    return Field(
        field.name,
        field.kind,
        field.treatment,
        field.meaning,
        None,
        field.harmless,
        field.name_in_spec,
        field.required,
    )
