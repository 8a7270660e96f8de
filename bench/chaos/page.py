"""The figures as text, as JSON, and as the generated part of docs/reliability.md."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from bench.chaos.figures import Result


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
    return bool(result.failed) or any(f.met is False and not f.timed for f in result.figures)


def write(path: Path, results: Mapping[str, Result], machine: Mapping[str, object]) -> None:
    """Fill in the generated part."""
