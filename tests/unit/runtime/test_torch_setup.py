"""What is set up before torch is imported."""

from __future__ import annotations

import subprocess
import sys

PAGE_FAULTS = """
import resource, threading
from atelier_runtime.torch_setup import prepare_torch

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    block = b"x" * (64 * 2**20)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

prepare_torch()
thread = threading.Thread(target=lambda: print([faults() for _ in range(5)][-1]))
thread.start()
thread.join()
"""


def test_freed_memory_is_used_again() -> None:
    """In any thread, and without the kernel clearing it anew: 64 MiB have 16,384 pages."""
    done = subprocess.run([sys.executable, "-c", PAGE_FAULTS], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 100
