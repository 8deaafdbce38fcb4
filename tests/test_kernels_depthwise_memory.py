"""What the tiled depthwise kernels ask of memory on the layers of networks, counted by the emulator."""

from __future__ import annotations

from dataclasses import replace
from math import prod

import pytest
import torch
from kernel_driver import (
    DTYPES,
    LAYOUTS,
    Driver,
    blocks_of_a_sample,
    conv_operands,
    found,
    gpu_driver,  # noqa: F401 (a fixture)
)
from networks import CONV_NETWORKS
from shapes import ConvCase, depthwise

from bench import networks
from fastconv import _emulator

KERNEL = "depthwise_tiled"
GATHERS = ("fprop", "dgrad")

MOBILENET_V2 = tuple(
    depthwise(f"{c} at {size}, stride {stride}", 1, c, (size, size), 3, stride, 1)
    for c, size, stride in (
        (32, 112, 1), (96, 112, 2), (144, 56, 1), (144, 56, 2), (192, 28, 1), (192, 28, 2), (384, 14, 1), (576, 14, 1),
        (576, 14, 2), (960, 7, 1),
    )
)  # fmt: skip
LAYERS = {
    "MobileNetV2": MOBILENET_V2,
    **{
        name: tuple(case for case in CONV_NETWORKS[name] if case.c == case.groups > 1)
        for name in ("EfficientNet-B0", "EfficientNet-B1-B7", "ConvNeXt-T")
    },
}


def counted(case: ConvCase, pass_: str, dtype: str, layout: str) -> tuple[dict, float]:
    """Counters of the blocks of the first sample, of a batch, and how many samples they take."""
    driver = Driver(_emulator, "cpu")
    plan = driver.conv_plan(case, pass_, dtype, layout, KERNEL)
    planes = int(found(plan, r"of (\d+) (?:samples|planes)"))
    samples = planes if layout == "nhwc" else -(-case.c // planes) * planes / case.c
    x, y = (torch.zeros(case.n, case.c, *size, dtype=DTYPES[dtype]) for size in (case.input, case.output))
    w = torch.zeros(case.c, *case.filter, dtype=DTYPES[dtype])
    a, out = (x, y) if pass_ == "fprop" else (y, x)
    _emulator.reset_counters()
    before = _emulator.configure(count=True, blocks=blocks_of_a_sample(plan, case, layout))
    try:
        plan.run(a.data_ptr(), w.data_ptr(), 0, 0, out.data_ptr(), 0, 0)
    finally:
        _emulator.configure(**before)
    return _emulator.counters()[f"{KERNEL}_{pass_}"], samples


def halo(case: ConvCase, pass_: str, plan: object) -> tuple[int, float]:
    """The tiles that a plane is cut into; what they stage of their source beyond all of it, as a part of it."""
    tiles, staged = 1, 1.0
    tile = [int(each) for each in found(plan, r"tile \d+x(\d+x\d+)").split("x")]
    for i, outputs in enumerate(tile):
        s, r, d = case.stride[i], case.filter[i], case.dilation[i]
        if pass_ == "fprop":
            source, result, reach = case.input[i], case.output[i], (outputs - 1) * s + (r - 1) * d + 1
        else:
            source, result = case.output[i], case.input[i]
            met = {h + case.padding_low[i] - t * d for h in range(outputs) for t in range(r)}
            met = {each // s for each in met if each % s == 0}
            reach = max(met) - min(met) + 1
        tiles *= -(-result // outputs)
        staged *= -(-result // outputs) * min(reach, source) / source
    return tiles, staged - 1


def assert_budget(case: ConvCase, dtype: str, conflicts: float = 1.1) -> None:
    """Global memory, in sectors that blocks ask for: source and result once, filters and broken sectors at most 15 %
    above, halos at most 30 %; and as many as the plan has foretold. Every block asks for its filters, DRAM is asked for
    them once a batch. Shared memory: at most so many wavefronts for each that the requests need.
    """
    case = replace(case, n=32)
    for layout in LAYOUTS:
        for pass_ in GATHERS:
            row, samples = counted(case, pass_, dtype, layout)
            sectors = row["global_load"]["distinct"] + row["global_store"]["distinct"]
            plan = Driver(_emulator, "cpu").conv_plan(case, pass_, dtype, layout, KERNEL)
            tiles, rims = halo(case, pass_, plan)
            sample = case.c * (prod(case.input) + prod(case.output)) * DTYPES[dtype].itemsize
            filters = case.c * prod(case.filter) * DTYPES[dtype].itemsize
            staged = filters * tiles * (1 if layout == "nhwc" else samples)
            ratio = ((sectors * 32 - staged) / samples + filters / case.n) / sample
            foretold = next(each for each in plan.candidates if each.kernel == KERNEL).cost.bytes / (sample * case.n)
            source = case.input if pass_ == "fprop" else case.output
            part = source[0] * source[1] / (case.input[0] * case.input[1] + case.output[0] * case.output[1])
            where = (case.name, pass_, dtype, layout, plan.detail, ratio)
            assert ratio <= 1.3 and ratio - part * rims <= 1.15, where
            assert ratio == pytest.approx(foretold, rel=0.01), where
            shared = [row["shared_load"], row["shared_store"]]
            banks = sum(each["wavefronts"] for each in shared) / sum(each["ideal"] for each in shared)
            assert banks <= conflicts, (where, banks)


NETWORK_CASES = [pytest.param(case, id=f"{name} {case.name}") for name, cases in LAYERS.items() for case in cases]


def test_scaling_of_efficientnet() -> None:
    """The rule that makes B1 to B7 makes B0, which was written down."""
    b0 = {layer for layer in networks.CONV_NETWORKS["EfficientNet-B0"] if layer.groups > 1}
    assert set(networks._efficientnet_depthwise(1.0, 1.0, 224)) == b0


def test_layers_of_networks_move_little(driver: Driver) -> None:
    if driver.device != "cpu":
        pytest.skip("cuda: nothing is counted there")
    for dtype, layers in (("float16", (4, 8, 9)), ("float32", (1, 3, 5, 8, 9))):
        for i in layers:
            assert_budget(MOBILENET_V2[i], dtype)


def test_odd_rows_move_little(driver: Driver) -> None:
    """Rows that are no whole sectors are not cut where they break them; halos are not paid where planes are small."""
    if driver.device != "cpu":
        pytest.skip("cuda: nothing is counted there")
    for c, size, filter in ((24, 190, 3), (816, 19, 5)):
        assert_budget(depthwise("odd rows", 1, c, (size, size), filter, 1, filter // 2), "float16")


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("filter", [3, 5, 7])
def test_weight_gradient_reads_once(layout: str, filter: int) -> None:
    """x, gy and the halo, whatever the filter: at most 15 % above their bytes."""
    driver = Driver(_emulator, "cpu")
    case = depthwise("read once", 64, 32, (28, 28), filter, 1, filter // 2)
    operands = conv_operands(case, "float16")
    before = _emulator.configure(count=True)
    try:
        _emulator.reset_counters()
        driver.conv(case, "wgrad", operands, layout, KERNEL)
        row = _emulator.counters()[f"{KERNEL}_wgrad"]
    finally:
        _emulator.configure(**before)
    assert row["global_load"]["sectors"] * 32 <= 1.15 * 2 * (operands.x.numel() + operands.gy.numel())
    assert row["shared_load"]["wavefronts"] <= 1.25 * row["shared_load"]["ideal"]


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("case", NETWORK_CASES)
def test_every_layer_of_networks_moves_little(case: ConvCase, dtype: str) -> None:
    """Warps that run on into the next strip find its rows 7 pitches on: no conflict where 7 * pitch is the strip's
    lanes, modulo the banks. Copies that run on into the next row want pitches of the row's length. Where strips are
    no whole warps (odd rows, of EfficientNet-B1 to B7) both hold for few lengths, and the copies have it. Of stride 2
    strips are 14 pitches apart, and no pitch makes odd lanes of that.
    """
    warps = case.input[1] % 28 == 0 or case.input[1] in (7, 14)
    assert_budget(case, dtype, conflicts=1.1 if warps else 1.2 if case.stride[1] == 1 else 1.3)
