"""Results of the CPU (fastconv/results.py, csrc/cpu/results.h): memory of their own, kept for the next."""

from __future__ import annotations

import copy
import io
import os
import pickle
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

import fastconv
from fastconv import _cpu, functional, results, use_kernel

SMAPS, MODES = Path("/proc/self/smaps"), Path("/sys/kernel/mm/transparent_hugepage/enabled")
HUGE = 2 << 20
MIB = 1 << 20


@pytest.fixture(autouse=True)
def nothing_kept() -> Iterator[None]:
    """And the native kernels, chosen once: a setting is the process's, so threads must not choose it in turn."""
    fastconv.empty_cache()
    with use_kernel("native"):
        yield
    fastconv.empty_cache()


def kept() -> int:
    return _cpu.kept_results()[0]


def large(value: float, mib: int = 8) -> Tensor:
    """A result: a 1x1 depthwise convolution that multiplies ones by ``value``."""
    x = torch.ones(1, 32, mib, 8192)
    return functional.conv2d(x, torch.full((32, 1, 1, 1), float(value)), groups=32)


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
def test_large_results_lie_in_huge_pages(layer: str) -> None:
    x = torch.randn(1, 64, 129, 129)
    y = functional.conv2d(x, torch.randn(64, 1, 3, 3), padding=1, groups=64) if layer == "conv2d" else None
    y = functional.max_pool2d(x, 3, 1, 1) if y is None else y
    assert y.nbytes > 2 * HUGE and y.data_ptr() % HUGE == 0
    assert asked_for(y.data_ptr()) and asked_for(y.data_ptr() + y.nbytes - 1)


def test_small_results_are_torchs() -> None:
    y = functional.conv2d(torch.randn(1, 4, 8, 8), torch.randn(4, 1, 3, 3), groups=4)
    assert y.untyped_storage().resizable()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_the_result_is_as_torchs(dtype: torch.dtype, layout: torch.memory_format) -> None:
    x = torch.randn(2, 16, 260, 257).to(dtype=dtype, memory_format=layout)
    y = functional.max_pool2d(x, 3, 1, 1)
    again = functional.max_pool2d(x, 3, 1, 1)
    expected = torch.nn.functional.max_pool2d(x, 3, 1, 1)
    assert y.nbytes >= 4 * MIB and not y.untyped_storage().resizable()
    assert y.dtype == dtype and y.stride() == expected.stride() and y.storage_offset() == 0
    assert torch.equal(y, expected) and torch.equal(again, expected)


def test_medium_results_are_kept_too() -> None:
    """Below a huge page: the C library may map each anew, and so pay for its pages at every call."""
    x, w = torch.randn(1, 16, 64, 64), torch.randn(16, 1, 3, 3)
    y = functional.conv2d(x, w, padding=1, groups=16)
    at, size = y.data_ptr(), y.nbytes
    assert size == 2 * results.KEPT and not y.untyped_storage().resizable()
    del y
    assert kept() == size
    y = functional.conv2d(x, w, padding=1, groups=16)
    assert y.data_ptr() == at and kept() == 0
    expected = torch.nn.functional.conv2d(x, w, padding=1, groups=16)
    torch.testing.assert_close(y, expected, rtol=0, atol=1e-5)


def test_a_freed_result_serves_the_next_of_its_size() -> None:
    y = large(1)
    at, size = y.data_ptr(), y.nbytes
    other = large(2)  # y is in use
    assert other.data_ptr() != at and (y == 1).all() and (other == 2).all()
    del y
    assert kept() == size
    smaller = large(3, mib=7)
    assert smaller.data_ptr() != at and kept() == size
    y = large(4)
    assert y.data_ptr() == at and kept() == 0 and (y == 4).all() and (smaller == 3).all()


@pytest.mark.parametrize("view", ["slice", "numpy", "detach", "dlpack"])
def test_what_is_in_use_is_not_given_again(view: str) -> None:
    views = {"slice": lambda y: y[0, 3], "numpy": Tensor.numpy, "detach": Tensor.detach, "dlpack": torch.from_dlpack}
    held = views[view](large(1))
    assert kept() == 0
    others = [large(2), large(3)]
    assert (torch.as_tensor(held) == 1).all() and len(others) == 2


def test_no_more_is_kept_than_the_limit() -> None:
    limit = _cpu.kept_results()[1]
    assert limit == 128 * MIB
    tensors = [large(i, mib) for i, mib in enumerate([40, 50, 60])]
    del tensors[0], tensors[0]
    assert kept() == 90 * MIB
    del tensors[0]  # 150 would be too many: the oldest goes
    assert kept() == 110 * MIB
    big = large(1, mib=130)  # more than the limit alone: goes back at once, and nothing else with it
    del big
    assert kept() == 110 * MIB
    fastconv.empty_cache()
    assert kept() == 0 and _cpu.kept_results()[1] == limit


def test_the_cache_is_the_systems_to_take() -> None:
    """What is kept goes when memory runs short: its pages are marked so (MADV_FREE, `LazyFree` in smaps)."""
    if not SMAPS.exists() or "LazyFree" not in SMAPS.read_text():
        pytest.skip("the system does not say which pages it may take")
    y = large(1)
    at = y.data_ptr()
    del y
    inside, lazy = False, 0
    for line in SMAPS.read_text().splitlines():
        span = re.match(r"([0-9a-f]+)-([0-9a-f]+) ", line)
        if span:
            inside = int(span[1], 16) <= at < int(span[2], 16)
        elif inside and line.startswith("LazyFree:"):
            lazy = int(line.split()[1])
    assert lazy * 1024 == 8 * MIB


def test_a_tensor_that_nobody_took() -> None:
    capsule = _cpu.Form((2 * MIB,), (1,), 2, 32)()
    del capsule
    assert kept() == 8 * MIB


def test_without_memory_torch_says_so() -> None:
    assert _cpu.Form((1 << 50,), (1,), 2, 32)() is None
    allocate = results.allocator((1 << 50,), (1,), torch.float32)
    with pytest.raises(RuntimeError, match="memory"):
        allocate()


def test_saved_copied_shared() -> None:
    y = large(5)
    assert torch.equal(copy.deepcopy(y), y) and torch.equal(pickle.loads(pickle.dumps(y)), y)
    file = io.BytesIO()
    torch.save(y, file)
    assert y.nbytes < file.tell() < y.nbytes + 4096
    assert torch.equal(y.clone().share_memory_(), y) and torch.equal(y.share_memory_(), torch.full_like(y, 5))


def test_threads() -> None:
    """Results made and freed in many threads at once do not share memory."""
    wrong: list[int] = []

    def work(mark: int) -> None:
        held: list[Tensor] = []
        for i in range(12):
            held.append(large(mark + i, mib=4 + i % 2))
            if len(held) == 3:
                first = held.pop(0)
                wrong.extend([mark] if (first != mark + i - 2).any() else [])

    threads = [threading.Thread(target=work, args=(100 * mark,)) for mark in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_gradients_in_such_memory() -> None:
    x = torch.randn(1, 16, 257, 300, requires_grad=True)
    w = torch.randn(16, 1, 3, 3, requires_grad=True)
    gy = torch.randn(1, 16, 257, 300)
    gx, gw = torch.autograd.grad(functional.conv2d(x, w, padding=1, groups=16), (x, w), gy)
    x64, w64 = x.detach().double().requires_grad_(), w.detach().double().requires_grad_()
    expected = torch.autograd.grad(torch.nn.functional.conv2d(x64, w64, padding=1, groups=16), (x64, w64), gy.double())
    assert not gx.untyped_storage().resizable()
    torch.testing.assert_close(gx.double(), expected[0], rtol=0, atol=1e-4)
    torch.testing.assert_close(gw.double(), expected[1], rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize(("value", "said"), [("0", "True"), ("64", "False"), ("many", "FASTCONV_KEEP_RESULTS")])
def test_the_environment_variable(value: str, said: str) -> None:
    code = (
        "import torch, fastconv\n"
        "x = torch.randn(1, 32, 200, 300)\n"
        "with fastconv.use_kernel('native'):\n"
        "    print(fastconv.functional.max_pool2d(x, 3, 1, 1).untyped_storage().resizable())\n"
        "fastconv.empty_cache()"
    )
    env = {**os.environ, "FASTCONV_KEEP_RESULTS": value}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
    assert said in done.stdout + done.stderr and (done.returncode == 0) == (value != "many")
