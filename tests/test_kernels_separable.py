"""The depthwise-separable kernel by itself: every geometry and schedule, and what it asks of memory."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from kernel_driver import (
    DTYPES,
    Driver,
    dense,
    schedule,  # noqa: F401 (a fixture)
)
from shapes import ConvCase, conv
from torch import Tensor

from fastconv import _emulator
from fastconv.activations import activation_of
from fastconv.testing import integer_tensor

HALVES = ("float16", "bfloat16")
KERNELS = ("separable_64", "separable_128")


@dataclass(frozen=True)
class Case:
    """A depthwise convolution and the output channels that its channels are mixed to."""

    depthwise: ConvCase
    k: int

    def problem(self, dtype: str, layout: str = "nhwc", mode: str = "zeros", **between: Any) -> Any:
        first = _emulator.ConvProblem(**self.depthwise.arguments(dtype, layout), padding_mode=mode)
        return _emulator.SeparableProblem(depthwise=first, k=self.k, **between)


def case(name: str, n: int, c: int, k: int, size: tuple[int, int], *geometry: Any) -> Case:
    """Filter, stride, padding, dilation follow the input's size."""
    geometry = (*geometry, *(1, 0, 1)[len(geometry) - 1 :])
    return Case(conv(name, n, c, c, size, *geometry, c), k)


CASES = (
    case("one element", 1, 8, 8, (1, 1), 1),
    case("3x3", 2, 64, 64, (9, 8), 3, 1, 1),
    case("channels in two chunks, odd outputs", 1, 72, 37, (13, 11), 3, 1, 1),
    case("tiles of output channels", 1, 16, 200, (10, 19), 3, 1, 1),
    case("many chunks", 2, 136, 40, (7, 7), 3, 1, 1),
    case("more chunks than the ring's stages", 1, 328, 136, (5, 4), 3, 1, 1),
    case("5x5", 1, 24, 72, (14, 14), 5, 1, 2),
    case("7x7", 1, 40, 24, (15, 14), 7, 1, 3),
    case("stride 2", 3, 32, 64, (13, 11), 3, 2, 1),
    case("5x5 of stride 2", 2, 16, 16, (17, 16), 5, 2, 2),
    case("strides differ", 1, 16, 24, (11, 13), 3, (1, 3), 1),
    case("dilation 2", 2, 24, 16, (13, 11), 3, 1, 2, 2),
    case("dilation 3, stride 2", 1, 8, 16, (17, 16), 3, 2, 3, 3),
    case("everything asymmetric", 1, 24, 40, (9, 7), (3, 2), (2, 1), ((1, 0), (0, 2)), (1, 2)),
    case("samples in one block", 9, 16, 16, (3, 2), 3, 1, 1),
    case("tall column", 1, 16, 16, (61, 1), (5, 1), (2, 1), (1, 0)),
    case("wide row", 1, 16, 16, (1, 67), (1, 5), 1, (0, 2)),
    case("11x3", 1, 8, 8, (12, 9), (11, 3), 1, (5, 1)),
    case("one channel", 2, 1, 3, (5, 6), 3, 1, 1),
    case("odd channels", 2, 67, 65, (6, 7), 3, 1, 1),
    case("channels in words", 1, 34, 6, (6, 7), 3, 2, 1),
)


@pytest.fixture
def driver() -> Any:
    before = _emulator.configure(count=False)
    yield Driver(_emulator, "cpu")
    _emulator.configure(**before)


MODES = ("reflect", "replicate", "circular")


def operands(case: Case, dtype: str) -> dict[str, Tensor]:
    """Small integers: z and the sums of its products are exact in every dtype that rounds z."""
    d, kind = case.depthwise, DTYPES[dtype]
    shapes = {
        "x": (d.n, d.c, *d.input),
        "dw": (d.c, 1, *d.filter),
        "db": (d.c,),
        "pw": (case.k, d.c, 1, 1),
        "bias": (case.k,),
        "residual": (d.n, case.k, *d.output),
    }
    return {name: integer_tensor(shape, kind, seed=i) for i, (name, shape) in enumerate(shapes.items())}


def exactly(
    case: Case, given: dict[str, Tensor], between: str | None, after: str | None, mode: str = "constant"
) -> Tensor:
    d = case.depthwise
    pads = [p for pair in reversed(list(zip(d.padding_low, d.padding_high, strict=True))) for p in pair]
    wide = {name: each.double() for name, each in given.items()}
    x = F.pad(wide["x"], pads, mode)
    z = F.conv2d(x, wide["dw"], wide.get("db"), d.stride, 0, d.dilation, d.c)
    z = activation_of(between).apply(z).to(given["x"].dtype)  # as if stored
    y = F.conv2d(z.double(), wide["pw"], wide.get("bias"))
    return activation_of(after).apply(y + wide["residual"] if "residual" in wide else y)


def run(
    case: Case,
    given: dict[str, Tensor],
    dtype: str,
    kernel: str,
    between: str | None = None,
    after: str | None = None,
    offset: int = 0,
    mode: str = "zeros",
) -> Tensor:
    """By the kernel, with whatever of db, bias and residual there is."""
    problem = case.problem(dtype, mode=mode, bias="db" in given, activation=between or "none")
    options = {"bias": "bias" in given, "residual": "residual" in given, "activation": after or "none"}
    plan = _emulator.separable_plan(problem, kernel=kernel, **options)
    assert plan.kernel == kernel and plan.workspace_bytes == 0, plan.explain()
    kept = {name: dense(each, "nhwc", offset) if each.dim() == 4 else each for name, each in given.items()}
    y = (case.depthwise.n, case.k, *case.depthwise.output)
    out = dense(torch.full(y, float("nan"), dtype=DTYPES[dtype]), "nhwc", offset)
    at = {name: each.data_ptr() for name, each in kept.items()}
    names = ("x", "dw", "db", "pw", "bias", "residual")
    plan.run(*(at.get(name, 0) for name in names), out.data_ptr(), 0, 0)
    return out


def accepted(case: Case, dtype: str) -> list[str]:
    found = _emulator.separable_plan(case.problem(dtype)).candidates
    return [each.kernel for each in found if each.accepted and each.kernel in KERNELS]


def names(cases: tuple[Case, ...]) -> list[str]:
    return [each.depthwise.name for each in cases]


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("case", CASES, ids=names(CASES))
def test_integers_are_exact(driver: Driver, case: Case, dtype: str) -> None:
    given = operands(case, dtype)
    plain = {name: given[name] for name in ("x", "dw", "pw")}
    assert "separable_64" in accepted(case, dtype)
    for kernel in accepted(case, dtype):
        for tensors, between, after in ((given, "relu6", "relu"), (plain, None, None)):
            exact = exactly(case, tensors, between, after).to(DTYPES[dtype])
            for offset in (0, 1):
                result = run(case, tensors, dtype, kernel, between, after, offset)
                assert torch.equal(result, exact), (kernel, offset, len(tensors))


@pytest.mark.parametrize("mode", MODES)
def test_padding_modes(driver: Driver, mode: str) -> None:
    """The loader maps them: no padded copy."""
    for shape in (case("even", 2, 40, 24, (9, 8), 3, 1, 1), case("wide", 1, 72, 16, (9, 11), 5, 2, 2)):
        given = operands(shape, "float16")
        exact = exactly(shape, given, "relu", "relu6", mode).half()
        for kernel in KERNELS:
            assert torch.equal(run(shape, given, "float16", kernel, "relu", "relu6", mode=mode), exact)


@pytest.mark.parametrize("after", ["none", "leaky_relu", "hardswish", "silu", "gelu", "gelu_tanh"])
def test_epilogues(driver: Driver, after: str) -> None:
    """Every activation, in either place: z rounded as if it were stored, then y once."""
    shape = case("epilogue", 1, 24, 40, (6, 9), 3, 1, 1)
    given = operands(shape, "float16")
    for between in ("relu6", after):
        for kernel in KERNELS:
            result = run(shape, given, "float16", kernel, between, after)
            torch.testing.assert_close(result.double(), exactly(shape, given, between, after), rtol=2e-3, atol=2e-2)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.usefixtures("schedule")
def test_every_schedule(driver: Driver, kernel: str) -> None:
    """Threads and blocks in any order, copies as late as they may come: the same result, and no race."""
    for shape in (
        case("chunks", 1, 136, 200, (5, 6), 3, 1, 1),
        case("few", 2, 16, 24, (7, 9), 3, 1, 1),
        case("odd", 1, 67, 70, (4, 5), 3, 2, 1),
    ):
        if kernel not in accepted(shape, "float16"):
            continue
        given = operands(shape, "float16")
        exact = exactly(shape, given, "relu", None).half()
        assert torch.equal(run(shape, given, "float16", kernel, "relu"), exact)


def counted(shape: Case, kernel: str, blocks: int) -> tuple[dict[str, Any], Any]:
    """The counters of the first blocks of the grid, and the plan."""
    plan = _emulator.separable_plan(shape.problem("float16"), kernel=kernel)
    d = shape.depthwise
    tensors = [
        torch.zeros(size, dtype=torch.float16)
        for size in (d.n * d.c * d.input[0] * d.input[1], d.c * d.filter[0] * d.filter[1], shape.k * d.c)
    ]
    out = torch.zeros(d.n * shape.k * d.output[0] * d.output[1], dtype=torch.float16)
    x, dw, pw = (each.data_ptr() for each in tensors)
    before = _emulator.configure(count=True, blocks=blocks)
    _emulator.reset_counters()
    try:
        plan.run(x, dw, 0, pw, 0, 0, out.data_ptr(), 0, 0)
    finally:
        _emulator.configure(**before)
    return _emulator.counters()["separable"], plan


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize(
    ("c", "k", "size", "stride"), [(64, 128, 112, 2), (128, 128, 56, 1), (192, 64, 28, 1), (256, 256, 28, 1)]
)
def test_what_lies_between_never_leaves_the_chip(
    driver: Driver, kernel: str, c: int, k: int, size: int, stride: int
) -> None:
    """Layers of MobileNet, the first blocks: global sectors are those of the patches, the filters and y, whole ones,
    and no others; shared memory is read and written without conflicts, but for the depthwise filters' few words.
    """
    shape = case("layer", 32, c, k, (size, size), 3, stride, 1)
    row, plan = counted(shape, kernel, blocks=2)
    height, width = (int(each) for each in re.search(r"tile (\d+)x(\d+) of 1 ", plan.detail).groups())
    patch = [min(size, (tile - 1) * stride + 3) for tile in (height, width)]
    source, filters = patch[0] * patch[1] * c * 2 // 32, k * c * 2 // 32
    scattered = row["global_load"]["sectors"] - 2 * (source + filters)
    assert 0 < scattered <= 2 * c * 9  # the depthwise filter, a tap at a time
    assert row["global_load"]["sectors"] == row["global_load"]["ideal"]
    assert row["global_store"]["sectors"] == row["global_store"]["ideal"] == 2 * height * width * k * 2 // 32
    for space, limit in (("shared_load", 1.0), ("shared_store", 1.1)):
        assert row[space]["wavefronts"] <= limit * row[space]["ideal"], (space, row[space])


def reasons(shape: Case, dtype: str, layout: str = "nhwc", pass_: str = "fprop") -> dict[str, str]:
    plan = _emulator.separable_plan(shape.problem(dtype, layout), pass_)
    assert plan.kernel == "two_launches" and plan.is_aten
    return {each.kernel: each.reason for each in plan.candidates if not each.accepted}


def test_refusals_have_reasons() -> None:
    plain = case("plain", 2, 16, 16, (9, 9), 3, 1, 1)
    many = replace(plain.depthwise, k=32)
    for found, words in (
        (reasons(plain, "float32"), "float16 and bfloat16"),
        (reasons(plain, "float16", "nchw"), "channels last"),
        (reasons(plain, "float16", pass_="dgrad"), "makes z again"),
        (reasons(Case(many, 8), "float16"), "one filter a channel, here 2"),
        (reasons(case("step", 1, 16, 16, (19, 9), 3, 3, 1), "float16"), "strides of 1 and 2"),
        (reasons(case("deep", 1, 2048, 16, (7, 7), 3, 1, 1), "float16"), "shared memory"),
    ):
        assert set(found) == set(KERNELS) and all(words in each for each in found.values()), found
    odd = _emulator.separable_plan(case("odd", 2, 15, 16, (9, 9), 3, 1, 1).problem("float16"))
    assert "separable_64 has them" in next(each.reason for each in odd.candidates if each.kernel == "separable_128")


def test_cost_counts_what_is_moved() -> None:
    """z's bytes are in the two launches' traffic, not in the fused kernel's; the cheapest is chosen."""
    shape = case("MobileNet", 32, 128, 128, (56, 56), 3, 1, 1)
    plan = _emulator.separable_plan(shape.problem("float16"))
    cost = {each.kernel: each.cost for each in plan.candidates}
    z, problem = 32 * 128 * 56 * 56 * 2, shape.problem("float16")
    assert problem.between_bytes == z
    assert cost["two_launches"].bytes - cost["separable_128"].bytes > 1.8 * z
    assert plan.kernel == min(cost, key=lambda name: cost[name].microseconds)
    assert all(each.registers and each.blocks_per_sm and each.waves for name, each in cost.items() if name in KERNELS)
    with pytest.raises(RuntimeError, match="not in this backend's table"):
        _emulator.separable_plan(problem, kernel="direct")
    with pytest.raises(RuntimeError, match="depthwise_weight: expected a group for each"):
        _emulator.SeparableProblem(
            depthwise=_emulator.ConvProblem(**conv("", 1, 4, 4, (5, 5), 3).arguments("float16", "nhwc")), k=4
        )
