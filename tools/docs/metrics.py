"""The metrics of each process, from the objects that hold them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, get_args

import torch
from prometheus_client import Counter, Gauge, Histogram

from atelier_runtime import metrics
from atelier_runtime.vram import VramCollector
from tools.docs.markdown import code, table

_DEVICE_METRICS = "atelier_vram_bytes"
"""Registered by the services once their device is known, so not by `build_registry`."""


def names() -> set[str]:
    """Return the names of all metrics, as Prometheus shows them."""
    return {_name(family) for family, _ in _families()}


def overview() -> str:
    """Return a table of all metrics with type, labels, and the processes that have them."""
    by_process = {
        process: {family.name for family in metrics.build_registry(process).collect()}
        for process in get_args(metrics.Process)
    }
    rows = []
    for family, labels in _families():
        if family.name == _DEVICE_METRICS:
            processes = ["generator", "restorer"]
        else:
            processes = [process for process, found in by_process.items() if family.name in found]
        where = "all" if len(processes) == len(by_process) else ", ".join(processes)
        shown = ", ".join(code(label) for label in labels)
        rows.append((code(_name(family)), family.type, shown, where, family.documentation))
    return table(("metric", "type", "labels", "process", "meaning"), rows)


def _families() -> Iterator[tuple[Any, tuple[str, ...]]]:
    """Yield what each metric describes itself as, with its labels, in the order of declaration."""
    declared = [
        metric for metric in vars(metrics).values() if isinstance(metric, Counter | Gauge | Histogram)
    ]
    for collector in (*declared, VramCollector(torch.device("cuda", 0))):
        for family in collector.describe():
            # neither kind of object has a public way to name its labels
            holder = family if isinstance(collector, VramCollector) else collector
            yield family, tuple(vars(holder)["_labelnames"])


def _name(family: Any) -> str:
    return f"{family.name}_total" if family.type == "counter" else str(family.name)
