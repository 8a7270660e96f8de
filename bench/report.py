"""What every benchmark prints: samples with their spread, and the machine that they were taken on."""

from __future__ import annotations

import json
import math
import platform
import statistics
from collections.abc import Sequence
from importlib.metadata import version

import psutil

_PACKAGES = ("torch", "diffusers", "grpcio", "protobuf", "opencv-python", "pillow")


def spread(samples: Sequence[float]) -> dict[str, float | int]:
    """Return median, minimum and maximum of some samples."""
    return {
        "n": len(samples),
        "median": round(statistics.median(samples), 4),
        "min": round(min(samples), 4),
        "max": round(max(samples), 4),
    }


def percentile(samples: Sequence[float], share: float) -> float:
    """Return the smallest sample that a share (0 to 1) of all samples do not exceed (nearest rank)."""
    ordered = sorted(samples)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def machine() -> dict[str, object]:
    """Return the CPU, its cores, and the versions of the packages that matter."""
    with open("/proc/cpuinfo", encoding="ascii", errors="replace") as file:
        model = next((line.split(":", 1)[1].strip() for line in file if line.startswith("model name")), "?")
    return {
        "cpu": model,
        "cores": psutil.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "load_1min_before": round(psutil.getloadavg()[0], 2),
        "python": platform.python_version(),
        **{name: version(name) for name in _PACKAGES},
    }


def print_json(result: dict[str, object]) -> None:
    """Print the result of a benchmark."""
    print(json.dumps(result, indent=2))
