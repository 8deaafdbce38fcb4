"""Large results of the native CPU kernels ask for huge pages (csrc/cpu/pages.h), small ones do not."""

from __future__ import annotations

import mmap
import re
from pathlib import Path

import pytest
import torch

from fastconv import _cpu, functional, use_kernel

SMAPS, MODES = Path("/proc/self/smaps"), Path("/sys/kernel/mm/transparent_hugepage/enabled")
HUGE = 2 << 20


def asked_for(address: int) -> bool:
    """Whether the mapping that holds this address has been given MADV_HUGEPAGE."""
    inside = False
    for line in SMAPS.read_text().splitlines():
        span = re.match(r"([0-9a-f]+)-([0-9a-f]+) ", line)
        if span:
            inside = int(span[1], 16) <= address < int(span[2], 16)
        elif inside and line.startswith("VmFlags:"):
            return "hg" in line.split()
    raise AssertionError(f"no mapping holds {address:#x}")


@pytest.mark.skipif(not (SMAPS.exists() and MODES.exists()), reason="the system has no transparent huge pages")
@pytest.mark.parametrize("layer", ["conv2d", "max_pool2d"])
def test_large_results_ask_for_huge_pages(layer: str) -> None:
    x = torch.randn(1, 64, 256, 256)
    with use_kernel("native"):
        y = functional.conv2d(x, torch.randn(64, 1, 3, 3), padding=1, groups=64) if layer == "conv2d" else None
        y = functional.max_pool2d(x, 3, 1, 1) if y is None else y
    assert y.nbytes >= 4 * HUGE
    first = -(-y.data_ptr() // HUGE) * HUGE  # the first whole huge page, and the last
    last = (y.data_ptr() + y.nbytes) // HUGE * HUGE - HUGE
    assert asked_for(first) and asked_for(last)


@pytest.mark.skipif(not (SMAPS.exists() and MODES.exists()), reason="the system has no transparent huge pages")
def test_nothing_is_asked_beyond_the_result() -> None:
    """A result in the middle of a larger mapping: only its own whole pages."""
    room = torch.frombuffer(mmap.mmap(-1, 16 * HUGE), dtype=torch.uint8)  # fresh: nobody has asked for any of it
    same = {"stride": [1, 1], "padding": [1, 1], "dilation": [1, 1]}
    problem = _cpu.ConvProblem(n=1, c=64, k=64, groups=64, input=[256, 256], filter=[3, 3], **same)
    x, w = torch.randn(1, 64, 256, 256), torch.randn(64, 1, 3, 3)
    start = -(-room.data_ptr() // HUGE) * HUGE + 3 * HUGE + 4096
    plan = _cpu.conv_plan(problem, "fprop", kernel="depthwise", threads=1)
    plan.run(x.data_ptr(), w.data_ptr(), 0, 0, start, 0, 0)
    # As large as x: 8 huge pages, of which 7 lie in it as a whole.
    flags = [asked_for(start // HUGE * HUGE + page * HUGE) for page in range(-2, 11)]
    assert flags == [False] * 3 + [True] * 7 + [False] * 3
