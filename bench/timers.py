"""The benchmarks' timers: fastconv.timing's, and what the C library does with freed memory.

Unless told otherwise it keeps it, or else a rival's time on the CPU may be that of the pages its tensors touch first
(3 to 8 µs each on some virtual machines: ten times the work of a depthwise convolution, and by turns, as the library
changes its mind).
"""

from __future__ import annotations

import ctypes
from functools import cache

from fastconv.timing import CLOCKS, Samples, measure

__all__ = ["CLOCKS", "MALLOC", "Samples", "measure", "set_malloc"]


#: what ``set_malloc`` knows -> what it means, for the report
MALLOC = {
    "keep": "keeps freed memory",
    "libc": "as it comes",
    "fresh": "maps every block of 128 KiB or more anew",
}


@cache
def set_malloc(choice: str) -> bool:
    """From now on malloc does as one of MALLOC says; whether the C library could be told (glibc can).

    ``fresh`` is how glibc starts, before frees have raised its threshold (mallopt(3), M_MMAP_THRESHOLD), and how it
    goes on with blocks above 32 MiB.
    """
    if choice == "libc":
        return True
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    if choice == "fresh":
        return bool(mallopt(-3, 128 << 10))  # M_MMAP_THRESHOLD
    no_mmap, no_trim = mallopt(-4, 0), mallopt(-1, 2**31 - 1)  # M_MMAP_MAX, M_TRIM_THRESHOLD
    return bool(no_mmap and no_trim)
