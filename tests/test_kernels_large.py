"""Tensors beyond 2^31 and 2^32 bytes, elements and positions: the far end of each is computed as the near end is.

Nothing of that size is touched: the tensors are reserved address space, whose pages become memory when they are
written, and the emulator runs only the last blocks of each grid, which compute the last samples. What those should be
is known from the samples alone. An offset that lost its upper bits reads zeros, or writes where the test looks for it.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
import torch
from kernel_driver import DTYPES, Driver, conv_operands, conv_oracle, dense, pool_oracle
from shapes import ConvCase, PoolCase, conv, pool
from torch import Tensor

_emulator = pytest.importorskip("fastconv._emulator", reason="the emulator is not built")

SAMPLES = 3  # the last ones are looked at
BLOCKS = 24  # run of each grid: enough for those samples, whatever the tile
NORESERVE = 0x4000


@pytest.fixture
def driver() -> Iterator[Driver]:
    """The last blocks only, and no counters."""
    before = _emulator.configure(count=False, schedule="reverse", blocks=BLOCKS)
    yield Driver(_emulator, "cpu")
    _emulator.configure(**before)


def reserve(elements: int, dtype: torch.dtype) -> Tensor:
    """Zeros that take no memory until they are written."""
    size = elements * dtype.itemsize
    pages = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | NORESERVE)
    pages.madvise(mmap.MADV_NOHUGEPAGE)
    return torch.from_numpy(np.frombuffer(pages, np.uint8)).view(dtype)


def reserve_tail(last: Tensor, batch: int, layout: str) -> Tensor:
    """A batch of zeros that ends with the samples ``last``; flat, as it lies in memory."""
    flat = reserve(last[0].numel() * batch, last.dtype)
    tail = dense(last, layout)
    flat[-last.numel() :] = (tail.movedim(1, -1) if layout == "nhwc" else tail).reshape(-1)
    return flat


def tail_of(flat: Tensor, like: Tensor, layout: str) -> Tensor:
    """The last samples of a flat result, as a tensor with the shape of ``like``."""
    shape = list(like.shape)
    if layout == "nhwc":
        shape = [shape[0], *shape[2:], shape[1]]
    tail = flat[-like.numel() :].view(shape)
    return tail.movedim(-1, 1) if layout == "nhwc" else tail


def assert_far_end(flat: Tensor, expected: Tensor, layout: str, what: object) -> None:
    """The last samples are there, and nowhere that an offset of 32 bits or fewer would have put them."""
    assert torch.equal(tail_of(flat, expected, layout), expected), what
    for bits in (31, 32):
        for unit in (1, flat.element_size()):  # of bytes, of elements
            wrapped = flat.numel() - expected.numel() - (1 << bits) // unit
            if wrapped >= 0:
                assert not flat[wrapped : wrapped + expected.numel()].any(), (what, bits, unit)


@contextmanager
def little_memory() -> Iterator[None]:
    """What is in here may not make more than 64 MB of memory resident."""

    def resident() -> int:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * mmap.PAGESIZE

    before = resident()
    yield
    assert resident() - before < 64 << 20


# name, dtype, layout, the batch, and the geometry of a sample
def _case(name: str, n: int, channels: int, groups: int = 1, size: int = 8) -> ConvCase:
    return conv(name, n, channels, channels, (size, size), 3, 1, 1, 1, groups)


CONV = (
    ("float16", "nhwc", "ieee", _case("bytes beyond 2^32, elements beyond 2^31", (1 << 22) + SAMPLES, 8)),
    ("bfloat16", "nhwc", "ieee", _case("elements beyond 2^32", (1 << 23) + SAMPLES, 8)),
    ("float32", "nhwc", "tf32", _case("elements beyond 2^32", (1 << 23) + SAMPLES, 8)),
    ("float32", "nhwc", "tf32x3", _case("bytes beyond 2^32", (1 << 21) + SAMPLES, 8)),
    ("float16", "nhwc", "ieee", _case("odd channels", (1 << 23) + SAMPLES, 5)),
    ("float32", "nchw", "ieee", _case("elements beyond 2^32", (1 << 23) + SAMPLES, 8)),
    ("float16", "nchw", "ieee", _case("elements beyond 2^31, packed", (1 << 22) + SAMPLES, 8)),
    ("float64", "nchw", "ieee", _case("bytes beyond 2^33", (1 << 21) + SAMPLES, 8)),
    ("float16", "nchw", "ieee", _case("positions beyond 2^31", (1 << 25) + SAMPLES, 1)),
    ("float16", "nhwc", "ieee", _case("positions beyond 2^31", (1 << 25) + SAMPLES, 1)),
    ("float16", "nhwc", "ieee", _case("depthwise, elements beyond 2^32", (1 << 23) + SAMPLES, 8, 8)),
    ("float32", "nchw", "ieee", _case("depthwise, elements beyond 2^32", (1 << 23) + SAMPLES, 8, 8)),
)
CONV_IDS = [f"{dtype}-{layout}-{math}-{case.name}" for dtype, layout, math, case in CONV]


def kernels_of(driver: Driver, case: ConvCase, pass_: str, dtype: str, layout: str, math: str) -> list[str]:
    """Those that accept; of a depthwise layer only those made for it, for the others' last blocks are one channel's."""
    found = driver.kernels(case, pass_, dtype, layout, math=math)
    return [each for each in found if case.groups == 1 or each in ("depthwise_tiled", "depthwise", "bias_sum")]


@pytest.mark.parametrize(("dtype", "layout", "math", "case"), CONV, ids=CONV_IDS)
def test_the_last_samples_of_a_huge_batch(driver: Driver, dtype: str, layout: str, math: str, case: ConvCase) -> None:
    """fprop and dgrad, every kernel: both tensors are huge."""
    few = replace(case, n=SAMPLES)
    operands = conv_operands(few, dtype, integers=True)
    w = dense(operands.w, layout)
    for pass_ in ("fprop", "dgrad"):
        source = operands.x if pass_ == "fprop" else operands.gy
        expected = conv_oracle(few, pass_, operands.double()).to(DTYPES[dtype])
        kernels = kernels_of(driver, case, pass_, dtype, layout, math=math)
        with little_memory():
            far = reserve_tail(source, case.n, layout)
            for kernel in kernels:
                plan = driver.conv_plan(case, pass_, dtype, layout, kernel, bias=pass_ == "fprop", math=math)
                out = reserve(expected[0].numel() * case.n, expected.dtype)
                workspace = reserve(plan.workspace_bytes + 4, torch.uint8)
                bias = operands.bias.data_ptr() if pass_ == "fprop" else 0
                plan.run(far.data_ptr(), w.data_ptr(), bias, 0, out.data_ptr(), workspace.data_ptr(), 0)
                assert_far_end(out, expected, layout, (pass_, kernel))


@pytest.mark.parametrize(("dtype", "layout", "math", "case"), CONV, ids=CONV_IDS)
def test_the_last_slices_of_a_huge_sum(driver: Driver, dtype: str, layout: str, math: str, case: ConvCase) -> None:
    """wgrad and the bias gradient: the sum's last slices, as they are left in the workspace."""
    few = replace(case, n=SAMPLES, filter=(1, 1), padding_low=(0, 0), padding_high=(0, 0))
    case = replace(few, n=case.n)
    operands = conv_operands(few, dtype, integers=True)
    sums = torch.float64 if dtype == "float64" else torch.float32
    for pass_ in ("wgrad", "bgrad"):
        expected = conv_oracle(few, pass_, operands.double()).to(sums).reshape(-1)
        with little_memory():
            x, gy = (reserve_tail(each, case.n, layout) for each in (operands.x, operands.gy))
            for kernel in kernels_of(driver, case, pass_, dtype, layout, math=math):
                packs = "packed" in kernel or kernel == "im2col"
                if packs and case.c % 8:
                    continue  # its slices have channels that are not the result's
                _emulator.configure(blocks=BLOCKS if kernel.startswith("depthwise") else 8 if packs else 3)
                plan = driver.conv_plan(case, pass_, dtype, layout, kernel, math=math)
                slices = plan.workspace_bytes // (expected.numel() * sums.itemsize)
                assert slices > BLOCKS, plan.detail
                workspace = reserve(plan.workspace_bytes // sums.itemsize, sums)
                out = torch.zeros(expected.numel(), dtype=DTYPES[dtype])
                a, b = (x, gy) if pass_ == "wgrad" else (gy, None)
                plan.run(a.data_ptr(), 0 if b is None else b.data_ptr(), 0, 0, out.data_ptr(), workspace.data_ptr(), 0)
                found = workspace[-2 * expected.numel() :].view(2, -1).sum(0)  # behind what is packed, if anything is
                # Channels first, a block sums one channel.
                seen = -1 if pass_ == "bgrad" and layout == "nchw" else slice(None)
                assert torch.equal(found[seen], expected[seen]), (pass_, kernel)


def test_a_huge_image_is_read_at_its_far_end(driver: Driver) -> None:
    """One sample, whose rows lie far apart: fprop's and wgrad's x, dgrad's gy."""
    size, stride = 24_000, 23_999
    for dtype, layout, math in (("float16", "nhwc", "ieee"), ("float32", "nchw", "ieee"), ("float32", "nhwc", "tf32")):
        case = conv("corners", 1, 8, 8, (size, size), 1, stride)
        assert case.output == (2, 2) and 8 * size * size > 1 << 32
        operands = conv_operands(replace(case, input=(2, 2), stride=(1, 1)), dtype, integers=True)
        corners = replace(case, input=(2, 2), stride=(1, 1))
        x = reserve(8 * size * size, DTYPES[dtype])
        image = x.view(1, size, size, 8).movedim(-1, 1) if layout == "nhwc" else x.view(1, 8, size, size)
        image[:, :, ::stride, ::stride] = operands.x
        w, gy = dense(operands.w, layout), dense(operands.gy, layout)
        for pass_, b in (("fprop", w), ("wgrad", gy)):
            expected = conv_oracle(corners, pass_, operands.double()).to(DTYPES[dtype])
            for kernel in driver.kernels(case, pass_, dtype, layout, math=math):
                plan = driver.conv_plan(case, pass_, dtype, layout, kernel, math=math, bias=pass_ == "fprop")
                out = dense(torch.full_like(expected, float("nan")), layout)
                bias = operands.bias.data_ptr() if pass_ == "fprop" else 0
                workspace = torch.zeros(plan.workspace_bytes + 4, dtype=torch.uint8)
                plan.run(x.data_ptr(), b.data_ptr(), bias, 0, out.data_ptr(), workspace.data_ptr(), 0)
                assert torch.equal(out, expected), (dtype, layout, pass_, kernel)


def test_the_taps_of_a_window_lie_far_apart(driver: Driver) -> None:
    """More than 2^31 bytes: fprop's in x, dgrad's in gy. Beyond 2^32 no tensor-core kernel counts them."""
    names = {f"igemm_{tile}" for tile in ("64x64", "64x128", "128x128")}
    for pass_ in ("fprop", "dgrad"):
        for reach, accepted in ((1 << 27, True), (1 << 28, False)):  # of 16 bytes each
            pad = reach if pass_ == "dgrad" else 0
            length = reach + 3 if pass_ == "fprop" else 3
            case = conv("ends", 1, 8, 8, (length,), 2, 1, pad, reach)
            kernels = driver.kernels(case, pass_, "float16", "nhwc")
            assert "direct_64x64" in kernels and names & set(kernels) == (names if accepted else set()), (pass_, reach)
            few = conv("ends", 1, 8, 8, (6 if pass_ == "fprop" else 3,), 2, 1, 3 if pass_ == "dgrad" else 0, 3)
            operands = conv_operands(few, "float16", integers=True)
            expected = conv_oracle(few, pass_, operands.double()).half()
            source = reserve(8 * (reach + 3), torch.float16)
            ends = (operands.x if pass_ == "fprop" else operands.gy)[0].T
            source.view(-1, 8)[:3], source.view(-1, 8)[-3:] = ends[:3], ends[-3:]
            w, bias = dense(operands.w, "nhwc"), operands.bias.data_ptr() if pass_ == "fprop" else 0
            for kernel in kernels:
                plan = driver.conv_plan(case, pass_, "float16", "nhwc", kernel, bias=pass_ == "fprop")
                if plan.workspace_bytes > 1 << 20:
                    continue  # packs what is huge
                out = dense(torch.full_like(expected, float("nan")), "nhwc")
                workspace = torch.zeros(plan.workspace_bytes + 4, dtype=torch.uint8)
                plan.run(source.data_ptr(), w.data_ptr(), bias, 0, out.data_ptr(), workspace.data_ptr(), 0)
                assert torch.equal(out, expected), (pass_, kernel)


def test_the_filters_gradient_of_padding_alone(driver: Driver) -> None:
    """dgrad of a small x that sits in the middle of a huge padded gy."""
    pad = 12_000
    for dtype, layout, math in (("float16", "nhwc", "ieee"), ("float32", "nchw", "ieee"), ("float32", "nhwc", "tf32")):
        case = conv("middle", 1, 16, 16, (2, 2), 1, 1, pad)
        p, q = case.output
        assert p * q * 8 > 1 << 32  # half way to the end
        few = conv("few", 1, 16, 16, (2, 2), 1)
        operands = conv_operands(few, dtype, integers=True)
        w, gy = dense(operands.w, layout), reserve(16 * p * q, DTYPES[dtype])
        plane = gy.view(1, p, q, 16).movedim(-1, 1) if layout == "nhwc" else gy.view(1, 16, p, q)
        plane[:, :, pad : pad + 2, pad : pad + 2] = operands.gy
        expected = conv_oracle(few, "dgrad", operands.double()).to(DTYPES[dtype])
        for kernel in driver.kernels(case, "dgrad", dtype, layout, math=math):
            plan = driver.conv_plan(case, "dgrad", dtype, layout, kernel, math=math)
            out = dense(torch.full_like(expected, float("nan")), layout)
            plan.run(gy.data_ptr(), w.data_ptr(), 0, 0, out.data_ptr(), 0, 0)
            assert torch.equal(out, expected), (dtype, layout, kernel)


POOL = [
    pool(f"{kind} {window}x{window}", kind, (1 << 23) + SAMPLES, 8, (8, 8), window, stride, padding)
    for kind in ("max", "average")
    for window, stride, padding in ((2, 2, 0), (3, 1, 1))
]


@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("case", POOL, ids=lambda case: case.name)
def test_pooling_of_a_huge_batch(driver: Driver, case: PoolCase, dtype: str, layout: str) -> None:
    """Every pass and kernel: elements beyond 2^32, offsets and indices too."""
    few = replace(case, n=SAMPLES)
    generator = torch.Generator().manual_seed(0)
    scale = case.window[0] * case.window[1]  # averages are exact, too
    x = (torch.randint(-8, 9, (SAMPLES, 8, *case.input), generator=generator) * scale).to(DTYPES[dtype])
    y, indices = pool_oracle(few, x)
    gy = (torch.randint(-8, 9, y.shape, generator=generator) * scale).to(x.dtype)
    problem = _emulator.PoolProblem(**case.arguments(dtype, layout))
    candidates = _emulator.pool_plan(problem, "fprop").candidates
    kernels = [each.kernel for each in candidates if each.accepted and each.kernel != "aten"]
    extras = case.kind == "max"
    offsets = far_offsets = None
    with little_memory():
        for kernel in kernels:
            plan = _emulator.pool_plan(problem, "fprop", kernel=kernel, offsets=extras, indices=extras)
            far_y = reserve(y[0].numel() * case.n, y.dtype)
            far_indices = reserve(y[0].numel() * case.n if extras else 1, torch.int64)
            far_offsets = reserve(y[0].numel() * case.n if extras else 1, torch.uint8)
            far_x = reserve_tail(x, case.n, layout)
            extra = (far_offsets.data_ptr(), far_indices.data_ptr()) if extras else (0, 0)
            plan.run(far_x.data_ptr(), far_y.data_ptr(), *extra, 0, 0)
            assert_far_end(far_y, y, layout, kernel)
            if extras:
                assert torch.equal(tail_of(far_indices, indices, layout), indices)
                offsets = tail_of(far_offsets, indices, layout).clone()
        expected = backward(few, x, gy)
        plan = _emulator.pool_plan(problem, "dgrad")
        far_gy = reserve_tail(gy, case.n, layout)
        far_gx = reserve(x[0].numel() * case.n, x.dtype)
        plan.run(far_gy.data_ptr(), far_gx.data_ptr(), far_offsets.data_ptr() if extras else 0, 0, 0, 0)
        assert_far_end(far_gx, expected, layout, plan.kernel)
        if extras:
            assert offsets is not None
            plan = _emulator.pool_plan(problem, "gather")
            far_gather = reserve(y[0].numel() * case.n, y.dtype)
            plan.run(far_x.data_ptr(), far_gather.data_ptr(), far_offsets.data_ptr(), 0, 0, 0)
            assert_far_end(far_gather, y, layout, plan.kernel)  # x at the winning taps is y


def backward(case: PoolCase, x: Tensor, gy: Tensor) -> Tensor:
    """gx by torch, in float64."""
    x = x.double().requires_grad_()
    y, _ = pool_oracle(case, x)
    (gx,) = torch.autograd.grad(y, x, gy.double())
    return gx.to(gy.dtype)


def test_these_tests_see_an_offset_of_32_bits(driver: Driver) -> None:
    """Planted: a result put where 32 bits would have put it."""
    last = torch.ones(SAMPLES, 8, 8, 8, dtype=torch.float16)
    flat = reserve_tail(last, (1 << 22) + SAMPLES, "nchw")
    assert_far_end(flat, last, "nchw", "as it should be")
    flat[flat.numel() - last.numel() - (1 << 31)] = 1
    with pytest.raises(AssertionError):
        assert_far_end(flat, last, "nchw", "wrapped")
