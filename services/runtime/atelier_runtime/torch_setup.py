"""What must be set up before torch is imported: how its threads wait, and what becomes of freed memory."""

from __future__ import annotations

import ctypes
import os

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8  # of mallopt(3)
_LARGEST_KEPT_BYTES = 2**30
_KEPT_BYTES = 512 * 2**20


def prepare_torch() -> None:
    """Set up this process for networks on a CPU; before torch is imported, which reads the environment.

    OpenMP's threads spin by default while they wait for each other, which starves other processes and, where
    cores are shared, slows our own down several times.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    _keep_freed_memory()


def _keep_freed_memory() -> None:
    """Let the allocator keep what is freed, up to 512 MiB at the end of the heap.

    Feature maps take tens of megabytes each. glibc asks the kernel for every one anew, which clears it page
    by page: up to a quarter of a network's time. There is one arena, since only the main one can hold blocks
    of that size: call this before there are threads. Other C libraries, and versions of glibc that refuse the
    size, stay as they are.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None and mallopt(_M_MMAP_THRESHOLD, _LARGEST_KEPT_BYTES):
        mallopt(_M_ARENA_MAX, 1)
        mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES)
