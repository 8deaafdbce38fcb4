"""The direct convolution kernels and the bias gradient, by themselves: every pass, tile, dtype and layout."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
import torch
from kernel_driver import (
    CONV_PASSES,
    DTYPES,
    LAYOUTS,
    Driver,
    conv_exactly,
    conv_operands,
    conv_oracle,
    gpu_driver,  # noqa: F401 (a fixture)
    schedule,  # noqa: F401 (a fixture)
)
from shapes import CONV_DEFAULT, CONV_NETWORK, CONV_RIGOROUS, ConvCase, conv

from fastconv.testing import assert_close_to_float64

PASSES = ("fprop", "dgrad", "wgrad")
IGEMM_TILES = [f"{packed}{tile}" for packed in ("", "packed_", "planes_") for tile in ("128x128", "64x128", "64x64")]


def ids(cases: tuple[ConvCase, ...]) -> list[str]:
    return [case.name for case in cases]


def family(kernel: str) -> str:
    """Kernels that differ in their tile only add up in the same order."""
    return kernel if kernel.startswith("depthwise") else kernel.rsplit("_", 1)[0]


def assert_exact(driver: Driver, case: ConvCase, dtype: str, offset: int = 0) -> None:
    """Small integers, every pass, layout and tile: the result is the exact one, rounded once."""
    operands = conv_operands(case, dtype, integers=True)
    exact = {pass_: conv_oracle(case, pass_, operands.double()) for pass_ in CONV_PASSES}
    for pass_ in CONV_PASSES:
        expected = exact[pass_].to(DTYPES[dtype])
        for layout in LAYOUTS:
            for kernel in driver.kernels(case, pass_, dtype, layout):
                result = driver.conv(case, pass_, operands, layout, kernel, offset)
                assert torch.equal(result, expected), f"{pass_} {layout} {kernel}"


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", CONV_DEFAULT, ids=ids(CONV_DEFAULT))
def test_integers_are_exact(driver: Driver, case: ConvCase, dtype: str) -> None:
    assert_exact(driver, case, dtype)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("case", CONV_DEFAULT, ids=ids(CONV_DEFAULT))
def test_dgrad_adds_a_bias(driver: Driver, case: ConvCase, dtype: str) -> None:
    """What a transposed convolution is: every kernel adds one number to each channel of gx."""
    operands = conv_operands(case, dtype, integers=True)
    bias = torch.arange(1.0, case.c + 1).to(DTYPES[dtype])
    exact = conv_oracle(case, "dgrad", operands.double()) + bias.double().view(-1, *[1] * len(case.input))
    for layout, math in itertools.product(LAYOUTS, ("ieee", "tf32")):
        for kernel in driver.kernels(case, "dgrad", dtype, layout, math=math):
            result = driver.conv(case, "dgrad", operands, layout, kernel, bias=bias, math=math)
            assert torch.equal(result, exact.to(DTYPES[dtype])), f"{layout} {kernel}"


@pytest.mark.slow
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", CONV_RIGOROUS + CONV_NETWORK, ids=ids(CONV_RIGOROUS + CONV_NETWORK))
def test_integers_are_exact_rigorous(driver: Driver, case: ConvCase, dtype: str) -> None:
    assert_exact(driver, case, dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_misaligned_addresses(driver: Driver, dtype: str) -> None:
    """A slice of a bigger buffer starts anywhere: the vector kernels step back to elements."""
    assert_exact(driver, conv("aligned", 2, 16, 32, (8, 8), 3, 1, 1), dtype, offset=1)
    assert_exact(driver, conv("aligned groups", 2, 16, 32, (6, 4), 3, 2, 1, 1, 4), dtype, offset=3)
    assert_exact(driver, conv("aligned depthwise", 2, 16, 16, (6, 4), 3, 2, 1, 1, 16), dtype, offset=1)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "case", CONV_NETWORK[:2] + CONV_NETWORK[4:5] + CONV_NETWORK[11:13] + CONV_NETWORK[15:16], ids=lambda c: c.name
)
def test_error_is_torchs(driver: Driver, case: ConvCase, dtype: str) -> None:
    """Random values: at most twice as far from the definition as torch at the same dtype."""
    operands = conv_operands(case, dtype)
    for pass_, exact in conv_exactly(case, operands).items():
        theirs = conv_oracle(case, pass_, operands)
        for layout in LAYOUTS:
            ours = driver.conv(case, pass_, operands, layout)
            assert_close_to_float64(ours, theirs, exact, f"{pass_} {layout}")


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("channels", [(6, 10, 2), (6, 6, 6), (16, 24, 1)], ids=["groups", "depthwise", "dense"])
def test_a_sample_does_not_depend_on_its_batch(
    driver: Driver, dtype: str, layout: str, channels: tuple[int, int, int]
) -> None:
    """fprop and dgrad: bit for bit, whatever tile was planned for either batch."""
    many, one = (conv("batch", n, *channels[:2], (9, 7), 3, 2, 1, 1, channels[2]) for n in (5, 1))
    operands = conv_operands(many, dtype)
    for pass_ in ("fprop", "dgrad"):
        chosen = driver.conv_plan(many, pass_, dtype, layout).kernel
        together = driver.conv(many, pass_, operands, layout)
        for i in range(many.n):
            alone = type(operands)(operands.x[i : i + 1], operands.w, operands.bias, operands.gy[i : i + 1])
            for kernel in driver.kernels(one, pass_, dtype, layout):
                if family(kernel) == family(chosen):  # one family: any of its tiles may be chosen
                    same = torch.equal(driver.conv(one, pass_, alone, layout, kernel), together[i : i + 1])
                    assert same, (pass_, kernel)


def test_the_batch_does_not_choose_the_family(driver: Driver) -> None:
    """However small or large the batch, the kernels that are chosen add up in one order."""
    for case in CONV_NETWORK:
        for dtype, layout in itertools.product(DTYPES, LAYOUTS):
            for pass_ in ("fprop", "dgrad"):
                plans = [driver.conv_plan(replace(case, n=n), pass_, dtype, layout).kernel for n in (1, 3, 32, 4096)]
                assert len({family(name) for name in plans}) == 1, (case.name, dtype, layout, pass_, plans)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_tensor_cores_take_what_is_channels_last(driver: Driver, dtype: str) -> None:
    """Any channel count, group, stride, dilation and padding: nothing is refused for its alignment."""
    for case, pass_ in itertools.product(CONV_RIGOROUS, PASSES):
        assert "igemm_64x64" in driver.kernels(case, pass_, dtype, "nhwc"), (case.name, pass_)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_runs_repeat_to_the_bit(driver: Driver, layout: str) -> None:
    case = conv("repeat", 3, 7, 9, (8, 9), 3, 1, 1)
    operands = conv_operands(case, "float32")
    for pass_ in CONV_PASSES:
        first = driver.conv(case, pass_, operands, layout)
        assert torch.equal(driver.conv(case, pass_, operands, layout), first), pass_


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_sliced_reductions(driver: Driver, dtype: str, layout: str) -> None:
    """wgrad and bgrad in several slices through the workspace, and in one where no workspace is allowed."""
    for case in (conv("long sum", 9, 3, 5, (17, 19), 3, 1, 1), conv("depthwise", 9, 5, 5, (17, 19), 4, 1, 1, 1, 5)):
        assert_slices(driver, case, dtype, layout)


def assert_slices(driver: Driver, case: ConvCase, dtype: str, layout: str) -> None:
    operands = conv_operands(case, dtype, integers=True)
    for pass_ in ("wgrad", "bgrad"):
        exact = conv_oracle(case, pass_, operands.double()).to(DTYPES[dtype])
        sliced = driver.conv_plan(case, pass_, dtype, layout)
        whole = driver.conv_plan(case, pass_, dtype, layout, workspace_limit=0)
        assert whole.workspace_bytes == 0
        if pass_ == "wgrad" or layout == "nhwc":
            assert sliced.workspace_bytes > 0, sliced.detail
        assert torch.equal(driver.conv(case, pass_, operands, layout), exact)
        assert torch.equal(driver.conv(case, pass_, operands, layout, workspace_limit=0), exact)


def test_bias_gradient_in_slices_channels_first(driver: Driver) -> None:
    for width in (512, 513):  # in vectors, by elements
        case = conv("long plane", 2, 1, 1, (128, width), 1)
        operands = conv_operands(case, "float16", integers=True)
        assert driver.conv_plan(case, "bgrad", "float16", "nchw").workspace_bytes > 0
        exact = conv_oracle(case, "bgrad", operands.double()).to(torch.float16)
        assert torch.equal(driver.conv(case, "bgrad", operands, "nchw"), exact)


@pytest.mark.parametrize("case", CONV_DEFAULT, ids=ids(CONV_DEFAULT))
def test_passes_are_adjoint(driver: Driver, case: ConvCase) -> None:
    """<conv(x, w), g> = <x, dgrad(g, w)> = <w, wgrad(x, g)>, in float64."""
    operands = conv_operands(case, "float64")
    for layout in LAYOUTS:
        y, gx, gw = (driver.conv(case, pass_, operands, layout) for pass_ in PASSES)
        bias = operands.bias.view(-1, *[1] * len(case.input))
        products = [((y - bias) * operands.gy).sum(), (gx * operands.x).sum(), (gw * operands.w).sum()]
        scale = (y.abs() * operands.gy.abs()).sum() + 1
        assert max(products) - min(products) < 1e-13 * scale


def test_beyond_two_to_the_31_elements(driver: Driver) -> None:
    """64-bit offsets: the last channel lies 2^31 elements behind the first. Only what is read or written is touched."""
    case = conv("huge", 1, 5, 2, (1 << 15, 1 << 14), 1, 4096)
    if driver.device != "cpu":
        pytest.skip("cuda: the tensor would really take 5 GB there")
    try:
        x = torch.empty((case.n, case.c, *case.input), dtype=torch.float16)
    except RuntimeError as error:
        pytest.skip(f"no address space for 5 GB: {error}")
    seen = x[:, :, ::4096, ::4096]
    operands = conv_operands(conv("seen", 1, 5, 2, tuple(seen.shape[2:]), 1), "float16", integers=True)
    seen.copy_(operands.x)
    exact = conv_oracle(conv("seen", 1, 5, 2, tuple(seen.shape[2:]), 1), "fprop", operands.double())
    plan = driver.conv_plan(case, "fprop", "float16", "nchw", bias=True)
    y = driver.blank(tuple(exact.shape), torch.float16, "nchw")
    plan.run(x.data_ptr(), operands.w.data_ptr(), operands.bias.data_ptr(), 0, y.data_ptr(), 0, 0)
    assert torch.equal(y, exact.half())


def test_refusals_say_why(driver: Driver) -> None:
    def reasons(case: ConvCase, pass_: str, dtype: str = "float32") -> dict[str, str]:
        problem = driver.module.ConvProblem(**case.arguments(dtype, "nchw"))
        plan = driver.module.conv_plan(problem, pass_)
        return {c.kernel: c.reason for c in plan.candidates if not c.accepted}

    small = conv("small", 1, 2, 3, (4, 4), 3)
    assert reasons(small, "fprop") == {
        **{f"igemm_{tile}": "the precision asked for is ieee, not tf32 or tf32x3" for tile in IGEMM_TILES},
        "im2col": "the precision asked for is ieee, not tf32 or tf32x3",
        "depthwise_tiled": "one input channel a group, here 2",
        "depthwise_toeplitz": "one input and one output channel a group, here 2 and 3",
        "depthwise": "one input and one output channel a group, here 2 and 3",
        "bias_sum": "computes the bias gradient, not fprop",
    }
    assert reasons(small, "bgrad")["direct_64x64"] == "computes fprop, dgrad and wgrad, not bgrad"
    assert "built for float32" in reasons(small, "fprop", "float64")["direct_128x64"]
    assert reasons(small, "fprop", "float16")["igemm_64x64"] == "reads channels last"
    assert "rounded: computes fprop and wgrad only" in reasons(small, "dgrad", "float16")["im2col"]
    huge = conv("huge", 1, 1, 1, (1 << 16, 1 << 15), 1)
    assert "2^30 positions" in reasons(huge, "fprop")["direct_64x64"]


@pytest.mark.usefixtures("schedule")
def test_every_schedule(driver: Driver) -> None:
    """No result depends on the order of threads and blocks, and nobody races."""
    cases = [
        conv("several steps", 1, 5, 9, (4, 3), 3, 1, 1),
        conv("aligned", 1, 8, 16, (4, 4), 3, 2, 1),
        conv("slices", 2, 2, 4, (11, 13), 2, 1, ((0, 1), (1, 0)), 1, 2),
        conv("many stages", 1, 64, 72, (5, 6), 3, 1, 1),
        conv("depthwise", 2, 8, 8, (7, 5), 3, 2, 1, 1, 8),
    ]
    for case, dtype in itertools.product(cases, ("float32", "float16")):
        assert_exact(driver, case, dtype)
