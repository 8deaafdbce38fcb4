"""The tiled depthwise kernels by themselves: every geometry, cut and schedule."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from kernel_driver import (
    DTYPES,
    LAYOUTS,
    ConvOperands,
    Driver,
    blocks_of_a_sample,
    conv_exactly,
    conv_operands,
    conv_oracle,
    found,
    gpu_driver,  # noqa: F401 (a fixture)
    schedule,  # noqa: F401 (a fixture)
)
from shapes import ConvCase, conv, depthwise, several

from fastconv.testing import assert_close_to_float64

KERNEL = "depthwise_tiled"
GATHERS = ("fprop", "dgrad")
PASSES = (*GATHERS, "wgrad")
FLOATS = ("float32", "float16", "bfloat16")


CASES = (
    depthwise("one element", 1, 1, (1, 1), 1),
    depthwise("3x3", 2, 7, (9, 8), 3, 1, 1),
    depthwise("3x3 stride 2", 3, 33, (13, 11), 3, 2, 1),
    depthwise("5x5", 1, 31, (14, 14), 5, 1, 2),
    depthwise("5x5 stride 2", 2, 8, (7, 7), 5, 2, 2),
    depthwise("7x7", 1, 6, (15, 14), 7, 1, 3),
    depthwise("7x7 stride 2", 2, 9, (17, 13), 7, 2, 3),
    depthwise("rows in words", 2, 5, (9, 14), 3, 1, 1),
    depthwise("rows in vectors", 2, 3, (8, 16), 3, 1, 1),
    depthwise("more planes than a block's", 37, 2, (3, 2), 3, 1, 1),
    depthwise("odd planes, whole warps of them", 9, 501, (3, 3), 3, 1, 1),
    depthwise("channels beyond a block's", 1, 130, (5, 5), 3, 1, 1),
    depthwise("tall column", 1, 3, (61, 1), (5, 1), (2, 1), (1, 0)),
    depthwise("wide row", 1, 4, (1, 67), (1, 5), 1, (0, 2)),
    depthwise("dilation 2", 2, 5, (13, 11), 3, 1, 2, 2),
    depthwise("dilation 3, stride 2", 1, 4, (17, 16), 3, 2, 3, 3),
    depthwise("dilation 2, stride 2", 2, 3, (12, 13), 5, 2, 4, 2),
    depthwise("dilation beyond the input", 2, 9, (5, 6), 3, 1, 9, 9),
    depthwise("strides differ", 1, 6, (11, 12), 3, (1, 2), 1),
    depthwise("strides differ, the other way", 1, 6, (11, 12), (5, 3), (2, 1), (2, 1)),
    depthwise("stride 3 along the width", 2, 5, (6, 17), 3, (1, 3), 1),
    depthwise("everything asymmetric", 1, 130, (5, 5), (3, 2), (2, 1), ((1, 0), (0, 2)), (1, 2)),
    depthwise("padding beyond the filter", 1, 2, (4, 5), 2, 1, 3),
    depthwise("even filter", 2, 4, (9, 10), 4, 1, ((1, 2), (1, 2))),
    depthwise("13x1, dilated", 1, 4, (31, 5), (13, 1), 1, (12, 0), (2, 1)),
    depthwise("11x11", 1, 3, (12, 9), 11, 1, 5),
    depthwise("one position of stride 5", 2, 3, (4, 3), 3, 5, 0),
    depthwise("phases without taps", 1, 5, (9, 7), 1, 2, 0),
    depthwise("line", 2, 5, (33,), 5, 2, 2, 2),
    depthwise("volume", 1, 3, (4, 5, 6), 3, 1, 1),
    depthwise("volume of stride 2", 1, 4, (5, 6, 7), (3, 3, 5), 2, (1, 1, 2)),
)


SEVERAL = (
    several(2, depthwise("3x3", 2, 7, (9, 8), 3, 1, 1)),
    several(3, depthwise("3x3 stride 2", 3, 33, (13, 11), 3, 2, 1)),
    several(4, depthwise("5x5", 1, 5, (14, 14), 5, 1, 2)),
    several(2, depthwise("7x7 stride 2", 2, 9, (17, 13), 7, 2, 3)),
    several(8, depthwise("whole rows in vectors", 2, 3, (8, 16), 3, 1, 1)),
    several(2, depthwise("more planes than a block's", 37, 2, (3, 2), 3, 1, 1)),
    several(2, depthwise("channels beyond a block's", 1, 130, (5, 5), 3, 1, 1)),
    several(5, depthwise("dilated", 2, 6, (13, 11), 3, 1, 2, 2)),
    several(32, depthwise("one channel", 2, 1, (9, 9), 5, 1, 2)),
    several(3, depthwise("line", 2, 5, (33,), 5, 2, 2)),
    several(2, depthwise("volume", 1, 3, (4, 5, 6), 3, 2, 1)),
    several(2, depthwise("filter beyond a block's", 2, 3, (12, 13), 9, 1, 4)),
)


def ids(cases: tuple[ConvCase, ...]) -> list[str]:
    return [case.name for case in cases]


def assert_exact(driver: Driver, case: ConvCase, dtype: str) -> None:
    """Small integers, aligned or not: the exact result, by this kernel."""
    operands = conv_operands(case, dtype, integers=True)
    for pass_ in PASSES:
        exact = conv_oracle(case, pass_, operands.double()).to(DTYPES[dtype])
        for layout in LAYOUTS:
            if KERNEL not in driver.kernels(case, pass_, dtype, layout):
                assert "strides of 1 and 2" in refusal(driver, case, pass_, dtype, layout)
                continue
            # wgrad: in slices, and in one.
            for offset, limit in ((0, -1), (1, -1), (0, 0)) if pass_ == "wgrad" else ((0, -1), (1, -1)):
                result = driver.conv(case, pass_, operands, layout, KERNEL, offset, workspace_limit=limit)
                assert torch.equal(result, exact), (pass_, layout, offset, limit)


def refusal(driver: Driver, case: ConvCase, pass_: str, dtype: str, layout: str) -> str:
    problem = driver.module.ConvProblem(**case.arguments(dtype, layout))
    found = driver.module.conv_plan(problem, pass_).candidates
    return next(each.reason for each in found if each.kernel == KERNEL)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("case", CASES, ids=ids(CASES))
def test_integers_are_exact(driver: Driver, case: ConvCase, dtype: str) -> None:
    assert_exact(driver, case, dtype)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("case", SEVERAL, ids=ids(SEVERAL))
def test_several_filters_a_channel_are_exact(driver: Driver, case: ConvCase, dtype: str) -> None:
    assert_exact(driver, case, dtype)


@pytest.mark.parametrize("channels", [*range(1, 10), 31, 33, 130])
def test_any_number_of_channels(driver: Driver, channels: int) -> None:
    for stride in (1, 2):
        assert_exact(driver, depthwise("channels", 3, channels, (7, 5), 3, stride, 1), "float16")


@pytest.mark.slow
@pytest.mark.parametrize("dilation", [1, 2, 3, 7])
@pytest.mark.parametrize("stride", [1, 2, (1, 2), (2, 1)])
@pytest.mark.parametrize("filter", [3, 5, 7, (3, 5), (1, 4)])
def test_every_geometry(driver: Driver, filter: int, stride: int, dilation: int) -> None:
    for size in ((13, 17), (31, 8), (23, 56)):
        for padding in (0, 1, ((2, 3), (0, 4))):
            case = depthwise("geometry", 2, 5, size, filter, stride, padding, dilation)
            if min(case.output) > 0:
                assert_exact(driver, case, "float16")


def test_few_of_a_huge_problem_are_cut_as_all_of_it(driver: Driver) -> None:
    """Large cuts, of many rows, columns and planes, are chosen for large problems: their blocks are run here."""
    if driver.device != "cpu":
        pytest.skip("cuda: runs all blocks of a grid")
    for c, size, filter, stride in ((16, 56, 3, 1), (16, 40, 7, 1), (24, 57, 3, 2), (64, 14, 5, 1), (64, 7, 7, 1)):
        many = depthwise("many", 40, c, (size, size), filter, stride, filter // 2)
        few = replace(many, n=1)
        operands = conv_operands(few, "float16", integers=True)
        for pass_ in GATHERS:
            exact = conv_oracle(few, pass_, operands.double()).half()
            source = operands.x if pass_ == "fprop" else operands.gy
            for layout in LAYOUTS:
                w = driver.put(operands.w, layout)
                plan = driver.conv_plan(many, pass_, "float16", layout, KERNEL, bias=pass_ == "fprop")
                a = driver.put(source.expand(many.n, *source.shape[1:]), layout)
                out = driver.blank((many.n, *exact.shape[1:]), torch.float16, layout)
                bias = operands.bias.data_ptr() if pass_ == "fprop" else 0
                before = driver.module.configure(blocks=blocks_of_a_sample(plan, many, layout))
                try:
                    plan.run(a.data_ptr(), w.data_ptr(), bias, 0, out.data_ptr(), 0, 0)
                finally:
                    driver.module.configure(**before)
                assert torch.equal(out[:1], exact), (pass_, layout, plan.detail)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_error_is_torchs(driver: Driver, layout: str, dtype: str) -> None:
    for case in (depthwise("7x7", 2, 9, (16, 15), 7, 1, 3), depthwise("5x5 stride 2", 2, 12, (14, 14), 5, 2, 2)):
        operands = conv_operands(case, dtype)
        exact = conv_exactly(case, operands)
        for pass_ in PASSES:
            ours = driver.conv(case, pass_, operands, layout, KERNEL)
            assert_close_to_float64(ours, conv_oracle(case, pass_, operands), exact[pass_], f"{pass_} {layout}")


@pytest.mark.parametrize("activation", ["none", "relu6", "gelu"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_epilogue(driver: Driver, layout: str, activation: str) -> None:
    """Rows of whole sectors and others, vectors of channels and single ones, at aligned addresses and at others."""
    for case in (
        depthwise("narrow", 3, 6, (9, 7), 3, 1, 1),
        depthwise("wide", 2, 3, (9, 16), 3, 1, 1),
        depthwise("strided", 2, 8, (9, 12), 3, 2, 1),
    ):
        operands = conv_operands(case, "float16", integers=True)
        y = conv_oracle(case, "fprop", operands.double()) + operands.gy.double()
        expected = {"none": y, "relu6": y.clamp(0, 6), "gelu": torch.nn.functional.gelu(y)}[activation]
        for offset in (0, 1):
            options = {"residual": operands.gy, "activation": activation, "offset": offset}
            result = driver.conv(case, "fprop", operands, layout, KERNEL, **options)
            torch.testing.assert_close(result, expected.half(), rtol=1e-3, atol=1e-3)


def test_nothing_but_what_is_there_is_multiplied(driver: Driver) -> None:
    """Infinities of the source reach the outputs whose windows hold them, and no others."""
    for stride in (1, 2):
        case = depthwise("infinite", 1, 3, (9, 11), 3, stride, 1)
        operands = conv_operands(case, "float32", integers=True)
        x, gy = operands.x.clone(), operands.gy.clone()
        x[0, 1, 4, 5] = gy[0, 1, 2, 3] = float("inf")
        operands = ConvOperands(x, operands.w.abs() + 1, operands.bias, gy)
        for pass_ in GATHERS:
            exact = conv_oracle(case, pass_, operands.double()).float()
            assert exact.isinf().any()
            for layout in LAYOUTS:
                assert torch.equal(driver.conv(case, pass_, operands, layout, KERNEL), exact), (pass_, layout)


def wgrad_of_what_is_there(case: ConvCase, x: torch.Tensor, gy: torch.Tensor) -> torch.Tensor:
    """In float64, without a product with padding: zero times infinity is not zero."""
    geometry = {"padding": case.padding_low, "stride": case.stride, "dilation": case.dilation}
    columns, there = (torch.nn.functional.unfold(each, case.filter, **geometry) for each in (x, torch.ones_like(x)))
    taps = case.filter[0] * case.filter[1]
    products = columns.reshape(case.n, case.c, taps, -1) * gy.reshape(case.n, case.c, 1, -1)
    products = torch.where(there.reshape(products.shape) > 0, products, 0)
    return products.sum(dim=(0, 3)).reshape(case.c, 1, *case.filter)


@pytest.mark.parametrize("filter", [3, 5, 7])
@pytest.mark.parametrize("stride", [1, 2])
def test_weight_gradient_of_infinities(driver: Driver, stride: int, filter: int) -> None:
    """They reach the taps that they meet, as in torch's depthwise kernels, and no neighbour's: neither beyond the
    border nor beyond the last rows of a tile.
    """
    inf, nan = float("inf"), float("nan")
    case = depthwise("infinite", 2, 6, (9, 11), filter, stride, filter // 2)
    last = case.output[0] - 1
    operands = conv_operands(case, "float32", integers=True)
    for dtype in ("float32", "float16"):
        x, gy = operands.x.to(DTYPES[dtype]), operands.gy.to(DTYPES[dtype])
        x[0, 0, 4, 5] = x[0, 1, 8, 10] = inf
        x[1, 1, 0, 3] = -inf
        gy[0, 2, 0, 0] = gy[1, 3, last, 2] = inf
        gy[1, 3, 0, 1] = nan
        x[0, 4, 8, 4] = gy[0, 4, 0, 1] = inf
        exact = wgrad_of_what_is_there(case, x.double(), gy.double())
        assert exact.isfinite().any() and exact.isinf().any() and exact.isnan().any()
        if dtype == "float32" and filter == 3:  # others of torch's CPU kernels multiply the padding
            arguments = (
                None,
                case.stride,
                case.padding_low,
                case.dilation,
                False,
                (0, 0),
                case.c,
                (False, True, False),
            )
            theirs = torch.ops.aten.convolution_backward(gy, x, operands.w, *arguments)[1]
            torch.testing.assert_close(theirs.double(), exact, equal_nan=True)
        given = ConvOperands(x, operands.w.to(x.dtype), operands.bias.to(x.dtype), gy)
        for layout in LAYOUTS:
            result = driver.conv(case, "wgrad", given, layout, KERNEL)
            torch.testing.assert_close(result.double(), exact, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_sample_does_not_depend_on_its_batch(driver: Driver, layout: str) -> None:
    """Bit for bit, however the batch is cut up."""
    case = depthwise("batch", 40, 9, (15, 9), 5, 1, 2)
    operands = conv_operands(case, "float32")
    for pass_ in GATHERS:
        together = driver.conv(case, pass_, operands, layout, KERNEL)
        plans = {driver.conv_plan(replace(case, n=n), pass_, "float32", layout, KERNEL).detail for n in (1, 40)}
        assert len(plans) == 2
        for i in (0, 17, 39):
            alone = ConvOperands(operands.x[i : i + 1], operands.w, operands.bias, operands.gy[i : i + 1])
            result = driver.conv(replace(case, n=1), pass_, alone, layout, KERNEL)
            assert torch.equal(result, together[i : i + 1])


@pytest.mark.usefixtures("schedule")
def test_every_schedule(driver: Driver) -> None:
    for case in (
        depthwise("aligned", 2, 8, (16, 16), 3, 1, 1),
        depthwise("odd", 2, 7, (9, 7), 5, 2, 2),
        depthwise("dilated", 2, 6, (9, 12), 3, 1, 2, 2),
    ):
        for dtype in ("float32", "float16"):
            assert_exact(driver, case, dtype)
    assert_exact(driver, depthwise("sliced", 5, 3, (17, 19), 5, 1, 2), "float16")


@pytest.mark.parametrize("layout", LAYOUTS)
def test_weight_gradient_in_slices(driver: Driver, layout: str) -> None:
    """Many tiles, several a slice; the same bits every time; random values, as close as torch's."""
    case = depthwise("slices", 9, 5, (33, 35), 5, 1, 2)
    operands = conv_operands(case, "float32")
    plan = driver.conv_plan(case, "wgrad", "float32", layout, KERNEL)
    slices, tiles = int(found(plan, r"(\d+) slices")), int(found(plan, r"slices of (\d+) tiles"))
    assert slices > 1 and plan.workspace_bytes == slices * case.c * 25 * 4
    one = driver.conv_plan(case, "wgrad", "float32", layout, KERNEL, workspace_limit=0)
    assert one.workspace_bytes == 0 and int(found(one, r"slices of (\d+) tiles")) > tiles
    first = driver.conv(case, "wgrad", operands, layout, KERNEL)
    assert torch.equal(driver.conv(case, "wgrad", operands, layout, KERNEL), first)
    exact = conv_exactly(case, operands)["wgrad"]
    assert_close_to_float64(first, conv_oracle(case, "wgrad", operands), exact, layout)


@pytest.mark.parametrize("filter", [9, 13, (3, 15)])
def test_filters_beyond_one_block(driver: Driver, filter: int) -> None:
    """Taken 7 x 7 taps at a time."""
    padding = 4 if filter == 9 else 6 if filter == 13 else (1, 7)
    assert_exact(driver, depthwise("large filter", 2, 3, (15, 17), filter, 1, padding), "float16")


def test_refusals_say_why(driver: Driver) -> None:
    def reason(case: ConvCase, pass_: str = "fprop", dtype: str = "float32") -> str:
        return refusal(driver, case, pass_, dtype, "nhwc")

    small = depthwise("small", 1, 8, (9, 9), 3, 1, 1)
    assert reason(small) == ""
    assert reason(small, dtype="float64") == "built for float32, float16 and bfloat16, not float64"
    assert reason(small, "bgrad") == "computes fprop, dgrad and wgrad, not bgrad"
    assert reason(conv("dense", 1, 2, 3, (4, 4), 3)) == "one input channel a group, here 2"
    assert reason(depthwise("stride 3", 1, 8, (9, 9), 3, 3)) == "strides of 1 and 2 are built, here 3"
    many = several(200, depthwise("many filters", 1, 8, (9, 9), 3, 1, 1))
    assert reason(many, "wgrad") == "200 filters a channel: one block's threads or shared memory do not hold them"
    huge = depthwise("far taps", 1, 8, (900, 900), 3, 1, 400, 400)
    assert "bytes of shared memory, of 98304" in reason(huge)
