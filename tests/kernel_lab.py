"""Runs the test kernels of csrc/emulator/tests on numpy arrays: ``_emutest`` emulates, ``_cudatest`` uses a GPU."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from contextlib import contextmanager
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
