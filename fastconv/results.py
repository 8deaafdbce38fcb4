"""Where results on the CPU lie: in memory of their own, huge pages if they are large, kept for the next of their size.

The C library may give a block back to the system when it is freed, so that the next result is paid for page by page as
it is first written, which takes longer than most kernels (csrc/cpu/results.h has figures). Here it is kept: at most
``FASTCONV_KEEP_RESULTS`` MiB (an environment variable, 128 unless set) beyond what is in use, the large ones marked as
the system's to take back when memory runs short. 0 leaves every result to torch's allocator; :func:`empty_cache` gives
back what is kept. Such a tensor is like any other, but that its storage cannot be resized.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable

import torch
from torch import Tensor

from .arguments import Ints
from .backends import backends

#: torch.utils.dlpack.from_dlpack less what it asks of objects that are no capsules
_from_dlpack = torch._C._from_dlpack

#: From how many bytes on: the C library maps a block of its own from here on, and keeps smaller ones itself.
KEPT = 128 << 10

#: torch's dtypes by DLPack's code and bits
_TYPES = {
    torch.uint8: (1, 8),
    torch.int64: (0, 64),
    torch.float16: (2, 16),
    torch.float32: (2, 32),
    torch.float64: (2, 64),
    torch.bfloat16: (4, 16),
}


def _limit() -> int:
    text = os.environ.get("FASTCONV_KEEP_RESULTS", "128")
    if not text.isdecimal():
        raise ValueError(f"FASTCONV_KEEP_RESULTS: expected a number of MiB, got {text!r}")
    return int(text) << 20


_module = backends()["cpu"].module if _limit() else None
if _module is not None:
    _module.keep_results(_limit())


def empty_cache() -> None:
    """Give back the memory of freed results that is kept for the next ones; what is in use stays."""
    if _module is not None:
        _module.keep_results(0)
        _module.keep_results(_limit())


def describe() -> str:
    """What is done with results, for ``python -m fastconv info``."""
    if _module is None:
        return "in memory of torch's allocator"
    return f"of those freed at most {_limit() >> 20} MiB are kept (FASTCONV_KEEP_RESULTS)"


def is_kept(shape: Ints, dtype: torch.dtype) -> bool:
    """Whether a dense CPU tensor like this one gets such memory."""
    return _module is not None and math.prod(shape) * dtype.itemsize >= KEPT


def allocator(shape: Ints, strides: Ints, dtype: torch.dtype) -> Callable[[], Tensor]:
    """A function that makes a dense, uninitialised CPU tensor."""
    form = _module.Form(shape, strides, *_TYPES[dtype])

    def allocate() -> Tensor:
        capsule = form()
        if capsule is None:  # torch says what it says when there is no memory
            return torch.empty_strided(shape, strides, dtype=dtype, device="cpu")
        return _from_dlpack(capsule)

    return allocate
