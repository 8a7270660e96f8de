"""What the phases of one run took: seconds or, in a separate run, memory."""

from __future__ import annotations

import ctypes
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

MEMORY_KIND = (
    "peak resident memory of the process during a phase (VmHWM, reset before it) above what it held when the "
    "phase began, MiB; 'run' is above what it held when the run began. Includes OpenCV's buffers."
)


class Phases:
    """Collects seconds by phase. With `memory` it collects MiB instead, which slows the phases down."""

    def __init__(self, memory: bool = False) -> None:
        self.seconds: dict[str, float] = {}
        self.peak_mib: dict[str, float] = {}
        self._memory = memory
        self._held_at_start = self._highest = self._settle() if memory else 0

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Measure one phase."""
        held = self._settle() if self._memory else 0
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start
            if self._memory:
                peak = resident_kib("VmHWM")
                self._highest = max(self._highest, peak)
                self.peak_mib[name] = round((peak - held) / 1024, 1)
                self.peak_mib["run"] = round((self._highest - self._held_at_start) / 1024, 1)

    def move(self, seconds: float, source: str, target: str) -> None:
        """Attribute some of a phase's seconds to another one that ran inside it."""
        self.seconds[source] -= seconds
        self.seconds[target] = self.seconds.get(target, 0.0) + seconds

    def _settle(self) -> int:
        """Return freed memory, so that a phase's own shows, and reset the high-water mark."""
        ctypes.CDLL(None).malloc_trim(0)
        reset_high_water_mark()
        return resident_kib("VmRSS")


def memory_can_be_measured() -> bool:
    """Return whether this system keeps a high-water mark: Linux does."""
    process = Path("/proc/self")
    files = (process / "status").exists() and (process / "clear_refs").exists()
    return files and hasattr(ctypes.CDLL(None), "malloc_trim")


def reset_high_water_mark(process: int | str = "self") -> None:
    """Reset VmHWM of a process to what it holds now."""
    Path(f"/proc/{process}/clear_refs").write_text("5", encoding="ascii")


def resident_kib(field: str, process: int | str = "self") -> int:
    """Return VmRSS, what a process holds, or VmHWM, the most that it has held, in KiB."""
    status = Path(f"/proc/{process}/status")
    for line in status.read_text(encoding="ascii", errors="replace").splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1])
    raise RuntimeError(f"{status} does not have {field}")
