"""How many CPUs this process may use: in a container, often fewer than the machine has.

`os.cpu_count` counts the machine's CPUs. A limit of 2 CPUs on a node with 64 is a cgroup quota; 64 threads
under it spend their time waiting for each other.
"""

from __future__ import annotations

import math
import os
from pathlib import Path, PurePosixPath


def usable_processors(cgroups: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")) -> int:
    """Return the number of CPUs that affinity and cgroup quota allow, rounded up, at least 1.

    `cgroups` is the mount point of cgroups (version 2, or 1 with the cpu controller), `own` the file that
    names the process's. Quotas of parent groups count too.
    """
    quotas = [quota for folder in _folders(cgroups, own) if (quota := _quota(folder)) is not None]
    return max(1, min(len(os.sched_getaffinity(0)), *(math.ceil(quota) for quota in quotas), 10**6))


def _folders(cgroups: Path, own: Path) -> list[Path]:
    """Return the folders of our group and its parents, in either version."""
    version_2 = (cgroups, cgroups / "unified")  # the second where both versions are mounted
    folders = [*version_2, cgroups / "cpu"]
    try:
        lines = own.read_text(encoding="utf-8").splitlines()
    except OSError:
        return folders
    for line in lines:  # such as 0::/kubepods/pod1 or 4:cpu,cpuacct:/kubepods/pod1
        _, controllers, name = line.split(":", 2)
        if controllers == "" or "cpu" in controllers.split(","):
            path = PurePosixPath(name.lstrip("/"))
            for root in (cgroups / "cpu",) if controllers else version_2:
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
        if quota in ("max", "-1") or int(period) <= 0:
            return None
        return int(quota) / int(period)
    except (OSError, ValueError):
        return None
