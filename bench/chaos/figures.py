"""What a scenario measures, beside the goal for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Figure:
    """One figure.

    Attributes:
        name: Of the figure in its scenario.
        value: What was measured.
        goal: In words, with its unit; empty: there is none, the figure informs.
        met: Whether the goal is; None without one.
        promises: The rows of docs/reliability.md that it belongs to, such as R6.
        timed: It depends on how fast the machine is and on what else runs there.
    """

    name: str
    value: float
    unit: str
    goal: str = ""
    met: bool | None = None
    promises: tuple[str, ...] = ()
    timed: bool = False

    @property
    def text(self) -> str:
        """Return value and unit."""
        digits = 0 if abs(self.value) >= 100 or self.value == int(self.value) else 2
        return f"{self.value:,.{digits}f} {self.unit}".strip()


def none_of(name: str, value: float, *promises: str) -> Figure:
    """Return the figure of something that must not happen at all, on no machine."""
    return Figure(name, value, "", "0", value == 0, promises)


def at_most(
    name: str, value: float, goal: float, unit: str, *promises: str, timed: bool = False, of: str = ""
) -> Figure:
    """Return a figure that must not exceed its goal. `of`: where the goal comes from."""
    text = f"≤ {goal:g} {unit}".strip() + (f" ({of})" if of else "")
    return Figure(name, value, unit, text, value <= goal, promises, timed)


def at_least(
    name: str, value: float, goal: float, unit: str, *promises: str, timed: bool = False, of: str = ""
) -> Figure:
    """Return a figure that must reach its goal."""
    text = f"≥ {goal:g} {unit}".strip() + (f" ({of})" if of else "")
    return Figure(name, value, unit, text, value >= goal, promises, timed)


def informs(name: str, value: float, unit: str, *promises: str) -> Figure:
    """Return a figure without a goal."""
    return Figure(name, value, unit, promises=promises, timed=True)


@dataclass(frozen=True)
class Result:
    """What a scenario found.

    Attributes:
        figures: All of them.
        rows: Of a table of its own, by column.
        skipped: Why it cannot run on this machine; empty: it can.
        failed: Why it did not end; empty: it did.
    """

    figures: Sequence[Figure] = ()
    rows: Sequence[Mapping[str, str]] = field(default_factory=list)
    skipped: str = ""
    failed: str = ""
