"""How many CPUs this process may use, in a container often fewer than the machine has, and how it uses them.

`os.cpu_count` counts the machine's CPUs. A limit of 2 CPUs on a node with 64 is a cgroup quota; 64 threads
under it spend their time waiting for each other.
"""

from __future__ import annotations

import ctypes
import math
import os
from pathlib import Path, PurePosixPath

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


def usable_processors(cgroups: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")) -> int:
    """Return the number of CPUs that affinity and cgroup quota allow, rounded up, at least 1.

    `cgroups` is the mount point of cgroups (version 2, or 1 with the cpu controller), `own` the file that
    names the process's. Quotas of parent groups count too.
    """
    quotas = [quota for folder in _folders(cgroups, own) if (quota := _quota(folder)) is not None]
    return max(1, min(len(os.sched_getaffinity(0)), *(math.ceil(quota) for quota in quotas), 10**6))


def _folders(cgroups: Path, own: Path) -> list[Path]:
    """Return the folders of our group and its parents, in either version."""
    folders = [cgroups, cgroups / "cpu"]
    try:
        lines = own.read_text(encoding="utf-8").splitlines()
    except OSError:
        return folders
    for line in lines:  # such as 0::/kubepods/pod1 or 4:cpu,cpuacct:/kubepods/pod1
        _, controllers, name = line.split(":", 2)
        if controllers == "" or "cpu" in controllers.split(","):
            root = cgroups / "cpu" if controllers else cgroups
            path = PurePosixPath(name.lstrip("/"))
            folders += [root / path, *(root / parent for parent in path.parents)]
    return folders


def _quota(folder: Path) -> float | None:
    """Return a group's quota in CPUs, None where there is none."""
    try:
        if (version_2 := folder / "cpu.max").is_file():
            quota, period = version_2.read_text(encoding="ascii").split()
        else:
            quota = (folder / "cpu.cfs_quota_us").read_text(encoding="ascii").strip()
            period = (folder / "cpu.cfs_period_us").read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        return None
    if quota in ("max", "-1") or int(period) <= 0:
        return None
    return int(quota) / int(period)
