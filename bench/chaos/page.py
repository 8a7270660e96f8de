"""The figures as text, as JSON, and as the measured part of docs/reliability.md."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

from bench.chaos.figures import Figure, Result
from bench.chaos.promises import PROMISES

_PART = re.compile(r"(<!-- measured: python -m bench.chaos -->\n).*?(<!-- end -->)", re.DOTALL)
_MARKS = {None: "", True: "yes", False: "**no**"}


def text_table(results: Mapping[str, Result]) -> str:
    """Return all figures as lines."""
    lines = []
    for name, result in results.items():
        why = result.skipped or result.failed
        lines.append(f"{name}: {why}" if why else name)
        for figure in result.figures:
            mark = {None: " ", True: "+", False: "!"}[figure.met]
            lines.append(f"  {mark} {figure.name:60}{figure.text:>20}  {figure.goal}")
        lines += [f"    {', '.join(f'{key}: {value}' for key, value in row.items())}" for row in result.rows]
    return "\n".join(lines)


def as_json(results: Mapping[str, Result]) -> dict[str, object]:
    """Return all figures as JSON."""
    return {name: asdict(result) for name, result in results.items()}


def is_broken(result: Result) -> bool:
    """Return whether it did not end, or a promise that does not depend on speed is broken."""
    return bool(result.failed) or any(each.met is False and not each.timed for each in result.figures)


def write(path: Path, results: Mapping[str, Result], machine: Mapping[str, object]) -> None:
    """Fill in the measured part of a page. Raises `ValueError` if it has none."""
    page = path.read_text(encoding="utf-8")
    part = "\n".join(_part(results, machine))
    filled, count = _PART.subn(lambda found: f"{found[1]}{part}\n{found[2]}", page)
    if count != 1:
        raise ValueError(f"{path} does not have the markers once")
    path.write_text(filled, encoding="utf-8")


def _part(results: Mapping[str, Result], machine: Mapping[str, object]) -> Iterator[str]:
    date = datetime.now(UTC).date().isoformat()
    about = f"{machine['cpu']}, {machine['cores']} cores, {machine['memory_gib']} GiB"
    yield f"Measured on {date}: {about}." if results else "Not measured yet: `make chaos` adds the figures."
    yield ""
    yield "### The promises"
    yield ""
    yield from _table(["", "promise", "figure", "goal", "met", "made by"], _promises(results))
    for name, result in results.items():
        if result.rows:
            columns = list(dict.fromkeys(key for row in result.rows for key in row))
            yield from ("", f"### What clients saw: `{name}`", "")
            yield from _table(columns, ([row.get(key, "") for key in columns] for row in result.rows))
    absent = [(name, each.skipped or each.failed) for name, each in results.items()]
    if any(why for _, why in absent):
        yield from ("", "### Not measured", "")
        yield from _table(["scenario", "why"], ([f"`{name}`", why] for name, why in absent if why))


def _promises(results: Mapping[str, Result]) -> Iterator[Sequence[str]]:
    for number, promise in PROMISES.items():
        first = [number, promise.text]
        for name, figure in _figures(results, number):
            words = f"{figure.name}: {figure.text}"
            yield [*first, words, figure.goal, _MARKS[figure.met], f"`{name}`"]
            first = ["", ""]
        files = ", ".join(f"[{Path(test).name}](../{test})" for test in promise.tests)
        yield [*first, "shown by tests", "", "", files]


def _figures(results: Mapping[str, Result], number: str) -> Iterator[tuple[str, Figure]]:
    for name, result in results.items():
        yield from ((name, figure) for figure in result.figures if number in figure.promises)


def _table(columns: Sequence[str], rows: Iterator[Sequence[str]]) -> Iterator[str]:
    yield f"| {' | '.join(columns)} |"
    yield f"|{'---|' * len(columns)}"
    for row in rows:
        cells = (cell.replace("|", r"\|") for cell in row)
        yield f"| {' | '.join(cells)} |"
