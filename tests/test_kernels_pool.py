"""The pooling kernels by themselves: every pass, option, dtype and layout, with ties, infinities and NaNs."""

from __future__ import annotations

import pytest
import torch
from kernel_driver import (
    DTYPES,
    LAYOUTS,
    Driver,
    gpu_driver,  # noqa: F401 (a fixture)
    pool_oracle,
    schedule,  # noqa: F401 (a fixture)
)
from shapes import POOL_DEFAULT, POOL_NETWORK, POOL_RIGOROUS, PoolCase, pool
from torch import Tensor

from fastconv.testing import assert_close_to_float64


def ids(cases: tuple[PoolCase, ...]) -> list[str]:
    return [case.name for case in cases]


def pool_input(case: PoolCase, dtype: str, seed: int = 0) -> Tensor:
    """Random values; for max few different ones, so that there are ties, and some -infinity and NaN."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn((case.n, case.c, *case.input), generator=generator, dtype=torch.float64)
    if case.kind == "max":
        x = (x * 1.5).round()
        x.view(-1)[::17] = float("nan")
        x.view(-1)[3::5] = float("-inf")
    return x.to(DTYPES[dtype])


def tap_to_index(case: PoolCase, output: tuple[int, ...], taps: Tensor) -> Tensor:
    """torch's plane index of tap number ``taps`` of every window: what the offsets must mean."""
    rank = len(case.input)
    index, rest = torch.zeros_like(taps), taps
    weight = 1
    for axis in reversed(range(rank)):
        tap = rest % case.window[axis]
        rest = rest // case.window[axis]
        origin = torch.tensor([case.origin(axis, o) for o in range(output[axis])])
        index += weight * (origin.view([-1 if a == axis else 1 for a in range(rank)]) + tap * case.dilation[axis])
        weight *= case.input[axis]
    return index


def assert_max(driver: Driver, case: PoolCase, dtype: str, offset: int = 0) -> None:
    """Values, indices, offsets, dgrad and gather are exactly torch's."""
    x = pool_input(case, dtype)
    leaf = x.clone().requires_grad_()
    y, indices = pool_oracle(case, leaf)
    # Integers: sums of a few are exact in every dtype, whatever the order.
    gy = torch.randint(-3, 4, y.shape, generator=torch.Generator().manual_seed(1)).to(x.dtype)
    (gx,) = torch.autograd.grad(y, leaf, gy)
    for layout in LAYOUTS:
        for kernel in driver.pool_kernels(case, "fprop", dtype, layout):
            result = driver.pool(case, x, layout, kernel, offset)
            torch.testing.assert_close(result.y.cpu(), y.detach(), rtol=0, atol=0, equal_nan=True)
            assert torch.equal(result.indices.cpu(), indices), kernel
            meant = tap_to_index(case, tuple(y.shape[2:]), result.offsets.cpu().long())
            assert torch.equal(meant, indices), f"{kernel}: offsets"
        for kernel in driver.pool_kernels(case, "dgrad", dtype, layout):
            assert torch.equal(driver.pool_from(case, "dgrad", gy, result.offsets, layout, offset, kernel), gx), kernel
        ggx = torch.randn(x.shape, generator=torch.Generator().manual_seed(2)).to(x.dtype)
        gathered = ggx.flatten(2).gather(2, indices.flatten(2)).view(y.shape)
        assert torch.equal(driver.pool_from(case, "gather", ggx, result.offsets, layout, offset), gathered), layout


def assert_average(driver: Driver, case: PoolCase, dtype: str, offset: int = 0) -> None:
    """At most twice as far from float64 as torch, forward and backward."""
    x = pool_input(case, dtype)

    def both(tensor: Tensor) -> tuple[Tensor, Tensor]:
        leaf = tensor.clone().requires_grad_()
        y, _ = pool_oracle(case, leaf)
        generator = torch.Generator().manual_seed(1)
        gy = torch.randn(y.shape, generator=generator, dtype=torch.float64).to(x.dtype).to(tensor.dtype)
        return y.detach(), torch.autograd.grad(y, leaf, gy)[0]

    (exact, exact_gx), (theirs, theirs_gx) = both(x.double()), both(x)
    gy = torch.randn(exact.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(x.dtype)
    for layout in LAYOUTS:
        for kernel in driver.pool_kernels(case, "fprop", dtype, layout):
            y = driver.pool(case, x, layout, kernel, offset).y.cpu()
            assert_close_to_float64(y, theirs, exact, f"{kernel} {layout}")
        for kernel in driver.pool_kernels(case, "dgrad", dtype, layout):
            gx = driver.pool_from(case, "dgrad", gy, None, layout, offset, kernel)
            assert_close_to_float64(gx, theirs_gx, exact_gx, f"dgrad {kernel} {layout}")


def assert_like_torch(driver: Driver, case: PoolCase, dtype: str, offset: int = 0) -> None:
    (assert_max if case.kind == "max" else assert_average)(driver, case, dtype, offset)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", POOL_DEFAULT, ids=ids(POOL_DEFAULT))
def test_like_torch(driver: Driver, case: PoolCase, dtype: str) -> None:
    assert_like_torch(driver, case, dtype)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", POOL_RIGOROUS + POOL_NETWORK, ids=ids(POOL_RIGOROUS + POOL_NETWORK))
def test_like_torch_rigorous(driver: Driver, case: PoolCase, dtype: str) -> None:
    assert_like_torch(driver, case, dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", ["max", "average"])
def test_misaligned_addresses(driver: Driver, kind: str, dtype: str) -> None:
    """A slice of a bigger buffer starts anywhere: vectors step back to elements."""
    for offset in (1, 4):
        assert_like_torch(driver, pool("aligned", kind, 2, 16, (8, 16), 3, 2, 1), dtype, offset)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_window_without_an_element(driver: Driver, layout: str) -> None:
    """Dilation can carry a window's taps past the input on both sides: -infinity, no tap, no gradient, gather 0."""
    case = pool("astride", "max", 1, 8, (4, 3), (2, 1), 1, (1, 0), (5, 1))
    x = torch.randn(1, 8, 4, 3)
    for kernel in driver.pool_kernels(case, "fprop", "float32", layout):
        result = driver.pool(case, x, layout, kernel)
        assert (result.y.cpu() == float("-inf")).all() and (result.offsets.cpu() == 255).all()
    for kernel in driver.pool_kernels(case, "dgrad", "float32", layout):
        gy = torch.ones(result.y.shape)
        assert not driver.pool_from(case, "dgrad", gy, result.offsets, layout, kernel=kernel).any()
    assert not driver.pool_from(case, "gather", x, result.offsets, layout).any()


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("kind", ["max", "average"])
def test_a_sample_does_not_depend_on_its_batch(driver: Driver, kind: str, layout: str) -> None:
    for window, stride, padding in ((3, 2, 1), ((9, 8), 1, 0)):
        many, one = (pool("batch", kind, n, 8, (9, 8), window, stride, padding) for n in (5, 1))
        x = torch.randn(5, 8, 9, 8)
        for kernel in ("", *driver.pool_kernels(many, "fprop", "float32", layout)):
            together = driver.pool(many, x, layout, kernel).y.cpu()
            for i in range(5):
                assert torch.equal(driver.pool(one, x[i : i + 1], layout, kernel).y.cpu(), together[i : i + 1])


@pytest.mark.parametrize("case", [c for c in POOL_DEFAULT if c.kind == "average"], ids=lambda case: case.name)
def test_average_is_adjoint(driver: Driver, case: PoolCase) -> None:
    """<pool(x), g> = <x, dgrad(g)> in float64."""
    x = pool_input(case, "float64")
    for layout in LAYOUTS:
        y = driver.pool(case, x, layout).y.cpu()
        gy = torch.randn(y.shape, dtype=torch.float64)
        gx = driver.pool_from(case, "dgrad", gy, None, layout)
        assert abs((y * gy).sum() - (x * gx).sum()) < 1e-13 * ((y * gy).abs().sum() + 1)


def test_tiles_of_a_large_plane(driver: Driver) -> None:
    """Planes that do not fit shared memory are cut: in rows, in columns, in slices."""
    for case in (
        pool("rows", "max", 1, 1, (301, 96), 3, 2, 1),
        pool("columns", "max", 1, 1, (5, 19000), (3, 2), (1, 3), (1, 0)),
        pool("slices", "max", 1, 1, (40, 30, 30), 3, 2, 1),
    ):
        plan = driver.pool_plan(case, "fprop", "float32", "nchw", "pool_staged")
        assert " of 1 planes" in plan.detail and "grid 1," not in plan.detail, plan.detail
        assert_max(driver, case, "float32")
    assert_average(driver, pool("rows", "average", 1, 1, (301, 96), 3, 2, 1), "float32")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_stretches_and_segments(driver: Driver, dtype: str) -> None:
    """Channels last, planes are cut in columns and rows, and pixels of many channels in chunks."""
    for kind in ("max", "average"):
        case = pool("wide", kind, 1, 104, (67, 170), 3, 2, 1)
        for pass_ in ("fprop", "dgrad"):
            plan = driver.pool_plan(case, pass_, dtype, "nhwc", "pool_march")
            whole = 85 if pass_ == "fprop" else 170
            assert f"stretches of {whole} " not in plan.detail, plan.detail
        assert_like_torch(driver, case, dtype)
        assert_like_torch(driver, pool("tall", kind, 1, 16, (230, 9), (5, 3), (1, 2), (2, 1)), dtype)


def test_refusals_say_why(driver: Driver) -> None:
    def reasons(case: PoolCase, pass_: str, layout: str) -> dict[str, str]:
        plan = driver.module.pool_plan(driver.module.PoolProblem(**case.arguments("float32", layout)), pass_)
        return {c.kernel: c.reason for c in plan.candidates if not c.accepted}

    small, wide = pool("small", "max", 1, 2, (4, 4), 2), pool("wide", "max", 1, 1, (400, 400), 200)
    assert set(reasons(small, "fprop", "nchw")) == {"pool_march", "pool_global", "unpool"}
    assert "channels first" in reasons(small, "fprop", "nhwc")["pool_staged"]
    assert reasons(small, "fprop", "nhwc")["pool_march"] == "needs channels in multiples of 4"
    assert "the whole plane" in reasons(small, "fprop", "nchw")["pool_global"]
    assert reasons(small, "dgrad", "nchw")["pool_global"] == "computes fprop, not dgrad"
    assert "bytes of shared memory" in reasons(wide, "fprop", "nchw")["pool_staged"]
    assert "255 taps" in reasons(pool("row", "max", 1, 1, (1, 600), (1, 300)), "fprop", "nchw")["pool_staged"]
    average = pool("average", "average", 1, 2, (4, 4), 2)
    assert reasons(average, "gather", "nhwc")["pool_direct"] == "the gather belongs to max pooling"


@pytest.mark.usefixtures("schedule")
def test_every_schedule(driver: Driver) -> None:
    """No result depends on the order of threads and blocks, and nobody races."""
    for kind in ("max", "average"):
        assert_like_torch(driver, pool("ragged", kind, 2, 8, (11, 10), 3, 2, 1, ceil_mode=True), "float32")
