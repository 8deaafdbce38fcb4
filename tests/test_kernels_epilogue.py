"""The fused epilogue of fprop, y = act(conv + bias + residual), by itself: every kernel that claims it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from kernel_driver import (
    DTYPES,
    LAYOUTS,
    Driver,
    conv_exactly,
    conv_operands,
    conv_oracle,
    gpu_driver,  # noqa: F401 (a fixture)
)
from shapes import CONV_DEFAULT, ConvCase, conv
from torch import Tensor

from fastconv.testing import assert_close_to_float64

SLOPE = 0.125  # exact in every dtype

ACTIVATIONS: dict[str, Any] = {
    "none": lambda v: v,
    "relu": F.relu,
    "relu6": F.relu6,
    "leaky_relu": lambda v: F.leaky_relu(v, SLOPE),
    "hardswish": F.hardswish,
    "silu": F.silu,
    "gelu": F.gelu,
    "gelu_tanh": lambda v: F.gelu(v, approximate="tanh"),
}
EXACT = ("none", "relu", "relu6", "leaky_relu")  # of integers

MIXED = (
    conv("vectors", 2, 16, 32, (8, 8), 3, 1, 1),
    conv("odd", 3, 5, 7, (7, 9), 3, 2, 1),
    conv("groups", 2, 8, 12, (6, 5), 3, 1, 1, 1, 4),
    conv("depthwise", 2, 16, 16, (7, 6), 3, 1, 1, 1, 16),
    conv("pointwise", 2, 16, 24, (8, 8), 1),
    conv("first layer", 1, 3, 16, (11, 12), 7, 2, 3),
)


def residual_of(case: ConvCase, dtype: str, integers: bool = False) -> Tensor:
    generator = torch.Generator().manual_seed(7)
    shape = (case.n, case.k, *case.output)
    if integers:
        return torch.randint(-3, 4, shape, generator=generator).to(DTYPES[dtype])
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(DTYPES[dtype])


def maths(dtype: str) -> tuple[str, ...]:
    return ("ieee", "tf32", "tf32x3") if dtype == "float32" else ("ieee",)


def assert_exact(driver: Driver, case: ConvCase, dtype: str, offset: int = 0) -> None:
    """Small integers through every kernel: the exact result."""
    operands, residual = conv_operands(case, dtype, integers=True), residual_of(case, dtype, integers=True)
    total = conv_oracle(case, "fprop", operands.double())
    for activation in EXACT:
        for added in (residual, None):
            exact = ACTIVATIONS[activation](total + (0 if added is None else added.double())).to(DTYPES[dtype])
            for layout in LAYOUTS:
                for math in maths(dtype):
                    options = {"math": math, "activation": activation}
                    for kernel in driver.kernels(case, "fprop", dtype, layout, residual=added is not None, **options):
                        if math != "ieee" and not kernel.startswith("igemm"):
                            continue
                        result = driver.conv(
                            case, "fprop", operands, layout, kernel, offset, residual=added, slope=SLOPE, **options
                        )
                        assert torch.equal(result, exact), f"{activation} {layout} {kernel} {math}"


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", MIXED, ids=lambda case: case.name)
def test_integers_are_exact(driver: Driver, case: ConvCase, dtype: str) -> None:
    assert_exact(driver, case, dtype)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", CONV_DEFAULT, ids=lambda case: case.name)
def test_integers_are_exact_rigorous(driver: Driver, case: ConvCase, dtype: str) -> None:
    assert_exact(driver, case, dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_misaligned_addresses(driver: Driver, dtype: str) -> None:
    """A residual that starts anywhere is read by elements."""
    assert_exact(driver, MIXED[0], dtype, offset=1)
    assert_exact(driver, MIXED[3], dtype, offset=3)


def test_reverse_order_and_races(driver: Driver) -> None:
    if driver.device != "cpu":
        pytest.skip("cuda: the hardware chooses the schedule")
    before = driver.module.configure(schedule="reverse", race_check=True)
    try:
        for dtype in ("float32", "float16"):
            assert_exact(driver, MIXED[2], dtype)
    finally:
        driver.module.configure(**before)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("case", MIXED, ids=lambda case: case.name)
def test_rounds_once(driver: Driver, case: ConvCase, dtype: str, layout: str) -> None:
    """The residual takes away all but what rounding the sum to 16 bits would have lost."""
    operands = conv_operands(case, dtype, integers=True)
    generator = torch.Generator().manual_seed(1)
    operands = type(operands)(
        *(
            torch.randint(-64, 65, t.shape, generator=generator).to(t.dtype)
            for t in (operands.x, operands.w, operands.bias, operands.gy)
        )
    )
    total = conv_oracle(case, "fprop", operands.double())
    residual = -total.to(DTYPES[dtype])
    lost = total + residual.double()
    assert lost.abs().max() > 1  # or the test says nothing
    for activation in ("none", "relu"):
        expected = ACTIVATIONS[activation](lost).to(DTYPES[dtype])
        for kernel in driver.kernels(case, "fprop", dtype, layout, residual=True, activation=activation):
            result = driver.conv(case, "fprop", operands, layout, kernel, residual=residual, activation=activation)
            assert torch.equal(result, expected), f"{activation} {kernel}"


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_error_is_torchs(driver: Driver, dtype: str, activation: str) -> None:
    """Random values: at most twice as far from the exact result as torch's three operators at the same dtype."""
    for case in MIXED:
        operands, residual = conv_operands(case, dtype), residual_of(case, dtype)
        exact = ACTIVATIONS[activation](conv_exactly(case, operands)["fprop"] + residual.double())
        theirs = ACTIVATIONS[activation](conv_oracle(case, "fprop", operands) + residual)
        for layout in LAYOUTS:
            for kernel in driver.kernels(case, "fprop", dtype, layout, residual=True, activation=activation):
                ours = driver.conv(
                    case, "fprop", operands, layout, kernel, residual=residual, activation=activation, slope=SLOPE
                )
                assert_close_to_float64(ours, theirs, exact, f"{activation} {layout} {kernel} {case.name}")


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_special_values(driver: Driver, dtype: str, activation: str) -> None:
    """NaN, infinities and large values come out of an activation as they come out of torch's."""
    values = torch.tensor([float("nan"), float("inf"), float("-inf"), 1e4, -1e4, 20.0, -20.0, 0.0], dtype=DTYPES[dtype])
    case = conv("1x1", 1, 1, 8, (1, 1), 1)
    operands = conv_operands(case, dtype)
    operands = type(operands)(torch.zeros_like(operands.x), operands.w, torch.zeros_like(operands.bias), operands.gy)
    wide = values.double() if dtype == "float64" else values.float()
    expected = ACTIVATIONS[activation](wide).to(DTYPES[dtype])
    for kernel in driver.kernels(case, "fprop", dtype, "nhwc", residual=True, activation=activation):
        residual = values.reshape(1, 8, 1, 1)
        result = driver.conv(
            case, "fprop", operands, "nhwc", kernel, residual=residual, activation=activation, slope=SLOPE
        ).flatten()
        assert torch.allclose(result, expected, rtol=1e-6, atol=1e-30, equal_nan=True), (kernel, result, expected)


def test_says_what_it_does(driver: Driver) -> None:
    plan = driver.conv_plan(MIXED[0], "fprop", "float32", "nchw", bias=True, residual=True, activation="silu")
    assert "epilogue  y = silu(conv + bias + residual)" in plan.explain()
    assert "epilogue" not in driver.conv_plan(MIXED[0], "fprop", "float32", "nchw").explain()
    with pytest.raises(RuntimeError, match="pass_: only fprop"):
        driver.conv_plan(MIXED[0], "dgrad", "float32", "nchw", activation="relu")
    with pytest.raises(RuntimeError, match=r"activation: expected one of none, relu, .* got 'swish'"):
        driver.conv_plan(MIXED[0], "fprop", "float32", "nchw", activation="swish")
    with pytest.raises(RuntimeError, match="run: the plan adds a residual, got none"):
        plan.run(1, 1, 1, 0, 1, 0, 0)
