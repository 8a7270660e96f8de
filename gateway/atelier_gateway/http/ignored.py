"""The header that names what of a request was ignored, in dialects whose clients send more than we know."""

from __future__ import annotations

from collections.abc import Iterable

from atelier_gateway.http.schemas import printable

IGNORED_HEADER = "X-Atelier-Ignored"
_MOST_BYTES = 2048


def ignored_header(names: Iterable[str]) -> dict[str, str]:
    """Return the header that names these fields, or none if there are none. What does not fit is counted."""
    shown: list[str] = []
    size = left_out = 0
    for name in names:
        text = printable(name).encode("ascii", "replace").decode().replace(",", "?")
        size += len(text) + 2
        if size > _MOST_BYTES:
            left_out += 1
        else:
            shown.append(text)
    if left_out:
        shown.append(f"and {left_out} more")
    return {IGNORED_HEADER: ", ".join(shown)} if shown else {}
