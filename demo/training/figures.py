"""The figures of an evaluation: what was counted, what it should reach, and the table of all of them."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Figure:
    """One measured figure, and whether it reached its aim (None: it has none, or nothing was counted)."""

    name: str
    value: float
    measured: str
    aim: str
    reached: bool | None

    @classmethod
    def share(
        cls, name: str, count: int, total: int, least: float | None = None, most: float | None = None
    ) -> "Figure":
        """`count` of `total`, which should be at least or at most so much."""
        value = count / total if total else 0.0
        measured = f"{count} of {total} ({value:.1%})" if total else "nothing to count"
        return cls(name, value, measured, _aim(least, most, "", 100), _reached(value, total, least, most))

    @classmethod
    def number(
        cls,
        name: str,
        value: float,
        unit: str = "",
        least: float | None = None,
        most: float | None = None,
        total: int = 1,
    ) -> "Figure":
        """A number that was measured on `total` things and should be at least or at most so much."""
        on = f" on {total}" if total > 1 else ""
        measured = f"{value:.3g}{unit}{on}" if total else "nothing to measure"
        return cls(name, value, measured, _aim(least, most, unit, 1), _reached(value, total, least, most))


def _aim(least: float | None, most: float | None, unit: str, factor: int) -> str:
    bounds = ((">=", least), ("<=", most))
    percent = "%" if factor == 100 else unit
    return " and ".join(f"{sign} {bound * factor:g}{percent}" for sign, bound in bounds if bound is not None)


def _reached(value: float, total: int, least: float | None, most: float | None) -> bool | None:
    if total == 0 or (least is None and most is None):
        return None
    return (least is None or value >= least) and (most is None or value <= most)


def table(figures: list[Figure]) -> str:
    """One line a figure: its name, what was measured, the aim and whether it was reached."""
    marks: dict[bool | None, str] = {True: "reached", False: "MISSED", None: ""}
    rows = [("figure", "measured", "aim", "")]
    rows += [(figure.name, figure.measured, figure.aim, marks[figure.reached]) for figure in figures]
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
    lines.insert(1, "  ".join("-" * width for width in widths))
    return "\n".join(line.rstrip() for line in lines)
