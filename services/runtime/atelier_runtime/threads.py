"""How many threads each part of a process uses on P usable processors, in one place.

    networks            CPU_THREADS, by default P: OpenMP's threads of the device thread. They sleep while
                        they wait for each other (`torch_setup`).
    text encoders       as many, of the generator's thread that encodes the prompts of waiting requests.
    asyncio's pool      what the processor does with an image that was generated, such as resizing it.
    torch's other pool  never started: only graphs with branches, and training, would use it.
    OpenCV              P, all callers together: a call that finds them busy runs on its own thread.
    the CPU pool        P functions at a time (`cpu_pool` of the restorer).
    image workers       IMAGE_WORKERS, by default P but at most 8, each with one thread; only where a PNG is
                        encoded, P but at most 8.

`processors` says what is usable. Services that share a machine use all of it each, and so does `make run`:
docs/decisions/threads.md has the figures.
"""

from __future__ import annotations

import logging

import torch

from atelier_runtime.processors import usable_processors

logger = logging.getLogger(__name__)


def set_network_threads(setting: int) -> int:
    """Set how many threads an operator of a network uses on a CPU, and return it; `setting`: CPU_THREADS."""
    usable = usable_processors()
    threads = setting or usable
    torch.set_num_threads(threads)
    logger.info("threads of the networks", extra={"threads": threads, "usable_processors": usable})
    return threads
