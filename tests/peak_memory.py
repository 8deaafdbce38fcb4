"""Peak memory of layers, ours beside torch's, as JSON: run by test_cpu_memory.py in a process of its own.

What the process has resident at most while a layer runs forward and backward, beyond what it had before: results,
saved tensors, workspaces and copies, whoever allocates them.
"""

from __future__ import annotations

import ctypes
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

import fastconv
from bench.layers import Layer, select

PROCESS = Path("/proc/self")
TRIM = ctypes.CDLL(None).malloc_trim


def resident(field: str) -> int:
    """`VmRSS`, or `VmHWM`, its peak, in KiB."""
    lines = (PROCESS / "status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(field)).split()[1])


def run(functional: Any, layer: Layer, tensors: list[torch.Tensor]) -> tuple[torch.Tensor, ...]:
    y = getattr(functional, layer.function)(*tensors, *layer.arguments)
    return y, *torch.autograd.grad(y, tensors, torch.ones_like(y))


def peak(functional: ModuleType, layer: Layer, dtype: torch.dtype, layout: str) -> int:
    """KiB, of the second of two runs: the first loads code and makes plans."""
    tensors = [each.requires_grad_() for each in layer.tensors("cpu", dtype, layout)]
    for _ in range(2):
        fastconv.empty_cache()
        TRIM(0)
        (PROCESS / "clear_refs").write_text("5")  # the peak is now what is resident
        before = resident("VmRSS")
        results = run(functional, layer, tensors)
        found = resident("VmHWM") - before
        del results
    return found


def main(suite: str, layers: str) -> None:
    torch.set_num_threads(2)
    for layer in select(suite, layers):
        for dtype in (torch.float32, torch.bfloat16):
            for layout in ("nchw", "nhwc"):
                ours, theirs = (
                    peak(functional, layer, dtype, layout) for functional in (fastconv.functional, torch.nn.functional)
                )
                print(json.dumps([f"{layer.name} {dtype} {layout}", ours, theirs]), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
