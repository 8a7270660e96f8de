"""Headers for clients that do not look for our own fields: what was ignored, what went wrong.

Each is a list of names, at most two kilobytes of ASCII.
"""

from __future__ import annotations

from collections.abc import Iterable

from atelier_gateway.http.schemas import printable

IGNORED_HEADER = "X-Atelier-Ignored"
WARNINGS_HEADER = "X-Atelier-Warnings"
_MOST_BYTES = 2048


def ignored_header(names: Iterable[str]) -> dict[str, str]:
    """Return the header that names these fields, or none if there are none. What does not fit is counted."""
    return _header(IGNORED_HEADER, names)


def warnings_header(codes: Iterable[str]) -> dict[str, str]:
    """Return the header that names the codes of an answer's warnings, each once, if there are any."""
    return _header(WARNINGS_HEADER, dict.fromkeys(codes))


def _header(header: str, names: Iterable[str]) -> dict[str, str]:
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
    return {header: ", ".join(shown)} if shown else {}
