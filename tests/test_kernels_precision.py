"""float32 on tensor cores: tf32, and tf32x3, which must be as good as float32."""

from __future__ import annotations

import pytest
import torch
from kernel_driver import (
    LAYOUTS,
    ConvOperands,
    Driver,
    conv_exactly,
    conv_operands,
    conv_oracle,
    gpu_driver,  # noqa: F401 (a fixture)
)
from oracle import ffma
from shapes import CONV_DEFAULT, CONV_NETWORK, CONV_RIGOROUS, ConvCase, conv

from fastconv.testing import assert_close_to_float64, error

PASSES = ("fprop", "dgrad", "wgrad")
MODES = ("tf32", "tf32x3")
LONG_SUMS = (conv("C512", 1, 512, 16, (7, 7), 3, 1, 1), conv("K512", 1, 16, 512, (7, 7), 3, 1, 1))


def kernels(driver: Driver, case: ConvCase, pass_: str, math: str) -> list[tuple[str, str]]:
    """(layout, kernel)"""
    return [
        (layout, name)
        for layout in LAYOUTS
        for name in driver.kernels(case, pass_, "float32", layout, math=math)
        if name.startswith("igemm")
    ]


def rounded_to_tf32(tensor: torch.Tensor) -> torch.Tensor:
    """To 10 bits, ties away from zero, as cvt.rna.tf32.f32."""
    return ((tensor.view(torch.int32) + 0x1000) & ~0x1FFF).view(torch.float32)


def assert_exact(driver: Driver, case: ConvCase, math: str) -> None:
    operands = conv_operands(case, "float32", integers=True)
    for pass_ in PASSES:
        exact = conv_oracle(case, pass_, operands.double()).float()
        names = kernels(driver, case, pass_, math)
        assert names or math == "tf32x3", (case.name, pass_)
        for layout, kernel in names:
            for offset in (0, 1):
                result = driver.conv(case, pass_, operands, layout, kernel, offset, math=math)
                assert torch.equal(result, exact), (pass_, layout, kernel, offset)


@pytest.mark.parametrize("math", MODES)
@pytest.mark.parametrize("case", CONV_DEFAULT, ids=lambda case: case.name)
def test_integers_are_exact(driver: Driver, case: ConvCase, math: str) -> None:
    assert_exact(driver, case, math)


@pytest.mark.slow
@pytest.mark.parametrize("math", MODES)
@pytest.mark.parametrize("case", CONV_RIGOROUS + CONV_NETWORK, ids=lambda case: case.name)
def test_integers_are_exact_rigorous(driver: Driver, case: ConvCase, math: str) -> None:
    assert_exact(driver, case, math)


@pytest.mark.parametrize("case", CONV_NETWORK[:6], ids=lambda case: case.name)
def test_tf32_rounds_its_operands_and_nothing_else(driver: Driver, case: ConvCase) -> None:
    """Against the definition on rounded operands, float32's own rule holds."""
    drawn = conv_operands(case, "float32")
    operands = ConvOperands(
        *(rounded_to_tf32(each) for each in (drawn.x, drawn.w)), drawn.bias, rounded_to_tf32(drawn.gy)
    )
    exactly = conv_exactly(case, operands)
    for pass_ in PASSES:
        for layout, kernel in kernels(driver, case, pass_, "tf32"):
            ours = driver.conv(case, pass_, drawn, layout, kernel, math="tf32")
            assert_close_to_float64(ours, conv_oracle(case, pass_, operands), exactly[pass_], f"{pass_} {kernel}")


def check_tf32x3(driver: Driver, case: ConvCase) -> None:
    operands = conv_operands(case, "float32")
    exactly = conv_exactly(case, operands)
    for pass_ in PASSES:
        theirs = conv_oracle(case, pass_, operands)
        families: dict[str, torch.Tensor] = {}
        for layout, kernel in kernels(driver, case, pass_, "tf32x3"):
            result = driver.conv(case, pass_, operands, layout, kernel, math="tf32x3")
            first = families.setdefault(kernel.rsplit("_", 1)[0], result)
            if first is result or pass_ == "wgrad":
                assert_close_to_float64(result, theirs, exactly[pass_], f"{pass_} {layout} {kernel}")
            else:
                assert torch.equal(result, first), "one family, the same bits"


@pytest.mark.parametrize("case", CONV_DEFAULT + CONV_NETWORK[:6] + LONG_SUMS, ids=lambda case: case.name)
def test_tf32x3_is_float32(driver: Driver, case: ConvCase) -> None:
    """At most twice as far from the truth as PyTorch in float32."""
    check_tf32x3(driver, case)


@pytest.mark.slow
@pytest.mark.parametrize("case", CONV_RIGOROUS + CONV_NETWORK, ids=lambda case: case.name)
def test_tf32x3_is_float32_rigorous(driver: Driver, case: ConvCase) -> None:
    check_tf32x3(driver, case)


def check_beside_ffma(driver: Driver, case: ConvCase) -> None:
    operands = conv_operands(case, "float32")
    operands.bias.zero_()
    exactly = conv_exactly(case, operands)
    for pass_ in PASSES:
        names = kernels(driver, case, pass_, "tf32x3")
        if not names:  # too short a sum; the alternatives are float32's own
            plan = driver.conv_plan(case, pass_, "float32", "nhwc", math="tf32x3")
            assert any("; tf32x3 from " in each.reason for each in plan.candidates)
            continue
        layout, kernel = names[0]
        ours = driver.conv(case, pass_, operands, layout, kernel, math="tf32x3")
        chain = ffma(case, pass_, operands.x, operands.w, operands.gy)
        assert error(ours, exactly[pass_]) <= error(chain, exactly[pass_]), (case.name, pass_)


@pytest.mark.parametrize("case", CONV_DEFAULT + CONV_NETWORK[:6], ids=lambda case: case.name)
def test_tf32x3_is_no_worse_than_ffma(driver: Driver, case: ConvCase) -> None:
    """Nearer to the truth than a chain of float32 multiply-adds, or not offered."""
    check_beside_ffma(driver, case)


@pytest.mark.slow
@pytest.mark.parametrize("case", CONV_RIGOROUS + CONV_NETWORK, ids=lambda case: case.name)
def test_tf32x3_is_no_worse_than_ffma_rigorous(driver: Driver, case: ConvCase) -> None:
    check_beside_ffma(driver, case)


def test_infinities_stay(driver: Driver) -> None:
    """tf32 keeps them; tf32x3 may turn a product with one into NaN, but never into a number."""
    case = conv("infinity", 1, 128, 4, (3, 3), 1)
    operands = conv_operands(case, "float32")
    operands.x[0, 1, 1, 1] = float("inf")
    for math in MODES:
        y = driver.conv(case, "fprop", operands, "nhwc", "igemm_64x64", math=math)
        assert not y[0, :, 1, 1].isfinite().any()
        assert y.isfinite().sum() == y.numel() - 4
        if math == "tf32":
            assert y[0, :, 1, 1].isinf().all()
