"""Depthwise convolution by Toeplitz matrices on tensor cores: exact indexing, precision, memory, where it is chosen."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from kernel_driver import (
    DTYPES,
    Driver,
    conv_operands,
    conv_oracle,
    gpu_driver,  # noqa: F401 (a fixture)
    schedule,  # noqa: F401 (a fixture)
)
from shapes import ConvCase, conv

from fastconv import _emulator
from fastconv.testing import assert_close_to_float64

KERNEL = "depthwise_toeplitz"
PASSES = ("fprop", "dgrad", "wgrad")


def depthwise(name: str, n: int, c: int, size: tuple[int, ...], filter: object, padding: object) -> ConvCase:
    return conv(name, n, c, c, size, filter, 1, padding, 1, c)  # type: ignore[arg-type]


def of_channels(case: ConvCase, c: int) -> ConvCase:
    return replace(case, c=c, k=c, groups=c)


CASES = (
    depthwise("one element", 1, 1, (1, 1), 9, 4),
    depthwise("rows of 2 bytes", 2, 3, (9, 7), 9, 4),
    depthwise("a square of 16", 1, 2, (16, 16), 9, 4),
    depthwise("a square of 32", 1, 2, (32, 32), 9, 4),
    depthwise("17 taps: two chunks", 1, 1, (20, 21), 17, 8),
    depthwise("18 taps: three", 1, 2, (20, 21), 18, 9),
    depthwise("31x31", 2, 2, (23, 19), 31, 15),
    depthwise("27x27 on 14x14", 2, 3, (14, 14), 27, 13),
    depthwise("13x13 on 7x7", 3, 2, (7, 7), 13, 6),
    depthwise("several squares", 1, 2, (37, 70), (5, 11), (2, 5)),
    depthwise("rows", 1, 3, (3, 67), (1, 33), (0, 16)),
    depthwise("columns", 1, 3, (67, 3), (33, 1), (16, 0)),
    depthwise("no padding", 2, 2, (40, 35), (9, 13), 0),
    depthwise("padding on one side", 1, 2, (12, 13), (11, 9), ((6, 0), (0, 8))),
    depthwise("padding beyond the filter", 1, 2, (4, 5), 9, 13),
    depthwise("line", 2, 3, (50,), 21, 10),
)


def assert_exact(driver: Driver, case: ConvCase, dtype: str, layout: str = "nchw") -> None:
    operands = conv_operands(case, dtype, integers=True)
    for pass_ in PASSES:
        exact = conv_oracle(case, pass_, operands.double()).to(DTYPES[dtype])
        without_slices = ((0, 0),) if pass_ == "wgrad" and layout == "nchw" else ()
        for offset, limit in ((0, -1), (1, -1), *without_slices):
            result = driver.conv(case, pass_, operands, layout, KERNEL, offset, workspace_limit=limit)
            assert torch.equal(result, exact), (pass_, offset, limit)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_integers_are_exact(driver: Driver, case: ConvCase, dtype: str) -> None:
    assert_exact(driver, case, dtype)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_channels_last_by_way_of_planes(driver: Driver, case: ConvCase, dtype: str) -> None:
    """Planes and channels of no whole tiles, nor vectors."""
    for c in {1: (1, 8), 2: (2, 24), 3: (3, 72)}[case.c]:
        assert_exact(driver, of_channels(case, c), dtype, "nhwc")


REPLKNET = (
    depthwise("RepLKNet 31x31", 2, 2, (56, 56), 31, 15),
    depthwise("RepLKNet 29x29", 2, 2, (28, 28), 29, 14),
    depthwise("RepLKNet 27x27", 2, 2, (14, 14), 27, 13),
    depthwise("RepLKNet 13x13", 2, 2, (7, 7), 13, 6),
    depthwise("SLaK 51x5", 1, 2, (56, 56), (51, 5), (25, 2)),
)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("case", REPLKNET, ids=[case.name for case in REPLKNET])
def test_against_float64(driver: Driver, case: ConvCase, dtype: str) -> None:
    operands = conv_operands(case, dtype)
    for pass_ in PASSES:
        exact = conv_oracle(case, pass_, operands.double())
        rival = conv_oracle(case, pass_, operands)
        result = driver.conv(case, pass_, operands, "nchw", KERNEL)
        assert_close_to_float64(result, rival, exact, f"{case.name} {pass_} {dtype}")


def test_epilogue_channels_last(driver: Driver) -> None:
    case = of_channels(CASES[7], 16)
    operands = conv_operands(case, "float16", integers=True)
    for activation, of in (("none", lambda y: y), ("relu", torch.relu)):
        expected = of(conv_oracle(case, "fprop", operands.double())).half()
        found = driver.conv(case, "fprop", operands, "nhwc", KERNEL, activation=activation)
        assert torch.equal(found, expected)


@pytest.mark.usefixtures("schedule")
def test_every_schedule(driver: Driver) -> None:
    for case in (CASES[7], CASES[9], CASES[10]):
        assert_exact(driver, case, "float16")


def test_a_sample_does_not_depend_on_its_batch(driver: Driver) -> None:
    many = depthwise("many", 5, 3, (19, 23), 13, 6)
    operands = conv_operands(many, "float16")
    for pass_ in ("fprop", "dgrad"):
        together = driver.conv(many, pass_, operands, "nchw", KERNEL)
        for i in range(many.n):
            one = replace(operands, x=operands.x[i : i + 1], gy=operands.gy[i : i + 1])
            assert torch.equal(driver.conv(replace(many, n=1), pass_, one, "nchw", KERNEL), together[i : i + 1])


def test_tensor_cores_are_given_taps_and_little_else() -> None:
    """What is multiplied, of what has to be: zeros in the matrices, rims of squares and of planes."""
    driver = Driver(_emulator, "cpu")
    for case in REPLKNET[:3]:
        operands = conv_operands(case, "float16")
        for pass_ in PASSES:
            _emulator.reset_counters()
            before = _emulator.configure(count=True)
            try:
                driver.conv(case, pass_, operands, "nchw", KERNEL)
            finally:
                _emulator.configure(**before)
            row = _emulator.counters()[f"{KERNEL}_{pass_}"]
            asked = 2 * case.n * case.c * math.prod((*case.output, *case.filter))
            assert row["mma_flops"] <= 2.5 * asked, (case.name, pass_, row["mma_flops"] / asked)
            assert row["shared_load"]["wavefronts"] <= 1.1 * row["shared_load"]["ideal"], (case.name, pass_)


def test_planes_cost_each_byte_once() -> None:
    """Channels last: what turns a tensor into planes and back reads and writes whole sectors, without conflicts."""
    driver, case = Driver(_emulator, "cpu"), of_channels(REPLKNET[1], 64)
    operands = conv_operands(case, "float16")
    _emulator.reset_counters()
    before = _emulator.configure(count=True)
    try:
        driver.conv(case, "fprop", operands, "nhwc", KERNEL)
    finally:
        _emulator.configure(**before)
    row = _emulator.counters()["pack"]
    moved = 2 * case.n * case.c * math.prod(case.input) * 2 // 32  # sectors of x, and of y
    assert row["global_load"]["sectors"] == row["global_store"]["sectors"] == moved
    assert row["shared_store"]["wavefronts"] == row["shared_store"]["ideal"]
    assert row["shared_load"]["wavefronts"] <= 1.02 * row["shared_load"]["ideal"]


def test_chosen_for_large_filters_alone() -> None:
    def plan(filter: int, layout: str = "nchw", dtype: str = "float16"):
        case = depthwise("choice", 32, 128, (56, 56), filter, filter // 2)
        return _emulator.conv_plan(_emulator.ConvProblem(**case.arguments(dtype, layout)), "fprop")

    def reason(found) -> str:
        return next(each.reason for each in found.candidates if each.kernel == KERNEL)

    assert plan(31).kernel == plan(13).kernel == KERNEL
    assert "9 taps" in reason(plan(7))
    assert plan(31, "nhwc").kernel == KERNEL and "planes in the workspace" in plan(31, "nhwc").detail
    assert "float16 and bfloat16" in reason(plan(31, dtype="float32"))
    assert "family    depthwise_toeplitz" in plan(31).explain()


def test_an_infinity_spreads_to_its_neighbours_at_most(driver: Driver) -> None:
    """0 * inf in the zeros of a matrix: NaN within 15 columns of the window; everything else as it was."""
    case = depthwise("infinity", 1, 1, (20, 64), 9, 4)
    operands = conv_operands(case, "float16")
    finite = driver.conv(case, "fprop", operands, "nchw", KERNEL)
    operands.x[0, 0, 10, 30] = torch.inf
    result = driver.conv(case, "fprop", operands, "nchw", KERNEL)
    touched = torch.zeros(20, 64, dtype=torch.bool)
    touched[6:15, 30 - 4 - 15 : 30 + 4 + 16] = True
    assert torch.equal(result[0, 0][~touched], finite[0, 0][~touched])
    assert not result[0, 0, 6:15, 26:35].isfinite().any()
