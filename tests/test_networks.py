"""Every distinct layer of ten networks, in the emulator (or on a GPU): all passes, dtypes and layouts, exactly.

The planned kernel runs each pass on small integers, whose sums every dtype holds: the result is torch's in float64,
rounded once. The planes are reduced (networks.py): what remains of a layer is its channels and geometry.
"""

from __future__ import annotations

import pytest
import torch
from kernel_driver import (
    CONV_PASSES,
    DTYPES,
    LAYOUTS,
    Driver,
    conv_operands,
    conv_oracle,
    gpu_driver,  # noqa: F401 (a fixture)
    pool_oracle,
)
from networks import CONV_NETWORKS, POOL_NETWORKS, reduced, reduced_pool
from shapes import ConvCase

#: name -> (dtype, what float32 products are made of)
MODES = {**{dtype: (dtype, "ieee") for dtype in DTYPES}, "tf32": ("float32", "tf32"), "tf32x3": ("float32", "tf32x3")}


def assert_layer(driver: Driver, case: ConvCase, mode: str, layouts: tuple[str, ...] = LAYOUTS) -> None:
    dtype, math = MODES[mode]
    operands = conv_operands(case, dtype, integers=True)
    for pass_ in CONV_PASSES:
        expected = conv_oracle(case, pass_, operands.double()).to(DTYPES[dtype])
        for layout in layouts:
            result = driver.conv(case, pass_, operands, layout, math=math)
            assert torch.equal(result, expected), (case.name, pass_, layout)


# A hundred layers that differ in size alone.
LARGE = "EfficientNet-B1-B7"


@pytest.mark.parametrize(
    "network", [pytest.param(name, marks=pytest.mark.slow if name == LARGE else ()) for name in CONV_NETWORKS]
)
def test_network_on_tensor_cores(driver: Driver, network: str) -> None:
    """What a network trained in half precision runs: float16, channels last."""
    for case in CONV_NETWORKS[network]:
        assert_layer(driver, reduced(case), "float16", ("nhwc",))


@pytest.mark.slow
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("network", CONV_NETWORKS)
def test_network(driver: Driver, network: str, mode: str) -> None:
    for case in CONV_NETWORKS[network]:
        assert_layer(driver, reduced(case), mode)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("network", POOL_NETWORKS)
def test_pooling_of_a_network(driver: Driver, network: str, dtype: str) -> None:
    """Forward and, from its winners, backward."""
    for case in map(reduced_pool, POOL_NETWORKS[network]):
        generator = torch.Generator().manual_seed(0)
        # Multiples of the largest window's size: the averages are exact too.
        scale = case.window[0] * case.window[1]
        x = (torch.randint(-2, 3, (case.n, case.c, *case.input), generator=generator) * scale).to(DTYPES[dtype])
        leaf = x.double().requires_grad_()
        y, _ = pool_oracle(case, leaf)
        gy = (torch.randint(-2, 3, y.shape, generator=generator) * scale).to(x.dtype)
        (gx,) = torch.autograd.grad(y, leaf, gy.double())
        for layout in LAYOUTS:
            result = driver.pool(case, x, layout)
            assert torch.equal(result.y.cpu(), y.detach().to(x.dtype)), (case.name, layout)
            found = driver.pool_from(case, "dgrad", gy, result.offsets, layout)
            assert torch.equal(found.cpu(), gx.to(x.dtype)), (case.name, layout)


def test_reduced_layers_keep_what_matters() -> None:
    """Channels, filter, stride, padding, dilation; of a dilated filter at least two taps meet the plane."""
    for cases in CONV_NETWORKS.values():
        assert len(cases) == len(set(cases)), "each layer once"
        for case in cases:
            less = reduced(case)
            assert (less.c, less.k, less.filter, less.groups) == (case.c, case.k, case.filter, case.groups)
            assert (less.stride, less.dilation, less.padding_low) == (case.stride, case.dilation, case.padding_low)
            assert all(least <= full for least, full in zip(less.output, case.output, strict=True))
            rows = min(3, case.output[0])
            assert less.output[0] >= rows and less.flops <= max(2e7, 38 * case.flops / case.output[0] / case.output[1])
            if less.filter[0] > 1:
                assert less.input[0] > case.dilation[0]
