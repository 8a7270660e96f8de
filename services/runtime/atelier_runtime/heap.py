"""What a process holds of its heap; what the allocator keeps of freed memory is not in that."""

from __future__ import annotations

import ctypes
import math


class _MallInfo(ctypes.Structure):
    """glibc's `struct mallinfo2` (malloc.h), sums over all arenas."""

    _fields_ = tuple(
        (name, ctypes.c_size_t)
        for name in (
            *("arena", "ordblks", "smblks", "hblks", "hblkhd"),
            *("usmblks", "fsmblks", "uordblks", "fordblks", "keepcost"),
        )
    )


_mallinfo2 = getattr(ctypes.CDLL(None), "mallinfo2", None)
if _mallinfo2 is not None:
    _mallinfo2.restype = _MallInfo


def heap_in_use() -> float:
    """Return the bytes that malloc has handed out, mapped blocks included; NaN without glibc's mallinfo2."""
    if _mallinfo2 is None:
        return math.nan
    info = _mallinfo2()
    return float(info.uordblks + info.hblkhd)
