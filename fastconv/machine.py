"""What a machine can do at best, and the least time that a piece of work takes on it.

Two times bound every kernel from below: its floating-point operations over the arithmetic rate, and its compulsory
traffic (each operand read once, each result written once) over the memory bandwidth. The larger is the floor.
"""

from __future__ import annotations

import platform
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch


@dataclass(frozen=True)
class Floor:
    """The two bounds in microseconds; the larger one is the floor."""

    arithmetic: float
    memory: float

    @property
    def microseconds(self) -> float:
        """The least time that the work can take."""
        return max(self.arithmetic, self.memory)

    @property
    def bound(self) -> str:
        """What holds the work back: ``"arithmetic"`` or ``"memory"``."""
        return "arithmetic" if self.arithmetic >= self.memory else "memory"


@dataclass(frozen=True)
class Machine:
    """Peak rates: ``flops_per_second`` at one dtype, ``bytes_per_second`` to and from main memory."""

    name: str
    flops_per_second: float
    bytes_per_second: float
    source: str  # where the rates come from: a datasheet, or measured here and now

    def floor(self, flops: float, traffic: float) -> Floor:
        """The floor of ``flops`` operations that move ``traffic`` bytes."""
        return Floor(flops / self.flops_per_second * 1e6, traffic / self.bytes_per_second * 1e6)


# Dense FLOP/s without sparsity, by dtype or by what float32 products are made of: NVIDIA H100 and H200 datasheets, SXM
# parts. float32 is the plain FFMA rate, float64 the tensor cores'; tf32x3 takes three products for one.
_HOPPER = {"float64": 67e12, "float32": 67e12, "tf32": 495e12, "tf32x3": 165e12, "float16": 989e12, "bfloat16": 989e12}
_DATASHEETS = {"H100": (_HOPPER, 3.35e12), "H200": (_HOPPER, 4.8e12)}


def gpu(dtype: str, device_name: str = "NVIDIA H100", math: str = "ieee") -> Machine:
    """The GPU called ``device_name``: from its datasheet if it is a known one, otherwise measured. ``math`` is what
    products of float32 are made of.
    """
    for model, (rates, bandwidth) in _DATASHEETS.items():
        if model in device_name:
            rate = rates[math if dtype == "float32" and math != "ieee" else dtype]
            return Machine(f"{model} SXM", rate, bandwidth, "datasheet")
    return _measured(device_name, dtype, "cuda")


def cpu(dtype: str) -> Machine:
    """This CPU with torch's current number of threads, measured once: a matrix product and a copy, best of a few.

    The 16-bit dtypes get float32's rate, because they are computed in float32.
    """
    computed_in = "float64" if dtype == "float64" else "float32"
    return _measured(f"this CPU, {torch.get_num_threads()} threads", computed_in, "cpu")


def device_count(kind: str) -> int:
    """How many GPUs there are, for "cuda"; of anything else there is one."""
    return torch.cuda.device_count() if kind == "cuda" else 1


@lru_cache
def device_name(kind: str, index: int = 0) -> str:
    """The marketing name of the GPU, for "cuda", or of the processor."""
    if kind == "cuda":
        return torch.cuda.get_device_name(index)
    try:
        models = re.findall(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        models = []
    return models[0] if models else platform.processor() or platform.machine()


@lru_cache
def _measured(name: str, dtype: str, device: str) -> Machine:
    side = 768 if device == "cpu" else 8192
    a = torch.randn(side, side, device=device).to(getattr(torch, dtype))
    product = torch.empty_like(a)
    source = torch.ones((32 if device == "cpu" else 512) << 20, dtype=torch.uint8, device=device)
    target = torch.zeros_like(source)
    flops = 2 * side**3 / _best_seconds(lambda: torch.mm(a, a, out=product), device)
    bandwidth = 2 * source.numel() / _best_seconds(lambda: target.copy_(source), device)
    return Machine(name, flops, bandwidth, "a matrix product and a copy, measured just now")


def _best_seconds(work: Callable[[], object], device: str, spent: float = 0.15) -> float:
    """The fastest of the rounds that fit in ``spent`` seconds: enough of them to meet a quiet moment."""
    best, started = float("inf"), time.perf_counter()
    while best == float("inf") or time.perf_counter() - started < spent:
        start = time.perf_counter()
        work()
        if device == "cuda":
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - start)
    return best
