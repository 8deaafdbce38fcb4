"""The native CPU pooling kernels, through the `_cpu` module: every entry of the table, forced by name."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from cpu_driver import DTYPES, run_pool, torch_pool
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from shapes import POOL_SUITES, PoolCase, pool

from fastconv import _cpu
from fastconv.testing import assert_close_to_float64

NATIVE = [name for name, _ in _cpu.pool_kernels() if name != "aten"]
CASES = {case.name: case for suite in POOL_SUITES.values() for case in suite}


def accepts(kernel: str, case: PoolCase, pass_: str, dtype: str, layout: str) -> bool:
    plan = _cpu.pool_plan(_cpu.PoolProblem(**case.arguments(dtype, layout)), pass_, threads=1)
    return next(c.accepted for c in plan.candidates if c.kernel == kernel)


def sample(case: PoolCase, kind: str, dtype: torch.dtype) -> torch.Tensor:
    """`normal` numbers; `ties`: few distinct integers; `special`: NaN, infinities and ties."""
    generator = torch.Generator().manual_seed(len(case.name))
    shape = (case.n, case.c, *case.input)
    if kind == "normal":
        return torch.randn(shape, generator=generator).to(dtype)
    if kind == "ties":
        return torch.randint(-1, 2, shape, generator=generator).to(dtype)
    values = torch.tensor([float("nan"), float("-inf"), float("inf"), 0.0, 1.0, -float("inf")])
    return values[torch.randint(0, len(values), shape, generator=generator)].to(dtype)


def taps_to_indices(case: PoolCase, offsets: torch.Tensor) -> torch.Tensor:
    """Window taps -> torch's flat plane indices, by the definition of both."""
    rank = len(case.input)
    taps = offsets.long()
    flat, size = torch.zeros_like(taps), 1
    for axis in reversed(range(rank)):
        origin = torch.tensor([case.origin(axis, o) for o in range(taps.shape[2 + axis])])
        source = origin.view([-1 if i == axis else 1 for i in range(rank)])
        source = source + taps % case.window[axis] * case.dilation[axis]
        flat, taps, size = flat + source * size, taps // case.window[axis], size * case.input[axis]
    return flat


def check_max(case: PoolCase, layout: str, dtype: str, kind: str) -> None:
    x = sample(case, kind, DTYPES[dtype])
    expected, where = torch_pool(case, x)
    gradient = torch.randint(-3, 4, expected.shape).to(x.dtype)
    for kernel in NATIVE:
        what = f"{kernel} {layout} {dtype} {kind} {case.name}"
        if not accepts(kernel, case, "fprop", dtype, layout):
            continue
        y, offsets, indices = run_pool(
            case, "fprop", x, layout=layout, kernel=kernel, want_offsets=True, want_indices=True
        )
        assert torch.equal(y.nan_to_num(12345), expected.nan_to_num(12345)), what
        taps = 1
        for size in case.window:
            taps *= size
        none = offsets == (255 if offsets.dtype == torch.uint8 else -1)
        assert torch.equal(none, indices == -1), what
        assert torch.equal(indices[~none], where[~none]), what
        assert torch.equal(taps_to_indices(case, offsets)[~none], where[~none]), what
        assert bool((y[none] == -float("inf")).all()), what
        plain, _, _ = run_pool(case, "fprop", x, layout=layout, kernel=kernel)
        assert torch.equal(plain.nan_to_num(12345), y.nan_to_num(12345)), what
        if not accepts(kernel, case, "dgrad", dtype, layout):
            continue
        gx, _, _ = run_pool(case, "dgrad", gradient, offsets, layout=layout, kernel=kernel)
        planes = torch.zeros(*x.shape[:2], x[0, 0].numel(), dtype=torch.float64)
        planes.scatter_add_(
            2, where.flatten(2).clamp(min=0, max=planes.shape[2] - 1), (gradient.double() * ~none).flatten(2)
        )
        assert torch.equal(gx.double(), planes.view(x.shape)), what
        if not accepts(kernel, case, "gather", dtype, layout):
            continue
        ggx = torch.randn(x.shape).to(x.dtype)
        ggy, _, _ = run_pool(case, "gather", ggx, offsets, layout=layout, kernel=kernel)
        picked = ggx.flatten(2).gather(2, where.flatten(2).clamp(min=0, max=planes.shape[2] - 1)).view(ggy.shape)
        assert torch.equal(ggy, picked.masked_fill(none, 0)), what


def check_average(case: PoolCase, layout: str, dtype: str) -> None:
    if len(case.input) == 1:
        case = replace(case, divisor_override=None)
    x = sample(case, "normal", DTYPES[dtype]).requires_grad_()
    deep = x.detach().double().requires_grad_()
    exact, rival = torch_pool(case, deep), torch_pool(case, x)
    gy = torch.randn(exact.shape).to(x.dtype)
    (exact_gx,) = torch.autograd.grad(exact, deep, gy.double())
    (rival_gx,) = torch.autograd.grad(rival, x, gy)
    for kernel in NATIVE:
        what = f"{kernel} {layout} {dtype} {case.name}"
        if accepts(kernel, case, "fprop", dtype, layout):
            y, _, _ = run_pool(case, "fprop", x.detach(), layout=layout, kernel=kernel)
            assert_close_to_float64(y, rival.detach(), exact.detach(), what)
        if accepts(kernel, case, "dgrad", dtype, layout):
            gx, _, _ = run_pool(case, "dgrad", gy, layout=layout, kernel=kernel)
            assert_close_to_float64(gx, rival_gx, exact_gx, what + " dgrad")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
@pytest.mark.parametrize("suite", POOL_SUITES)
def test_pooling_is_torchs(suite: str, layout: str, dtype: str) -> None:
    for case in POOL_SUITES[suite]:
        if case.kind == "max":
            for kind in ("normal", "ties", "special"):
                check_max(case, layout, dtype, kind)
        else:
            check_average(case, layout, dtype)


@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
def test_windows_beside_the_input_have_no_winner(layout: str) -> None:
    for dilation in ((3, 3), (3, 1), (1, 3)):
        size = tuple(2 if each == 3 else 9 for each in dilation)
        check_max(pool("beside", "max", 2, 9, size, 2, 1, 1, dilation), layout, "float32", "special")


@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
def test_bits_do_not_depend_on_threads_or_batch(layout: str) -> None:
    case = pool("many", "average", 5, 24, (33, 35), 3, 2, 1)
    alone = replace(case, n=1)
    for kind in ("average", "max"):
        case, alone = replace(case, kind=kind), replace(alone, kind=kind)
        x = sample(case, "normal", torch.float32)
        want = kind == "max"
        for kernel in NATIVE:
            if not accepts(kernel, case, "fprop", "float32", layout):
                continue
            y, offsets, _ = run_pool(case, "fprop", x, layout=layout, kernel=kernel, threads=1, want_offsets=want)
            for threads in (2, 3):
                again, _, _ = run_pool(case, "fprop", x, layout=layout, kernel=kernel, threads=threads)
                assert torch.equal(y, again)
            single, _, _ = run_pool(alone, "fprop", x[2:3], layout=layout, kernel=kernel)
            assert torch.equal(y[2:3], single)
            gx, _, _ = run_pool(case, "dgrad", y, offsets, layout=layout, kernel=kernel, threads=1)
            other, _, _ = run_pool(case, "dgrad", y, offsets, layout=layout, kernel=kernel, threads=3)
            few = None if offsets is None else offsets[2:3]
            single, _, _ = run_pool(alone, "dgrad", y[2:3], few, layout=layout, kernel=kernel)
            assert torch.equal(gx, other) and torch.equal(gx[2:3], single)


@st.composite
def random_pools(draw: st.DrawFn) -> PoolCase:
    rank = draw(st.integers(1, 3))
    window = tuple(draw(st.integers(1, 5)) for _ in range(rank))
    kind = draw(st.sampled_from(["max", "average"]))
    dilation = tuple(draw(st.integers(1, 3)) if kind == "max" else 1 for _ in range(rank))
    padding = tuple(draw(st.integers(0, (d * (size - 1) + 1) // 2)) for size, d in zip(window, dilation, strict=True))
    if any(p > size // 2 for p, size in zip(padding, window, strict=True)):
        padding = tuple(min(p, size // 2) for p, size in zip(padding, window, strict=True))
    return pool(
        "fuzz", kind, draw(st.integers(1, 2)), draw(st.integers(1, 19) | st.sampled_from([32, 37])),
        tuple(draw(st.integers(d * (size - 1) + 1, d * (size - 1) + (40, 14, 5)[rank - 1]))
              for size, d in zip(window, dilation, strict=True)),
        window, tuple(draw(st.integers(1, 4)) for _ in range(rank)), padding, dilation, draw(st.booleans()),
        draw(st.booleans()), draw(st.sampled_from([None, None, 3])),
    )  # fmt: skip


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    random_pools(),
    st.sampled_from(["nchw", "nhwc"]),
    st.sampled_from(list(DTYPES)),
    st.sampled_from(["normal", "ties", "special"]),
)
def test_fuzz(case: PoolCase, layout: str, dtype: str, kind: str) -> None:
    if case.kind == "max":
        check_max(replace(case, divisor_override=None), layout, dtype, kind)
    else:
        check_average(case, layout, dtype)


@pytest.mark.parametrize(("layout", "channels", "window"), [("nchw", 69, 3), ("nhwc", 80, 3), ("nhwc", 80, 4)])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_results_beyond_the_caches(dtype: str, layout: str, channels: int, window: int) -> None:
    """More than 8 MiB of gx is written past them, by lines: odd planes start in the middle of one."""
    case = pool("streamed", "max", 1, channels, (251, 253), window, 2, window // 2)
    check_max(case, layout, dtype, "ties")
    if window == 3:
        check_average(replace(case, kind="average"), layout, dtype)


@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
def test_planes_too_large_to_scatter_in_cache_are_refused(layout: str) -> None:
    case = pool("large", "max", 1, 16, (1000, 1000), 5, 1, 2)
    plan = _cpu.pool_plan(_cpu.PoolProblem(**case.arguments("float32", layout)), "dgrad", threads=1)
    refusal = next(c.reason for c in plan.candidates if c.kernel == "vector")
    assert "too large to scatter in cache" in refusal and plan.kernel == "direct"
