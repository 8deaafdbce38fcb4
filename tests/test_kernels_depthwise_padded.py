"""The tiled depthwise kernels where padding is not zeros: no padded copy, and dgrad sums up the images of the rim."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from kernel_driver import (
    DTYPES,
    LAYOUTS,
    ConvOperands,
    Driver,
    conv_operands,
    conv_oracle,
    gpu_driver,  # noqa: F401 (a fixture)
)
from shapes import ConvCase, depthwise, several

KERNEL = "depthwise_tiled"
PASSES = ("fprop", "dgrad", "wgrad")
MODES = ("reflect", "replicate", "circular")
PADDED = (
    depthwise("3x3", 2, 7, (9, 8), 3, 1, 1),
    depthwise("3x3, whole rows", 9, 4, (6, 16), 3, 1, 1),
    depthwise("5x5 stride 2", 3, 33, (13, 11), 5, 2, 2),
    depthwise("7x7 of 7x7", 1, 6, (7, 7), 7, 1, 3),
    depthwise("asymmetric", 2, 5, (9, 11), (4, 3), (1, 2), ((1, 2), (2, 0))),
    depthwise("dilation 3", 2, 4, (13, 12), 3, 1, 3, 3),
    depthwise("padding as large as may be", 1, 3, (5, 6), 3, 1, ((4, 4), (5, 5))),
    several(3, depthwise("three filters a channel", 2, 5, (9, 8), 3, 1, 1)),
    depthwise("line", 2, 5, (33,), 5, 2, 2),
)


def run_padded(
    driver: Driver, case: ConvCase, pass_: str, operands: ConvOperands, layout: str, mode: str, limit: int
) -> tuple[torch.Tensor, str]:
    """The result, in host memory, and the plan's words."""
    dtype = next(name for name, each in DTYPES.items() if each == operands.x.dtype)
    problem = driver.module.ConvProblem(**case.arguments(dtype, layout), padding_mode=mode)
    plan = driver.module.conv_plan(problem, pass_, kernel=KERNEL, bias=pass_ == "fprop", workspace_limit=limit)
    x, w, gy = (driver.put(each, layout) for each in (operands.x, operands.w, operands.gy))
    a, b, like = {"fprop": (x, w, gy), "dgrad": (gy, w, x), "wgrad": (x, gy, w)}[pass_]
    out = driver.blank(tuple(like.shape), like.dtype, layout)
    bias = operands.bias.to(driver.device)
    work = torch.full((plan.workspace_bytes // 4 + 1,), float("nan"), device=driver.device)
    added = bias.data_ptr() if pass_ == "fprop" else 0
    plan.run(a.data_ptr(), b.data_ptr(), added, 0, out.data_ptr(), work.data_ptr(), 0)
    return out.cpu(), plan.detail


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("case", PADDED, ids=lambda case: case.name)
def test_padding_modes(driver: Driver, case: ConvCase, mode: str) -> None:
    """No padded copy: exactly what padding first gives. Without a workspace dgrad sums up the rim's images by
    themselves; with one it may fold the padded gradient.
    """
    folded = 0
    for dtype in ("float32", "float16"):
        operands = conv_operands(case, dtype, integers=True)
        for pass_ in PASSES:
            exact = conv_oracle(case, pass_, operands.double(), mode).to(DTYPES[dtype])
            for layout in LAYOUTS:
                for limit in (-1, 0):
                    result, detail = run_padded(driver, case, pass_, operands, layout, mode, limit)
                    assert torch.equal(result, exact), (pass_, dtype, layout, detail)
                    folded += "then folded" in detail
                    assert pass_ != "dgrad" or limit or "elements a plane again" in detail
    assert folded > 0


def test_large_planes_sum_up_the_rim_alone(driver: Driver) -> None:
    """The way is that of the reference batch: a sample's bits do not depend on the batch it comes in."""
    for c, size, filter, way in ((32, 112, 3, "elements a plane again"), (96, 56, 7, "then folded for")):
        details = set()
        for n in (1, 32, 200):
            case = depthwise("plane", n, c, (size, size), filter, 1, filter // 2)
            problem = driver.module.ConvProblem(**case.arguments("float16", "nhwc"), padding_mode="reflect")
            plan = driver.module.conv_plan(problem, "dgrad", kernel=KERNEL)
            details.add(way in plan.detail and plan.workspace_bytes == (n * c * 62 * 62 * 2 if size == 56 else 0))
        assert details == {True}, way


def test_padding_modes_are_refused_by_name(driver: Driver) -> None:
    case = depthwise("padded", 1, 4, (5, 6), 3, 1, 1)
    problem = driver.module.ConvProblem(**case.arguments("float32", "nchw"), padding_mode="reflect")
    reasons = {each.kernel: each.reason for each in driver.module.conv_plan(problem, "fprop").candidates}
    assert reasons.pop(KERNEL) == reasons.pop("aten") == ""
    assert set(reasons.values()) == {"pads with zeros, not by reflect"}
    assert " reflect " in repr(problem) and problem.padding_mode == "reflect"
    for mode, padding in (("reflect", 5), ("circular", 6)):
        large = replace(case, padding_low=(padding, 0))
        with pytest.raises(RuntimeError, match=r"^padding: "):
            driver.module.ConvProblem(**large.arguments("float32", "nchw"), padding_mode=mode)
    with pytest.raises(RuntimeError, match=r"^padding_mode: "):
        driver.module.ConvProblem(**case.arguments("float32", "nchw"), padding_mode="mirror")
