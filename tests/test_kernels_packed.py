"""Tensor-core kernels on packed operands: channels first, odd channel counts, groups of few channels."""

from __future__ import annotations

import pytest
import torch
from kernel_driver import (
    DTYPES,
    LAYOUTS,
    Driver,
    conv_operands,
    conv_oracle,
    gpu_driver,  # noqa: F401 (a fixture)
)
from shapes import ConvCase, conv

PASSES = ("fprop", "dgrad", "wgrad")
KERNEL = "igemm_packed_64x64"
PLANES = ("igemm_planes_128x128", "igemm_planes_64x128", "igemm_planes_64x64")
KERNELS = (KERNEL, "im2col", *PLANES)

CASES = (
    conv("one vector of channels", 2, 8, 8, (17, 19), 3, 1, 1),
    conv("vectors of positions", 2, 40, 72, (8, 12), 3, 1, 1),
    conv("two tiles of channels", 1, 130, 67, (5, 7), 3, 2, 1),
    conv("one position", 3, 9, 10, (3, 3), 3),
    conv("pointwise, odd plane", 2, 24, 40, (7, 7), 1),
    conv("pointwise, even plane", 2, 24, 40, (8, 8), 1),
    conv("pointwise, planes of four", 37, 24, 40, (2, 2), 1),
    conv("pointwise, half a vector left", 3, 136, 200, (6, 10), 1),
    conv("pointwise, strided onto its own size", 1, 16, 16, (4, 4), 1, 2, ((0, 3), (0, 3))),
    conv("pointwise, groups", 2, 48, 96, (4, 6), 1, 1, 0, 1, 3),
    conv("pointwise, odd channels", 2, 5, 11, (3, 8), 1),
    conv("odd output channels", 2, 16, 21, (7, 6), 3, 1, 1),
    conv("one channel", 2, 1, 1, (6, 5), 3, 1, 1),
    conv("four a group", 1, 64, 64, (7, 8), 3, 1, 1, 1, 16),
    conv("all groups in one, padded", 1, 9, 15, (6, 5), 3, 1, 1, 1, 3),
    conv("groups side by side, padded", 2, 68, 132, (4, 5), 3, 2, 1, 1, 2),
    conv("more in than out", 1, 96, 24, (5, 4), 3, 1, 1, 1, 12),
    conv("depthwise", 1, 40, 40, (5, 6), 3, 1, 1, 1, 40),
    conv("phases without taps", 1, 12, 20, (9, 7), 2, 3, 1),
    conv("volume", 1, 12, 20, (4, 5, 6), (2, 3, 3), (1, 2, 1), 1),
    conv("line", 2, 12, 20, (33,), 5, 2, 2, 2),
    # Few channels: neighbouring columns are taken as channels.
    conv("first layer", 2, 3, 16, (12, 14), 7, 2, 3),
    conv("first layer, odd width", 1, 3, 16, (12, 15), 7, 2, 3),
    conv("first layer, asymmetric", 1, 3, 9, (9, 20), (5, 3), (3, 4), ((2, 0), (1, 6))),
    conv("patches", 2, 3, 24, (8, 12), 4, 4),
    conv("patches of a volume", 1, 3, 10, (4, 8, 16), (2, 8, 8), (2, 8, 8)),
    conv("filter shorter than its stride", 1, 2, 8, (6, 24), (2, 3), (1, 8), 1),
    conv("one channel, stride 2", 2, 1, 8, (10, 10), 3, 2, 1),
)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_integers_are_exact(driver: Driver, case: ConvCase, dtype: str) -> None:
    """Whatever is packed, at aligned addresses and at others."""
    operands = conv_operands(case, dtype, integers=True)
    for pass_ in PASSES:
        exact = conv_oracle(case, pass_, operands.double()).to(DTYPES[dtype])
        for layout in LAYOUTS:
            kernels = set(driver.kernels(case, pass_, dtype, layout, math="tf32")) & set(KERNELS)
            assert pass_ == "dgrad" or "im2col" in kernels
            for kernel in kernels:
                for offset in (0, 1):
                    result = driver.conv(case, pass_, operands, layout, kernel, offset, math="tf32")
                    assert torch.equal(result, exact), (pass_, layout, kernel, offset)


def test_pointwise_planes_are_read_as_they_lie(driver: Driver) -> None:
    """Whole copies wherever a plane is whole copies; elements elsewhere; never for what is not pointwise."""

    def names(*case: object, pass_: str = "fprop", layout: str = "nchw") -> set[str]:
        return set(driver.kernels(conv("planes", *case), pass_, "float16", layout)) & set(PLANES)

    assert names(2, 16, 24, (6, 6), 1) == set(PLANES)
    assert names(2, 16, 24, (7, 7), 1) == {"igemm_planes_64x64"}
    assert names(2, 12, 24, (6, 6), 1) == {"igemm_planes_64x64"}
    assert names(2, 12, 24, (6, 6), 1, pass_="wgrad") == set(PLANES)
    assert not names(2, 16, 24, (6, 6), 1, layout="nhwc")
    assert (
        not names(2, 16, 24, (6, 6), 1, 2) and not names(2, 16, 24, (6, 6), 1, 1, 1) and not names(2, 16, 24, (6, 6), 2)
    )


def test_only_what_is_odd_is_packed(driver: Driver) -> None:
    """Every operand that can be read as it lies is."""

    def detail(case: ConvCase, pass_: str, layout: str) -> str:
        return driver.conv_plan(case, pass_, "float16", layout, KERNEL).detail

    dense, pointwise = conv("3x3", 2, 64, 128, (8, 8), 3, 1, 1), conv("1x1", 2, 64, 128, (8, 8), 1)
    assert KERNEL not in driver.kernels(dense, "fprop", "float16", "nhwc")
    assert "packs x and weight" in detail(dense, "fprop", "nchw")
    assert "packs gy and weight" in detail(dense, "dgrad", "nchw")
    assert "packs x and gy, unpacks" in detail(dense, "wgrad", "nchw")
    assert detail(pointwise, "fprop", "nchw").endswith("packs x")
    assert detail(pointwise, "wgrad", "nchw").endswith("packs x and gy")
    grouped = conv("grouped", 2, 64, 64, (8, 8), 3, 1, 1, 1, 16)
    assert detail(grouped, "fprop", "nhwc").endswith("packs weight, 8 groups in one")
    patches = conv("patches", 2, 3, 64, (16, 32), 16, 16)
    assert detail(patches, "fprop", "nhwc").endswith("copies of 16 bytes, 16 columns taken as channels")
    head = conv("odd output channels", 2, 64, 21, (8, 8), 3, 1, 1)
    assert KERNEL not in driver.kernels(head, "fprop", "float16", "nhwc")
    assert driver.conv_plan(head, "fprop", "float16", "nhwc", "igemm_64x128").detail.endswith("copies of 16 bytes")
    assert "packs gy and weight" in detail(head, "dgrad", "nhwc")
    assert detail(head, "wgrad", "nhwc").endswith("packs gy, unpacks the result")
    last = conv("one position", 2, 64, 64, (1, 1), 1)
    assert KERNEL not in driver.kernels(last, "fprop", "float16", "nchw")


@pytest.mark.parametrize("layout", LAYOUTS)
def test_slices_and_the_workspace(driver: Driver, layout: str) -> None:
    """wgrad in several slices; less workspace, fewer slices; too little for the packed operands is refused."""
    case = conv("long sum", 9, 3, 5, (17, 19), 3, 1, 1)
    operands = conv_operands(case, "float16", integers=True)
    exact = conv_oracle(case, "wgrad", operands.double()).half()
    whole = driver.conv_plan(case, "wgrad", "float16", layout, KERNEL).workspace_bytes
    packed = 2 * (9 * 17 * 19 * 8 * 2 // 256 + 1) * 256
    one = driver.conv_plan(case, "wgrad", "float16", layout, KERNEL, workspace_limit=packed + 4096)
    assert packed < one.workspace_bytes <= packed + 4096 < whole
    for limit in (-1, packed + 4096):
        result = driver.conv(case, "wgrad", operands, layout, KERNEL, workspace_limit=limit)
        assert torch.equal(result, exact), limit
    with pytest.raises(RuntimeError, match="bytes of workspace, the limit is"):
        driver.conv_plan(case, "wgrad", "float16", layout, KERNEL, workspace_limit=packed)
