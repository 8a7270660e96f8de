"""Headers for what a dialect's own response cannot say: what of a request was ignored, and warnings."""

from __future__ import annotations

from collections.abc import Iterable

from atelier_gateway.http.schemas import printable

IGNORED_HEADER = "X-Atelier-Ignored"
WARNINGS_HEADER = "X-Atelier-Warnings"
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


def warnings_header(codes: Iterable[str]) -> dict[str, str]:
    """Return the header with the codes of a response's warnings, each once, or none if there are none."""
    shown = list(dict.fromkeys(str(code) for code in codes))
    return {WARNINGS_HEADER: ", ".join(shown)} if shown else {}
