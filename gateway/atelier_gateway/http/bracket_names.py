"""Fields of a form whose names say where in a value they belong: `hires_pass[width]`, `loras[][name]`.

Clients that can only write texts split lists and objects up like this. `[]` is the next item of a list,
`[0]` the item of that number, `[name]` a field of an object. Items of `[]` with several fields come field by
field or item by item, so each field must have as many values as there are items.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

from atelier_gateway.http.schemas import printable
from atelier_runtime.errors import InvalidRequest

MOST_PARTS = 5
"""Of a name, in brackets."""

_NAME = re.compile(r"([^\[\]]+)((?:\[[^\[\]]*\])+)")
_PART = re.compile(r"\[([^\[\]]*)\]")
_NUMBER = re.compile(r"[0-9]{1,3}")

Path = tuple[str, ...]
_Given = tuple[Path, list[Any]]


def path_of(name: str) -> Path:
    """Return the field and what its brackets hold; a name without any is a field. Raises `InvalidRequest`."""
    found = _NAME.fullmatch(name)
    if found is None:
        return (name,)
    parts = _PART.findall(found[2])
    if len(parts) > MOST_PARTS:
        message = f"has {len(parts)} pairs of brackets, the limit is {MOST_PARTS}"
        raise InvalidRequest.of(printable(name), message)
    return (found[1], *parts)


def put_together(
    values: Sequence[tuple[str, Any]], field_parts: Callable[[Path], int], repeated: frozenset[str]
) -> list[tuple[str, Any]]:
    """Return a form's values, with those that are parts of one put together, in the place of the first part.

    `field_parts`: how many of the parts of a name are the field's own, 0 if the name means what it is. Of
    those, what ends in `[]` is a list, and one of `repeated` is a list if it comes several times.
    Raises `InvalidRequest`.
    """
    result: list[tuple[str, Any]] = []
    lists: dict[str, list[Any]] = {}
    split: dict[str, dict[Path, list[Any]]] = {}
    for name, value in values:
        path = path_of(name)
        own = field_parts(path)
        if 0 < own < len(path):
            field = path[0] + "".join(f"[{part}]" for part in path[1:own])
            if field not in split:
                split[field] = {}
                result.append((field, split[field]))
            split[field].setdefault(path[own:], []).append(value)
        elif name in repeated or path[-1] == "":
            if name not in lists:
                lists[name] = []
                result.append((name, lists[name]))
            lists[name].append(value)
        else:
            result.append((name, value))
    for number, (name, value) in enumerate(result):
        if name in split and value is split[name]:
            result[number] = name, _value(list(split[name].items()), name)
        elif name in lists and value is lists[name] and len(value) == 1 and not name.endswith("[]"):
            result[number] = name, value[0]
    return result


def _value(given: Sequence[_Given], field: str) -> Any:
    """Return the value whose parts are `given`. `field`: its name, for errors."""
    if any(not path for path, _ in given):
        if len(given) > 1 or len(given[0][1]) > 1:
            raise InvalidRequest.of(printable(field), "is given twice")
        return given[0][1][0]
    by_head: dict[str, list[_Given]] = {}
    for (head, *rest), values in given:
        by_head.setdefault(head, []).append((tuple(rest), values))
    if "" in by_head:
        if len(by_head) > 1:
            raise InvalidRequest.of(printable(field), "has items with [] and others: write all with []")
        return _items(by_head[""], field)
    if all(_NUMBER.fullmatch(head) for head in by_head):
        numbered = {int(head): parts for head, parts in by_head.items()}
        if sorted(numbered) != list(range(len(by_head))):
            raise InvalidRequest.of(printable(field), "has items whose numbers do not go from 0 up")
        return [_value(numbered[number], f"{field}[{number}]") for number in range(len(numbered))]
    return {head: _value(parts, f"{field}.{head}") for head, parts in by_head.items()}


def _items(given: Sequence[_Given], field: str) -> list[Any]:
    count = max(len(values) for _, values in given)
    for path, values in given:
        if len(values) != count:
            inner = "".join(f"[{part}]" for part in path)
            message = (
                f"has {len(values)} of {inner} and {count} of another field, so it is not known whose they "
                "are: write it as one JSON text, or give every item the same fields"
            )
            raise InvalidRequest.of(printable(field), message)
    return [
        _value([(path, [values[number]]) for path, values in given], f"{field}[{number}]")
        for number in range(count)
    ]
