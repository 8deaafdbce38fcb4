"""The depthwise and grouped layers of well-known networks on the CPU, at their full planes: every native kernel that
accepts one, all passes and both layouts, exact on small integers.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from cpu_driver import run_conv, torch_conv
from networks import CONV_NETWORKS
from shapes import ConvCase, conv
from test_cpu_conv import NATIVE, PASSES, accepts, inputs, operands

LAYERS = {case.name: case for cases in CONV_NETWORKS.values() for case in cases if case.groups > 1}

# What the layers leave out: blocks of channels that are not full, planes that take several bands, both at once.
MORE = (
    conv("17 channels", 2, 17, 17, (9, 11), 3, 1, 1, 1, 17),
    conv("24 channels, stride 2", 3, 24, 24, (15, 13), 5, 2, 2, 1, 24),
    conv("3 channels", 2, 3, 3, (5, 1), 3, 1, 1, 1, 3),
    conv("bands, stride 3", 1, 20, 20, (131, 67), 5, 3, 2, 1, 20),
    conv("bands, dilated", 2, 9, 9, (90, 75), 3, 1, (2, 5), (2, 5), 9),
    conv("stride beyond the filter", 1, 18, 18, (70, 65), 2, 3, 0, 1, 18),
    conv("51x51", 1, 8, 8, (30, 33), 51, 1, 25, 1, 8),
    conv("last columns unread", 2, 16, 16, (10, 12), 2, 5, 0, 1, 16),
)


def fewer_channels(case: ConvCase) -> ConvCase:
    """Some channels say what many do: 40 of a depthwise layer, two groups of another."""
    groups = min(case.groups, 40 if case.groups == case.c else 2)
    return replace(case, c=case.c // case.groups * groups, k=case.k // case.groups * groups, groups=groups)


def check(case: ConvCase, layout: str, dtype: torch.dtype = torch.float32) -> None:
    t = operands(case, dtype, integers=True)
    exact = torch_conv(case, *(t[name].double() for name in "xwby"))
    for kernel in NATIVE:
        for pass_ in PASSES:
            if kernel != "direct" and accepts(kernel, case, pass_, str(dtype).removeprefix("torch."), layout):
                got = run_conv(case, pass_, *inputs(pass_, t), layout=layout, kernel=kernel)
                assert torch.equal(got, exact[pass_].to(dtype)), (kernel, pass_)


@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
@pytest.mark.parametrize("name", LAYERS)
def test_layer(name: str, layout: str) -> None:
    check(fewer_channels(LAYERS[name]), layout)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
@pytest.mark.parametrize("case", MORE, ids=lambda case: case.name)
def test_odd_shape(case: ConvCase, layout: str, dtype: torch.dtype) -> None:
    check(case, layout, dtype)
