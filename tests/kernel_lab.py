"""Runs the test kernels of csrc/emulator/tests on numpy arrays: ``_emutest`` emulates, ``_cudatest`` uses a GPU."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import ModuleType

import numpy as np
import pytest

# Orders in which threads run, and what uninitialised shared memory holds: a correct kernel does not care.
MODES = {
    "forward": {"schedule": "forward", "poison": "nan"},
    "reverse": {"schedule": "reverse", "poison": "garbage"},
    "random-1": {"schedule": "random", "seed": 1, "poison": "nan"},
    "random-2": {"schedule": "random", "seed": 2, "poison": "garbage"},
}


def lab(name: str) -> ModuleType:
    """The module, or a skip that says why there is none."""
    try:
        module = importlib.import_module(f"fastconv.{name}")
    except ImportError as error:
        pytest.skip(f"fastconv.{name} is not built ({error}): configure with -DFASTCONV_TESTS=ON")
    return module


@contextmanager
def configured(**settings):
    """The emulator's settings, for a while."""
    module = lab("_emutest")
    before = module.configure(**settings)
    try:
        yield module
    finally:
        module.configure(**before)


def emulate(name: str, arrays: Sequence[np.ndarray], integers: Sequence[int] = (), **launch) -> None:
    """One launch in the emulator; the arrays are what the kernel may touch, and are written in place."""
    regions = [(array.ctypes.data, array.nbytes) for array in arrays]
    lab("_emutest").run(name, regions, list(integers), **launch)


def run_on_gpu(name: str, arrays: Sequence[np.ndarray], integers: Sequence[int] = (), **launch) -> None:
    """The same launch on the GPU."""
    import torch

    copies = [torch.from_numpy(array.view(np.uint8).reshape(-1)).cuda() for array in arrays]
    regions = [(copy.data_ptr(), copy.numel()) for copy in copies]
    lab("_cudatest").run(name, regions, list(integers), **launch)
    torch.cuda.synchronize()
    for array, copy in zip(arrays, copies, strict=True):
        array.view(np.uint8).reshape(-1)[:] = copy.cpu().numpy()


@dataclass(frozen=True)
class Fragments:
    """Which element of A (16, k), B (k, 8) and D (16, 8) a lane holds: arrays (32, values) of row and column."""

    a: tuple[np.ndarray, np.ndarray]
    b: tuple[np.ndarray, np.ndarray]
    d: tuple[np.ndarray, np.ndarray]

    def pack(self, a: np.ndarray, b: np.ndarray) -> list[np.ndarray]:
        """The registers of the matrices, lane by lane."""
        return [np.ascontiguousarray(a[self.a]).view(np.uint32), np.ascontiguousarray(b[self.b]).view(np.uint32)]

    def unpack(self, registers: np.ndarray) -> np.ndarray:
        """D, from each lane's four registers; NaN where no lane holds an element."""
        d = np.full((16, 8), np.nan, np.float32)
        d[self.d] = registers.reshape(32, 4)
        return d


def fragments(k: int, per_register: int) -> Fragments:
    """The layout that csrc/device/mma.h states."""
    lane = np.arange(32)[:, None]
    g, t = lane // 4, lane % 4
    step = 4 * per_register
    values = np.arange(2 * k // step * per_register)[None]
    register, part = values // per_register, values % per_register
    a = (g + 8 * (register % 2), t * per_register + part + step * (register // 2))
    values = np.arange(k // step * per_register)[None]
    register, part = values // per_register, values % per_register
    b = (t * per_register + part + step * register, np.broadcast_to(g, (32, values.size)))
    i = np.arange(4)[None]
    return Fragments(a, b, (g + 8 * (i // 2), 2 * t + i % 2))
