"""The bytes that a process holds of its heap."""

from __future__ import annotations

import ctypes

from atelier_runtime.heap import heap_in_use


def test_what_is_held_counts_until_it_is_freed() -> None:
    libc = ctypes.CDLL(None)
    libc.malloc.restype = ctypes.c_void_p
    for size in (50_000, 64 * 2**20):  # of the heap, and a block of its own
        before = heap_in_use()
        block = ctypes.c_void_p(libc.malloc(ctypes.c_size_t(size)))
        held = heap_in_use() - before
        libc.free(block)
        assert size <= held < size + 2**20
        assert abs(heap_in_use() - before) < 2**20
