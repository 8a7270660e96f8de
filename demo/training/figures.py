"""The figures of an evaluation: what was measured, its target, and the table of all figures."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Figure:
    """One measured figure, and whether it reached its target (None: no target, or nothing was measured)."""

    name: str
    value: float
    measured: str
    target: str
    reached: bool | None

    @classmethod
    def share(
        cls, name: str, count: int, total: int, at_least: float | None = None, at_most: float | None = None
    ) -> "Figure":
        """`count` of `total`, whose ratio should be at least or at most so much."""
        value = count / total if total else 0.0
        measured = f"{count} of {total} ({value:.1%})" if total else "nothing to count"
        return cls(
            name,
            value,
            measured,
            _target(at_least, at_most, "", 100),
            _reached(value, total, at_least, at_most),
        )

    @classmethod
    def number(
        cls,
        name: str,
        value: float,
        unit: str = "",
        at_least: float | None = None,
        at_most: float | None = None,
        total: int = 1,
    ) -> "Figure":
        """A number that was measured on `total` samples and should be at least or at most so much."""
        on = f" on {total}" if total > 1 else ""
        measured = f"{value:.3g}{unit}{on}" if total else "nothing to measure"
        return cls(
            name,
            value,
            measured,
            _target(at_least, at_most, unit, 1),
            _reached(value, total, at_least, at_most),
        )


def _target(at_least: float | None, at_most: float | None, unit: str, factor: int) -> str:
    bounds = ((">=", at_least), ("<=", at_most))
    percent = "%" if factor == 100 else unit
    return " and ".join(f"{sign} {bound * factor:g}{percent}" for sign, bound in bounds if bound is not None)


def _reached(value: float, total: int, at_least: float | None, at_most: float | None) -> bool | None:
    if total == 0 or (at_least is None and at_most is None):
        return None
    return (at_least is None or value >= at_least) and (at_most is None or value <= at_most)


def table(figures: list[Figure]) -> str:
    """One line per figure: its name, what was measured, the target and whether it was reached."""
    marks: dict[bool | None, str] = {True: "reached", False: "MISSED", None: ""}
    rows = [("figure", "measured", "target", "")]
    rows += [(figure.name, figure.measured, figure.target, marks[figure.reached]) for figure in figures]
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
    lines.insert(1, "  ".join("-" * width for width in widths))
    return "\n".join(line.rstrip() for line in lines)
