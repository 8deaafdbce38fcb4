"""The epilogue of the CPU kernels that fuse it: y = act(conv + bias + residual), rounded once."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from cpu_driver import DTYPES, conv_shapes, run_conv, torch_conv
from shapes import ConvCase, conv

from fastconv import _cpu
from fastconv.testing import assert_close_to_float64, integer_tensor, random_tensor

SLOPE = 0.125
PIECEWISE: dict[str, Any] = {
    "none": lambda v: v,
    "relu": F.relu,
    "relu6": F.relu6,
    "leaky_relu": lambda v: F.leaky_relu(v, SLOPE),
    "hardswish": F.hardswish,
}
CASES = (
    conv("3x3", 2, 5, 19, (9, 7), 3, 1, 1),
    conv("stride 2 groups", 1, 8, 12, (6, 33), 3, 2, 1, 1, 4),
    conv("1x1", 1, 16, 32, (1, 3), 1),
)


def operands(case: ConvCase, dtype: str, make: Any, **options: Any) -> dict[str, torch.Tensor]:
    shapes = conv_shapes(case)
    return {name: make(shapes[name], DTYPES[dtype], seed=seed, **options) for seed, name in enumerate("xwby")}


DEPTHWISE = (
    conv("depthwise", 2, 20, 20, (9, 35), 3, 1, 1, 1, 20),
    conv("depthwise stride 2", 2, 9, 18, (12, 5), (3, 5), 2, 2, 1, 9),
    conv("depthwise 3d", 1, 4, 4, (3, 4, 5), 3, 1, 1, 1, 4),
)


@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("case", DEPTHWISE, ids=lambda case: case.name)
def test_depthwise(case: ConvCase, dtype: str, layout: str) -> None:
    test_epilogue(case, dtype, layout, "depthwise")


@pytest.mark.parametrize("kernel", ["direct", "blocked"])
@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_epilogue(case: ConvCase, dtype: str, layout: str, kernel: str) -> None:
    for name, act in PIECEWISE.items():
        options = {"layout": layout, "kernel": kernel, "activation": name, "slope": SLOPE}
        t = operands(case, dtype, integer_tensor)
        total = torch_conv(case, *(t[each].double() for each in "xwby"))["fprop"]
        for residual in (t["y"], None):
            exact = act(total + (0 if residual is None else residual.double()))
            ours = run_conv(case, "fprop", t["x"], t["w"], t["b"], residual=residual, **options)
            if name == "hardswish":
                assert_close_to_float64(ours, exact.to(ours.dtype), exact)
            else:
                assert torch.equal(ours, exact.to(ours.dtype)), name
        t = operands(case, dtype, random_tensor)
        exact = act(torch_conv(case, *(t[each].double() for each in "xwby"))["fprop"] + t["y"].double())
        theirs = act(torch_conv(case, *(t[each] for each in "xwby"))["fprop"] + t["y"])
        ours = run_conv(case, "fprop", t["x"], t["w"], t["b"], residual=t["y"], **options)
        assert_close_to_float64(ours, theirs, exact, name)


@pytest.mark.parametrize("kernel", ["direct", "blocked"])
@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_rounds_once(dtype: str, layout: str, kernel: str) -> None:
    """The residual takes away all but what rounding the sum to 16 bits would have lost."""
    case = CASES[0]
    t = operands(case, dtype, integer_tensor, high=64)
    total = torch_conv(case, *(t[each].double() for each in "xwby"))["fprop"]
    residual = -total.to(DTYPES[dtype])
    lost = total + residual.double()
    assert lost.abs().max() > 1  # or the test says nothing
    options = {"layout": layout, "kernel": kernel, "activation": "relu"}
    ours = run_conv(case, "fprop", t["x"], t["w"], t["b"], residual=residual, **options)
    assert torch.equal(ours.double(), lost.relu())


def test_refusals_and_price() -> None:
    """What is not fused is refused with a reason, and PyTorch's part of the composition is paid for."""
    case = conv("depthwise", 1, 8, 8, (64, 64), 3, 1, 1, 1, 8)

    def look(dtype: str = "float32", **options: Any) -> dict[str, Any]:
        problem = _cpu.ConvProblem(**case.arguments(dtype, "nchw"))
        return {each.kernel: each for each in _cpu.conv_plan(problem, "fprop", **options).candidates}

    assert (
        look("float16", activation="relu")["depthwise"].reason
        == "adds no residual and applies no activation in 16 bits"
    )
    assert "silu is quicker by PyTorch's" in look(activation="silu")["direct"].reason
    plain, fused = look(), look(residual=True, activation="relu")
    best = min(each.cost.microseconds for each in plain.values() if each.accepted)
    assert fused["aten"].cost.microseconds > best
