"""The benchmarks' timers: fastconv.timing's, and a C library that keeps freed memory.

Unless told otherwise it does, or else a rival's time on the CPU may be that of the pages its tensors touch first (8 µs
each on some virtual machines: ten times the work of a depthwise convolution, and by turns, as the library changes its
mind).
"""

from __future__ import annotations

import ctypes
from functools import cache

from fastconv.timing import CLOCKS, Samples, measure

__all__ = ["CLOCKS", "Samples", "keep_freed_memory", "measure"]


@cache
def keep_freed_memory() -> bool:
    """From now on malloc keeps what is freed, mapped; whether the C library could be told (glibc can)."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    no_mmap, no_trim = mallopt(-4, 0), mallopt(-1, 2**31 - 1)  # M_MMAP_MAX, M_TRIM_THRESHOLD
    return bool(no_mmap and no_trim)
