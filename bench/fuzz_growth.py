"""Whether processes grow with what `bench.fuzz` sends them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from bench.chaos.leaks import growth
from bench.chaos.stack import Usage, total

_KIB_AN_EXAMPLE = 10
ALLOWED = {"memory_mib": 16, "open_files": 8, "threads": 4}
NOTES = {
    "memory_mib": "what a process holds from malloc, and what those it has started share with nobody (USS)",
    "grown": "the rise of a line, by least squares, through the looks that follow the warm-up",
    "allowed": f"grown in all; of memory also {_KIB_AN_EXAMPLE} KiB for each example between these looks",
    "allowed_why": (
        "memory: kernels that oneDNN keeps of sizes first seen after the warm-up, and what an image worker "
        "that has just started adds with its first pictures, about half of its own size; "
        "files and threads: connections of one more client, and pools that fill once"
    ),
}
Look = dict[str, dict[int, Usage]]
"""What the processes of each service hold, by process ID."""


def grown(looks: Sequence[Look], examples: int) -> Iterator[tuple[str, str]]:
    """Yield what has grown by more than is allowed: name and figures.

    Args:
        looks: The first is the end of the warm-up; what follows counts, and is two looks or more.
        examples: How many were sent between two looks.
    """
    later = looks[1:]
    more_mib = _KIB_AN_EXAMPLE * examples * (len(later) - 1) / 1024
    for name in later[0]:
        usages = growth([look.get(name, {}) for look in later])
        values = {
            "memory_mib": [usage.private_kib / 1024 for usage in usages],
            "open_files": [float(usage.files) for usage in usages],
            "threads": [float(usage.threads) for usage in usages],
        }
        for kind, each in values.items():
            allowed = ALLOWED[kind] + (more_mib if kind == "memory_mib" else 0)
            rise = float(np.polyfit(np.arange(len(each)), each, 1)[0]) * (len(each) - 1)
            if rise > allowed:
                rounded = [round(value, 1) for value in each]
                yield f"{name}: {kind} grows", f"by {rise:.1f}: {rounded}, allowed: {allowed:.1f}"


def shown(look: Look) -> dict[str, dict[str, float]]:
    """Return what the processes of each service hold together."""
    together = {name: total(usages.values()) for name, usages in look.items()}
    return {
        name: {
            "memory_mib": round(usage.private_kib / 1024, 1),
            "open_files": usage.files,
            "threads": usage.threads,
        }
        for name, usage in together.items()
    }
