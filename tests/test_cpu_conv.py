"""The native CPU convolution kernels, through the `_cpu` module: every entry of the table, forced by name."""

from __future__ import annotations

from dataclasses import replace

import oracle
import pytest
import torch
from cpu_driver import DTYPES, conv_shapes, run_conv, torch_conv
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from shapes import CONV_RIGOROUS, CONV_SUITES, ConvCase, conv

from fastconv import _cpu
from fastconv.testing import assert_close_to_float64

NATIVE = [name for name, _ in _cpu.conv_kernels() if name != "aten"]
PASSES = ("fprop", "dgrad", "wgrad", "bgrad")
CASES = {case.name: case for suite in CONV_SUITES.values() for case in suite}


def accepts(kernel: str, case: ConvCase, pass_: str, dtype: str, layout: str) -> bool:
    problem = _cpu.ConvProblem(**case.arguments(dtype, layout))
    table = _cpu.conv_plan(problem, pass_, threads=1).candidates
    return next(c.accepted for c in table if c.kernel == kernel)


def operands(case: ConvCase, dtype: torch.dtype, *, integers: bool = False) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(len(case.name) + case.n)

    def make(shape: tuple[int, ...]) -> torch.Tensor:
        if integers:
            return torch.randint(-2, 3, shape, generator=generator).to(dtype)
        return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)

    return {name: make(shape) for name, shape in conv_shapes(case).items()}


def inputs(pass_: str, t: dict[str, torch.Tensor]) -> tuple[torch.Tensor | None, ...]:
    return {
        "fprop": (t["x"], t["w"], t["b"]),
        "dgrad": (t["y"], t["w"], None),
        "wgrad": (t["x"], t["y"], None),
        "bgrad": (t["y"], None, None),
    }[pass_]


def check(case: ConvCase, layout: str, dtype: str, *, integers: bool) -> int:
    """Every native entry that accepts, every pass; returns how many were run."""
    t = operands(case, DTYPES[dtype], integers=integers)
    exact = {
        "fprop": oracle.fprop(case, t["x"], t["w"], t["b"]),
        "dgrad": oracle.dgrad(case, t["y"], t["w"]),
        "wgrad": oracle.wgrad(case, t["x"], t["y"]),
        "bgrad": oracle.bgrad(t["y"]),
    }
    rival = torch_conv(case, t["x"], t["w"], t["b"], t["y"])
    runs = 0
    for kernel in NATIVE:
        for pass_ in PASSES:
            if not accepts(kernel, case, pass_, dtype, layout):
                continue
            got = run_conv(case, pass_, *inputs(pass_, t), layout=layout, kernel=kernel)
            what = f"{kernel} {pass_} {layout} {dtype} {case.name}"
            if integers:
                assert torch.equal(got.double(), exact[pass_]), f"{what}: not exact on small integers"
            else:
                assert_close_to_float64(got, rival[pass_], exact[pass_], what)
            runs += 1
    return runs


@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
@pytest.mark.parametrize("name", CASES)
def test_small_integers_are_exact(name: str, layout: str) -> None:
    assert check(CASES[name], layout, "float32", integers=True) >= len(PASSES)


@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
@pytest.mark.parametrize("name", CASES)
def test_dgrad_adds_a_bias(name: str, layout: str) -> None:
    """What a transposed convolution is: every entry adds one number to each channel of gx."""
    case, dtype = CASES[name], torch.float32
    t, bias = operands(case, dtype, integers=True), torch.arange(1.0, CASES[name].c + 1)
    exact = oracle.dgrad(case, t["y"], t["w"]) + bias.double().view(-1, *[1] * len(case.input))
    for kernel in NATIVE:
        if accepts(kernel, case, "dgrad", "float32", layout):
            got = run_conv(case, "dgrad", t["y"], t["w"], bias, layout=layout, kernel=kernel)
            assert torch.equal(got.double(), exact), kernel


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
@pytest.mark.parametrize("suite", CONV_SUITES)
def test_error_is_at_most_twice_torchs(suite: str, layout: str, dtype: str) -> None:
    for case in CONV_SUITES[suite]:
        check(case, layout, dtype, integers=False)


# Groups of four and of eight channels, which the interleaved kernels have in one vector: rows of every length up to two
# tiles, the last block of channels not full.
SMALL_GROUPS = tuple(
    conv(f"{groups} groups of {each}, {size} by {filter} / {stride}", 2, groups * each, groups * each, size, filter,
         stride, padding, dilation, groups)
    for each in (4, 8)
    for groups, size, filter, stride, padding, dilation in (
        (5, (9, 17), 3, 1, 1, 1), (3, (5, 7), 3, 1, 1, 1), (1, (7, 13), 3, 1, 0, 1), (4, (1, 1), 1, 1, 0, 1),
        (2, (4, 3), 3, 1, 1, 1), (3, (14, 15), 3, 2, 1, 1), (2, (6, 9), (2, 3), (1, 2), ((1, 0), (0, 1)), 1),
        (3, (10, 12), 5, 1, 2, 1), (2, (13, 11), 3, 1, 2, 2), (1, (11, 10), 3, 3, 1, 1),
    )
)  # fmt: skip


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
def test_small_groups(layout: str, dtype: str) -> None:
    for case in SMALL_GROUPS:
        if case.c // case.groups * max(4, DTYPES[dtype].itemsize) <= 16:  # bytes of the shortest vector there is
            assert all(accepts("interleaved", case, pass_, dtype, layout) for pass_ in PASSES[:3])
        check(case, layout, dtype, integers=dtype != "bfloat16")
        check(case, layout, dtype, integers=False)


# 3x3 on rows where they lie (csrc/cpu/rows.h): every number of rows left over, last vectors that overlap the one before
# by all but one lane and by none, and planes of several bands.
IN_PLACE = tuple(
    conv(f"{c} to {k} channels of {size}", n, c, k, size, 3, 1, 1, 1, c)
    for n, c, k, size in (
        (2, 3, 3, (1, 17)), (1, 5, 5, (2, 18)), (2, 2, 4, (3, 33)), (1, 4, 4, (4, 24)), (1, 3, 3, (5, 47)),
        (1, 2, 2, (6, 32)), (1, 1, 2, (75, 21)), (3, 2, 2, (51, 64)), (1, 2, 2, (14, 90)),
    )
)  # fmt: skip


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_rows_in_place(dtype: str) -> None:
    for case in IN_PLACE:
        plan = _cpu.conv_plan(_cpu.ConvProblem(**case.arguments(dtype, "nchw")), "fprop", kernel="depthwise")
        assert "in place" in plan.detail, plan.detail
        check(case, "nchw", dtype, integers=True)
        check(case, "nchw", dtype, integers=False)


# NHWC pixel kernels (csrc/cpu/kernels/pixels.h): several chunks of channels, the last vector overlapping the one
# before; tiles of every length up to two whole ones, at either border and, in the row of three, at both.
PIXELS = tuple(
    conv(f"{c} channels of {size} by {filter} / {stride}", n, c, c, size, filter, stride, padding, dilation, c)
    for c, n, size, filter, stride, padding, dilation in (
        (1045, 2, (5, 19), 3, 1, 1, 1), (1045, 1, (7, 3), 5, 1, 2, 1), (531, 1, (9, 33), 3, 2, 1, 1),
        (531, 2, (8, 18), 5, 2, 2, 1), (523, 1, (9, 10), 7, 1, 3, 1), (523, 2, (11, 13), 3, 1, 2, 2),
        *((19, 2, (4, width), filter, stride, filter // 2, 1)
          for width in range(1, 18) for filter, stride in ((3, 1), (3, 2), (5, 2), (7, 1))),
    )
)  # fmt: skip


@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16"])
def test_pixels(dtype: str) -> None:
    for case in PIXELS:
        assert all(accepts("depthwise", case, pass_, dtype, "nhwc") for pass_ in PASSES[:3])
        check(case, "nhwc", dtype, integers=dtype != "bfloat16")
        check(case, "nhwc", dtype, integers=False)


# Results of more than 8 MiB, which go past the caches. NCHW: rows where they lie. NHWC: in one run, where lines
# straddle tiles, and in runs of a chunk; of both phases of dgrad at a stride of two, and of each alone.
STREAMED = (
    ("nchw", conv("rows", 2, 32, 32, (187, 189), 3, 1, 1, 1, 32)),
    ("nhwc", conv("one run", 1, 20, 20, (331, 325), 3, 1, 1, 1, 20)),
    ("nhwc", conv("chunks", 1, 1056, 1056, (45, 47), 3, 1, 1, 1, 1056)),
    ("nhwc", conv("pairs", 1, 80, 80, (165, 167), 3, 2, 1, 1, 80)),
    ("nhwc", conv("phases", 1, 80, 80, (165, 167), 3, 2, 0, 1, 80)),
)


@pytest.mark.parametrize(("layout", "case"), STREAMED, ids=lambda each: getattr(each, "name", each))
def test_results_past_the_caches(layout: str, case: ConvCase) -> None:
    t = operands(case, torch.float32, integers=True)
    for pass_, exact in (
        ("fprop", oracle.fprop(case, t["x"], t["w"], t["b"])),
        ("dgrad", oracle.dgrad(case, t["y"], t["w"])),
    ):
        got = run_conv(case, pass_, *inputs(pass_, t), layout=layout, kernel="depthwise")
        assert torch.equal(got.double(), exact), pass_


# Filters larger than the plane or almost: most taps lie on padding, and all of those of some outputs.
MOSTLY_PADDING = tuple(
    conv(f"{filter} on {size}, padding {padding}", 2, 19, 19, size, filter, 1, padding, dilation, 19)
    for size, filter, padding, dilation in (
        ((7, 7), 13, 6, 1), ((9, 14), 27, 13, 1), ((8, 9), 5, 6, 1), ((12, 10), (31, 3), (15, 1), 1),
        ((10, 12), (3, 25), (1, 12), 1), ((9, 9), (5, 3), (8, 1), (4, 1)), ((3, 30), 15, 7, 1),
    )
)  # fmt: skip


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
def test_filters_mostly_on_padding(layout: str, dtype: str) -> None:
    for case in MOSTLY_PADDING:
        assert all(accepts("interleaved", case, pass_, dtype, layout) for pass_ in PASSES[:3])
        check(case, layout, dtype, integers=dtype == "float32")
        check(case, layout, dtype, integers=False)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
def test_bits_do_not_depend_on_the_thread_count(layout: str, dtype: str) -> None:
    for case in (
        conv("depthwise", 3, 48, 48, (33, 35), 3, 1, 1, 1, 48),
        conv("depthwise stride 2", 3, 40, 40, (33, 35), 5, 2, 2, 1, 40),
        conv("few planes", 1, 3, 3, (77, 35), 3, 1, 1, 1, 3),
        conv("dense", 3, 16, 24, (28, 30), 3, 1, 1),
        conv("groups of four", 3, 40, 40, (28, 30), 3, 1, 1, 1, 10),
    ):
        t = operands(case, DTYPES[dtype])
        for kernel in NATIVE:
            for pass_ in PASSES:
                if accepts(kernel, case, pass_, dtype, layout):
                    one, two, three = (
                        run_conv(case, pass_, *inputs(pass_, t), layout=layout, kernel=kernel, threads=threads)
                        for threads in (1, 2, 3)
                    )
                    assert torch.equal(one, two) and torch.equal(one, three), (kernel, pass_, case.name)


@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
@pytest.mark.parametrize("stride", [1, 2])
def test_an_infinity_reaches_only_what_sees_it(stride: int, layout: str) -> None:
    """Vectors may not run over the end of a row, nor blocks over a border, by multiplying with zeros."""
    for groups, channels in ((9, 9), (3, 12)):
        for padding, of_y in ((0, ((0, 1, 0, 3), (1, 5, 2, -1))), (1, ((0, 1, 1, 3), (1, 5, 2, -2)))):
            case = conv("infinity", 2, channels, channels, (12, 21), 3, stride, padding, 1, groups)
            check_infinities(case, layout, of_y)


def check_infinities(case: ConvCase, layout: str, of_y: tuple[tuple[int, ...], ...]) -> None:
    """`of_y`: where all taps are inside, for torch multiplies gy with the zeros of padding too."""
    t = operands(case, torch.float32)
    for name, at in (("x", (0, 2, 4, 20)), ("x", (1, 8, 11, 9)), ("x", (0, 6, 5, 0)), *(("y", at) for at in of_y)):
        t[name][at] = float("inf")
    exact = torch_conv(case, *(t[name].double() for name in "xwby"))
    for kernel in NATIVE:
        for pass_ in PASSES:
            if accepts(kernel, case, pass_, "float32", layout):
                got = run_conv(case, pass_, *inputs(pass_, t), layout=layout, kernel=kernel)
                assert torch.equal(got.isfinite(), exact[pass_].isfinite()), (kernel, pass_)


@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
@pytest.mark.parametrize("pass_", ["fprop", "dgrad"])
def test_a_sample_does_not_depend_on_its_batch(pass_: str, layout: str) -> None:
    for case in CONV_RIGOROUS[:21]:
        many, alone = replace(case, n=5), replace(case, n=1)
        a, w, bias = inputs(pass_, operands(many, torch.float32))
        for kernel in NATIVE:
            if accepts(kernel, many, pass_, "float32", layout):
                batch = run_conv(many, pass_, a, w, bias, layout=layout, kernel=kernel)
                single = run_conv(alone, pass_, a[3:4], w, bias, layout=layout, kernel=kernel)
                assert torch.equal(batch[3:4], single), (kernel, case.name)


@st.composite
def random_cases(draw: st.DrawFn) -> ConvCase:
    rank = draw(st.integers(1, 3))
    axes = lambda low, high: tuple(draw(st.integers(low, high)) for _ in range(rank))  # noqa: E731
    groups = draw(st.integers(1, 4))
    return conv(
        "fuzz",
        draw(st.integers(1, 3)),
        groups * draw(st.integers(1, 9)),
        groups * draw(st.integers(1, 9)),
        axes(1, 40 if rank == 1 else 13 if rank == 2 else 6),
        axes(1, 5),
        axes(1, 4),
        tuple(zip(axes(0, 4), axes(0, 4), strict=True)),
        axes(1, 3),
        groups,
    )


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(random_cases(), st.sampled_from(["nchw", "nhwc"]), st.sampled_from(list(DTYPES)), st.booleans())
def test_fuzz(case: ConvCase, layout: str, dtype: str, depthwise: bool) -> None:
    if depthwise:
        case = replace(case, k=case.c * 2, groups=case.c)
    assume(all(size > 0 for size in case.output))
    check(case, layout, "float32", integers=True)
    check(case, layout, dtype, integers=False)
