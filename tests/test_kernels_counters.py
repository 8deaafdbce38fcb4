"""What the kernels ask of memory, counted by the emulator: a profiler for machines with no GPU.

Budgets for aligned shapes, as multiples of the ideal (the fewest 32-byte sectors or 128-byte wavefronts that could
carry the bytes each request wants): 1.25 for global loads, 1.05 for global stores and shared memory. The exceptions are
listed, with their reason; each is a figure to beat.
"""

from __future__ import annotations

import re

import pytest
import torch
from kernel_driver import DTYPES, LAYOUTS, Driver, conv_operands
from networks import CONV_NETWORKS, reduced
from shapes import ConvCase, PoolCase, conv, pool

from fastconv import _emulator

LOADS, STORES, SHARED = 1.25, 1.05, 1.05

CONV = (
    conv("1x1", 1, 64, 64, (16, 16), 1),
    conv("3x3", 1, 32, 64, (16, 16), 3, 1, 1),
)

# A filter has too few taps for the lanes of a warp: they meet in the banks, as do fewer than eight vectors of channels
# when read. The weight gradient in KCRS is written where its elements lie, 9 apart: from accumulators read in order.
PACKING = {"pack": {"stores": 1.0, "shared": 2.2}, "unpack": {"stores": 9.0}}


@pytest.fixture
def driver() -> Driver:
    return Driver(_emulator, "cpu")


def ratios(kernel: str) -> dict[str, float]:
    """Counted over ideal by address space, of one kernel since the last reset; 1 where nothing was asked."""
    row = _emulator.counters()[kernel]
    return {
        space: (row[space].get("sectors") or row[space].get("wavefronts") or 0) / max(row[space]["ideal"], 1)
        for space in ("global_load", "global_store", "shared_load", "shared_store")
    }


def assert_within(kernel: str, loads: float = LOADS, stores: float = STORES, shared: float = SHARED) -> None:
    found = ratios(kernel)
    limits = {"global_load": loads, "global_store": stores, "shared_load": shared, "shared_store": shared}
    assert all(found[space] <= limit for space, limit in limits.items()), (kernel, found, limits)


def counted_conv(driver: Driver, case: ConvCase, pass_: str, dtype: str, layout: str, kernel: str) -> None:
    operands = conv_operands(case, dtype)
    _emulator.reset_counters()
    driver.conv(case, pass_, operands, layout, kernel)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("pass_", ["fprop", "dgrad", "wgrad"])
@pytest.mark.parametrize("case", CONV, ids=lambda case: case.name)
def test_convolution(driver: Driver, case: ConvCase, pass_: str, dtype: str, layout: str) -> None:
    for kernel in driver.kernels(case, pass_, dtype, layout):
        counted_conv(driver, case, pass_, dtype, layout, kernel)
        if kernel.startswith("igemm"):
            # Padding is not loaded and a tap's channels are whole sectors: nothing is left to be gained.
            assert_within(f"igemm_{pass_}", 1.0, 1.0, 1.0)
            for side in _emulator.counters().keys() & {"pack", "unpack"}:
                assert_within(side, 1.0, **PACKING[side])
            continue
        if kernel == "im2col":
            continue  # a baseline
        loads = LOADS
        if pass_ == "dgrad" and layout == "nchw" and case.filter != (1, 1):
            # KCRS read for [c, (k r s)]: runs of R * S elements, neighbouring sectors served by L1.
            loads = 1.75
        assert_within(f"direct_{pass_}", loads)


def assert_layer_within(driver: Driver, case: ConvCase, mode: str, every_tile: bool) -> None:
    """Channels last, every pass: no sector more than the data fill, no bank conflict. The plane is reduced, and one
    sample taken: the tiles are the same.
    """
    case, dtype = reduced(case), "float32" if mode == "tf32" else mode
    math = mode if mode == "tf32" else "ieee"
    operands = conv_operands(case, dtype)
    for pass_ in ("fprop", "dgrad", "wgrad"):
        planned = driver.conv_plan(case, pass_, dtype, "nhwc", math=math).kernel
        tiles = [each for each in driver.kernels(case, pass_, dtype, "nhwc", math=math) if re.match(r"igemm_\d", each)]
        assert planned in tiles and len(tiles) == 3
        for kernel in tiles if every_tile else [planned]:
            _emulator.reset_counters()
            driver.conv(case, pass_, operands, "nhwc", kernel, math=math)
            assert_within(f"igemm_{pass_}", loads=1.1, stores=1.1, shared=1.0)


@pytest.mark.parametrize("case", CONV_NETWORKS["ResNet-50"][1:], ids=lambda case: case.name)
def test_layers_of_resnet_50(driver: Driver, case: ConvCase) -> None:
    assert_layer_within(driver, case, "float16", every_tile=False)


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["float16", "bfloat16", "tf32"])
@pytest.mark.parametrize("case", CONV_NETWORKS["ResNet-50"][1:], ids=lambda case: case.name)
def test_layers_of_resnet_50_by_every_tile(driver: Driver, case: ConvCase, mode: str) -> None:
    assert_layer_within(driver, case, mode, every_tile=True)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_packing_activations(driver: Driver, dtype: str) -> None:
    """Channels first to channels last: whole sectors on both sides, no two lanes in a bank."""
    _emulator.reset_counters()
    case = conv("transposed", 1, 128, 64, (16, 16), 1)
    driver.conv(case, "fprop", conv_operands(case, dtype), "nchw", "igemm_packed_64x64", math="tf32")
    assert_within("pack", 1.0, 1.0, 1.0)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("pass_", ["fprop", "dgrad", "wgrad"])
def test_depthwise(driver: Driver, pass_: str, dtype: str, layout: str) -> None:
    counted_conv(driver, conv("depthwise", 1, 64, 64, (16, 16), 3, 1, 1, 1, 64), pass_, dtype, layout, "depthwise")
    if pass_ == "wgrad":
        # Shared memory is only for the closing sum of 9 taps, stored where they lie: 9 elements, at any alignment.
        assert_within("depthwise_wgrad", stores=1.55, shared=3.05)
    else:
        # Channels last: 16 lanes' vectors of the filter fill two wavefronts and are read twice.
        assert_within(f"depthwise_{pass_}", shared=2.05 if layout == "nhwc" else SHARED)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", (*CONV, conv("depthwise", 1, 64, 64, (16, 16), 3, 1, 1, 1, 64)), ids=lambda c: c.name)
def test_residual(driver: Driver, case: ConvCase, dtype: str, layout: str) -> None:
    """What the residual adds to the loads: its bytes, in whole sectors, whichever kernel; to the stores: nothing."""
    operands = conv_operands(case, dtype)
    math = "tf32" if dtype == "float32" else "ieee"
    for kernel in driver.kernels(case, "fprop", dtype, layout, residual=True, math=math):
        rows = []
        for residual in (None, operands.gy):
            _emulator.reset_counters()
            driver.conv(case, "fprop", operands, layout, kernel, residual=residual, activation="relu", math=math)
            launched = (
                "igemm" if kernel == "im2col" else kernel if kernel == "depthwise_tiled" else kernel.split("_")[0]
            )
            rows.append(_emulator.counters()[f"{launched}_fprop"])
        without, with_it = rows
        loaded = with_it["global_load"]["sectors"] - without["global_load"]["sectors"]
        if case.groups > 1 and not kernel.startswith(
            "depthwise"
        ):  # a GEMM of one row a group stores, and reads, element by element
            assert loaded <= with_it["global_store"]["sectors"], kernel
            continue
        assert loaded <= 1.1 * operands.gy.numel() * operands.gy.element_size() / 32, kernel
        assert with_it["global_store"] == without["global_store"], kernel


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_bias_gradient(driver: Driver, dtype: str, layout: str) -> None:
    counted_conv(driver, conv("bias", 2, 32, 64, (16, 16), 1), "bgrad", dtype, layout, "")
    # A single sum a block (channels first) is one element of a sector: there is nothing to be had.
    assert_within("bias_sum")


@pytest.mark.parametrize("dtype", DTYPES)
def test_wide_results_of_odd_planes(driver: Driver, dtype: str) -> None:
    """Rows that are not aligned to vectors still leave in whole sectors, but for one at either end."""
    counted_conv(driver, conv("odd plane", 1, 16, 64, (15, 15), 1), "fprop", dtype, "nchw", "direct_64x64")
    assert_within("direct_fprop", loads=1.5, stores=1.5)


def _pool_layers(layout: str) -> list[PoolCase]:
    """Pooling layers of ResNet-50, VGG-16, DenseNet-121 and Inception, of fewer channels. Channels first, small planes
    come by the block as they do in a batch: there must be enough of them for that.
    """
    c = 64 if layout == "nhwc" else 4
    return [
        pool("ResNet-50, DenseNet-121 3x3/2", "max", 1, c, (112, 112), 3, 2, 1),
        pool("VGG-16 2x2/2 at 224", "max", 1, c // 4 if layout == "nchw" else c, (224, 224), 2),
        pool("VGG-16 2x2/2 at 14", "max", 1, c if layout == "nhwc" else 4224, (14, 14), 2),
        pool("DenseNet-121 2x2/2", "average", 1, c, (56, 56), 2),
        pool("Inception 3x3/1 at 28", "max", 1, c if layout == "nhwc" else 1056, (28, 28), 3, 1, 1),
        pool("Inception 3x3/1 at 35", "average", 1, c if layout == "nhwc" else 1056, (35, 35), 3, 1, 1),
        pool("global 7x7", "average", 1, c if layout == "nhwc" else 16896, (7, 7), 7),
        pool("global 8x8", "max", 1, c if layout == "nhwc" else 4224, (8, 8), 8),
    ]


POOLS = [
    pytest.param(case, layout, dtype, id=f"{case.name}-{layout}-{dtype}")
    for layout in LAYOUTS
    for case in _pool_layers(layout)
    for dtype in ("float32", "bfloat16", *(("float64",) if layout == "nhwc" else ()))
]


def sectors_and_banks(kernel: str) -> tuple[float, float]:
    """Bytes of the sectors of global memory; wavefronts of shared memory over the fewest."""
    row = _emulator.counters()[kernel]
    shared = [row[space] for space in ("shared_load", "shared_store")]
    ideal = sum(each["ideal"] for each in shared)
    sectors = row["global_load"]["sectors"] + row["global_store"]["sectors"]
    return 32 * sectors, sum(each["wavefronts"] for each in shared) / max(ideal, 1)


@pytest.mark.parametrize(("case", "layout", "dtype"), POOLS)
def test_pooling(driver: Driver, case: PoolCase, layout: str, dtype: str) -> None:
    """Forward with taps and backward: every byte of the tensors is fetched or written once, and hardly any twice; no
    bank is asked twice.
    """
    x = driver.put(torch.randn((case.n, case.c, *case.input)).to(DTYPES[dtype]), layout)
    problem = _emulator.PoolProblem(**case.arguments(dtype, layout))
    y = driver.blank((case.n, case.c, *problem.output), x.dtype, layout)
    taps = driver.blank(tuple(y.shape), torch.uint8, layout) if case.kind == "max" else None
    at = 0 if taps is None else taps.data_ptr()
    once = x.nbytes + y.nbytes + (0 if taps is None else taps.nbytes)
    for pass_, source, result in (("fprop", x, y), ("dgrad", y, x)):
        plan = _emulator.pool_plan(problem, pass_, offsets=taps is not None and pass_ == "fprop")
        _emulator.reset_counters()
        plan.run(source.data_ptr(), result.data_ptr(), at, 0, 0, 0)
        (kernel,) = _emulator.counters()
        moved, banks = sectors_and_banks(kernel)
        # float64: the taps of 128 bytes of channels are half a sector.
        assert moved <= (1.06 if dtype == "float64" else 1.05) * once, (plan, plan.detail, moved / once)
        # Rows of an odd number of two-byte elements: a word's two halves belong to two of them.
        odd = dtype == "bfloat16" and layout == "nchw" and case.input[1] % 2 == 1
        assert banks <= (1.6 if odd else 1.1), (plan, plan.detail, banks)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_pooling_by_threads_alone(driver: Driver, dtype: str, layout: str) -> None:
    """pool_direct, which nothing stages for: whole sectors, if several times over."""
    for kind in ("max", "average"):
        case = pool("2x2", kind, 1, 32, (32, 32), 2)
        x = torch.randn(1, 32, 32, 32, dtype=torch.float64).to(DTYPES[dtype])
        _emulator.reset_counters()
        result = driver.pool(case, x, layout, "pool_direct")
        # int64 indices, written only when asked for: 16 bytes at a time of 32 or 64 a thread.
        assert_within(
            "pool_forward", loads=2.05 if layout == "nchw" else LOADS, stores=2.05 if kind == "max" else STORES
        )
        _emulator.reset_counters()
        driver.pool_from(case, "dgrad", x[:, :, :16, :16], result.offsets, layout, kernel="pool_direct")
        assert_within("pool_backward")


def test_counts_do_not_depend_on_the_schedule(driver: Driver) -> None:
    found = []
    for settings in ({"schedule": "forward"}, {"schedule": "random", "seed": 5}, {"schedule": "reverse", "threads": 2}):
        before = _emulator.configure(**settings)
        try:
            counted_conv(driver, CONV[1], "fprop", "float32", "nchw", "direct_64x64")
            found.append(_emulator.counters()["direct_fprop"])
        finally:
            _emulator.configure(**before)
    assert found[0] == found[1] == found[2]
