"""How many threads a process uses, in one place.

    a network's operator   CPU_THREADS; by default one for each usable processor. OpenMP's threads, which
                           belong to the device thread, the only one that runs networks. They sleep while
                           they wait (`torch_setup`), so that stages which share a machine do not hold each
                           other up.
    torch's inter-op pool  none: only compiled graphs with branches and training would start it.
    OpenCV                 one for each usable processor, all callers together: a call that finds its pool
                           busy runs on its own thread. Left to itself, it reads affinity and the quota of the
                           outermost control group only.
    the restorer's CPU pool   functions at a time: one for each usable processor (`cpu_pool`).
    image workers          IMAGE_WORKERS processes; by default one for each usable processor, at most 8. One
                           thread each, but the PNG writer's bands: one for each usable processor, at most 8.

"Usable" is what affinity and quotas allow, see `processors`. docs/decisions/threads.md says why, in figures.
"""

from __future__ import annotations

import torch

from atelier_runtime.processors import usable_processors


def set_network_threads(setting: int) -> int:
    """Set how many threads an operator of a network uses on a CPU, and return it; `setting`: CPU_THREADS."""
    threads = setting or usable_processors()
    torch.set_num_threads(threads)
    return threads
