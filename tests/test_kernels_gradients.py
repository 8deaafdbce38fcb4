"""Every family of GPU kernels is differentiated right: one table, so that no family is forgotten.

Families with float64 instances go through torch.autograd.gradcheck and gradgradcheck in the emulator. The others are
built for 16 and 32 bits only, where finite differences drown in rounding: tensor cores multiply nothing wider, and the
tiled kernels' shared memory and registers are laid out in words. With small integers all that they compute is exact
instead, so that their passes must be the derivatives of each other to the last bit, and float64's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from kernel_driver import CONV_PASSES, DTYPES, LAYOUTS, ConvOperands, Driver, conv_operands, conv_oracle
from shapes import ConvCase, conv
from torch import Tensor
from torch.nn import functional as F

import fastconv
from fastconv import _emulator
from fastconv import functional as FC
from fastconv.testing import integer_tensor, random_tensor

Call = Callable[..., Tensor]


@pytest.fixture(autouse=True)
def emulator() -> Iterator[None]:
    with fastconv.use_backend("emulator"), fastconv.use_kernel("native"):
        yield


def launched(call: Callable[[], Any]) -> set[str]:
    """The kernels that ran."""
    _emulator.reset_counters()
    call()
    return set(_emulator.counters())


# ---- families with float64 ----
@dataclass(frozen=True)
class Family:
    """A function of torch's names, small arguments, and the kernels that must have run."""

    name: str
    kernel: str
    function: str
    shapes: tuple[tuple[int, ...], ...]
    options: dict[str, Any]
    kernels: set[str]
    channels_last: bool = False
    twice: str = ""  # what is forced for the second derivative, if not `kernel`


DIRECT = {"direct_fprop", "direct_dgrad", "direct_wgrad"}
CONVS = (
    *(
        Family(f"{name}, {'nhwc' if last else 'nchw'}", name, "conv2d", ((1, 2, 5, 4), (4, 2, 3, 2)),
               {"stride": (2, 1), "padding": 1}, DIRECT, last)
        for name in ("direct_64x64", "direct_16x128") for last in (False, True)
    ),
    Family("direct, grouped and dilated", "direct_64x64", "conv2d", ((1, 4, 5, 5), (4, 2, 2, 2)),
           {"groups": 2, "dilation": 2}, DIRECT),
    Family("direct, transposed", "direct_64x64", "conv_transpose2d", ((1, 2, 3, 3), (2, 3, 3, 2)),
           {"stride": 2, "padding": 1, "output_padding": 1}, DIRECT),
    Family("direct, volume", "direct_64x64", "conv3d", ((1, 2, 3, 3, 2), (2, 2, 2, 2, 2)), {"padding": 1}, DIRECT),
    *(
        Family(f"depthwise, {'nhwc' if last else 'nchw'}", "depthwise", "conv2d", ((2, 3, 5, 4), (3, 1, 3, 3)),
               {"groups": 3, "stride": 2, "padding": 1},
               {"depthwise_fprop", "depthwise_dgrad", "depthwise_wgrad"}, last)
        for last in (False, True)
    ),
    *(
        Family(f"padded by {mode}", "direct_64x64", "padded_conv2d", ((1, 2, 4, 5), (3, 2, 3, 3)),
               {"padding": (1, 2), "padding_mode": mode}, DIRECT)
        for mode in ("reflect", "replicate", "circular")
    ),
)  # fmt: skip
POOLS = (
    *(
        Family(f"pool_direct, {function[:3]}, {'nhwc' if last else 'nchw'}", "pool_direct", function, ((2, 2, 5, 4),),
               {"kernel_size": 3, "stride": 2, "padding": 1},
               {"pool_forward", "pool_backward"} | ({"pool_gather"} if function[0] == "m" else set()), last)
        for function in ("max_pool2d", "avg_pool2d") for last in (False, True)
    ),
    *(
        Family(f"{name}, {function[:3]}", name, function, ((2, 2, 6, 5),),
               {"kernel_size": 3, "stride": 2, "padding": 1}, {name, f"{name}_backward"}, name == "pool_march",
               "native" if function[0] == "m" else "")
        for name in ("pool_march", "pool_staged") for function in ("max_pool2d", "avg_pool2d")
    ),
    *(
        Family(f"pool_global, {function.split('_')[1]}", "native", function, ((2, 3, 6, 5),), {"output_size": 1},
               {"pool_global"})
        for function in ("adaptive_max_pool2d", "adaptive_avg_pool2d")
    ),
)  # fmt: skip


def assert_gradients(family: Family, call: Call, tensors: tuple[Tensor, ...]) -> None:
    with fastconv.use_kernel(family.kernel):
        ran = launched(lambda: torch.autograd.gradcheck(call, tensors, fast_mode=True))
    with fastconv.use_kernel(family.twice or family.kernel):
        ran |= launched(lambda: torch.autograd.gradgradcheck(call, tensors, fast_mode=True))
    assert family.kernels <= ran, ran


@pytest.mark.parametrize("family", (*CONVS, *POOLS), ids=lambda family: family.name)
def test_gradcheck(family: Family) -> None:
    tensors = tuple(
        random_tensor(shape, torch.float64, seed=i, channels_last=family.channels_last).requires_grad_()
        for i, shape in enumerate(family.shapes)
    )
    assert_gradients(family, lambda *given: getattr(FC, family.function)(*given, **family.options), tensors)


@pytest.mark.parametrize("channels_last", [False, True])
def test_gradcheck_of_unpooling(channels_last: bool) -> None:
    pooled, indices = F.max_pool2d(random_tensor((2, 2, 6, 4), torch.float64, seed=1), 2, return_indices=True)
    kind = torch.channels_last if channels_last else torch.contiguous_format
    x, indices = pooled.contiguous(memory_format=kind).requires_grad_(), indices.contiguous(memory_format=kind)
    family = Family("unpool", "unpool", "max_unpool2d", (), {}, {"pool_unpool", "pool_pick"})
    assert_gradients(family, lambda x: FC.max_unpool2d(x, indices, 2), (x,))


# ---- families of 16 and 32 bits ----
@dataclass(frozen=True)
class Narrow:
    """A kernel of the table, its problem, and the passes that it has."""

    kernel: str
    case: ConvCase
    dtype: str
    layout: str
    passes: tuple[str, ...] = CONV_PASSES[:3]
    math: str = "ieee"
    mode: str = "zeros"

    @property
    def name(self) -> str:
        return " ".join((self.kernel, self.dtype, self.layout, self.math, self.mode))


DENSE = conv("dense", 2, 16, 24, (7, 6), 3, (2, 1), 1)
LONG = conv("sums long enough for tf32x3", 2, 32, 32, (12, 12), 3, 1, 1)
POINTWISE = conv("pointwise", 2, 16, 24, (8, 8), 1)
GROUPED = conv("grouped", 2, 32, 32, (6, 5), 3, 1, 1, 1, 2)
DEPTHWISE = conv("depthwise", 2, 6, 6, (9, 8), 5, 2, 2, 1, 6)
DILATED = conv("dilated", 1, 5, 10, (9, 11), 3, 1, 2, 2, 5)
WIDE = conv("wide", 2, 3, 3, (13, 12), 9, 1, 4, 1, 3)
NARROW = (
    *(Narrow("igemm_64x64", DENSE, dtype, "nhwc") for dtype in ("float16", "bfloat16")),
    Narrow("igemm_64x64", DENSE, "float32", "nhwc", math="tf32"),
    Narrow("igemm_64x64", LONG, "float32", "nhwc", math="tf32x3"),
    *(Narrow(f"igemm_packed_{tile}", GROUPED, "float16", "nchw") for tile in ("128x128", "64x128", "64x64")),
    *(Narrow(f"igemm_planes_{tile}", POINTWISE, "float16", "nchw") for tile in ("128x128", "64x128", "64x64")),
    Narrow("im2col", DENSE, "float16", "nchw", ("fprop", "wgrad")),
    *(Narrow("depthwise_tiled", case, dtype, layout) for case in (DEPTHWISE, DILATED)
      for dtype in ("float32", "float16", "bfloat16") for layout in ("nchw", "nhwc")),
    *(Narrow("depthwise_tiled", DEPTHWISE, dtype, layout, mode=mode) for mode in ("reflect", "replicate", "circular")
      for dtype, layout in (("float32", "nchw"), ("float16", "nhwc"))),
    *(Narrow("depthwise_toeplitz", WIDE, dtype, layout) for dtype in ("float16", "bfloat16") for layout in LAYOUTS),
)  # fmt: skip


def run(family: Narrow, pass_: str, given: ConvOperands) -> Tensor:
    driver = Driver(_emulator, "cpu")
    problem = _emulator.ConvProblem(**family.case.arguments(family.dtype, family.layout), padding_mode=family.mode)
    plan = _emulator.conv_plan(problem, pass_, kernel=family.kernel, math=family.math)
    x, w, gy = (driver.put(each, family.layout) for each in (given.x, given.w, given.gy))
    a, b, like = {"fprop": (x, w, gy), "dgrad": (gy, w, x), "wgrad": (x, gy, w)}[pass_]
    out = driver.blank(tuple(like.shape), like.dtype, family.layout)
    work = torch.full((plan.workspace_bytes // 4 + 1,), float("nan"))
    plan.run(a.data_ptr(), b.data_ptr(), 0, 0, out.data_ptr(), work.data_ptr(), 0)
    return out


def inner(a: Tensor, b: Tensor) -> float:
    return float((a.double() * b.double()).sum())


@pytest.mark.parametrize("family", NARROW, ids=lambda family: family.name)
def test_passes_are_each_others_derivatives(family: Narrow) -> None:
    """<fprop(x, w), g> = <x, dgrad(g, w)> = <w, wgrad(x, g)> for the operands and for directions of them, which is what
    the second derivatives are made of; and each is float64's.
    """
    first, second = (conv_operands(family.case, family.dtype, integers=True, seed=seed) for seed in (0, 1))
    for given in (first, replace(first, x=second.x), replace(first, gy=second.gy), replace(first, w=second.w)):
        given = replace(given, bias=torch.zeros_like(given.bias))
        products = set()
        for pass_ in family.passes:
            result = run(family, pass_, given)
            exact = conv_oracle(family.case, pass_, given.double(), family.mode)
            assert torch.equal(result, exact.to(result.dtype)), pass_
            products.add(inner(result, {"fprop": given.gy, "dgrad": given.x, "wgrad": given.w}[pass_]))
        assert len(products) == 1


def test_no_family_is_forgotten() -> None:
    tables = fastconv.backends()["emulator"]
    known = {name for operation in ("conv", "pool", "separable") for name, _ in tables.kernels(operation)}
    checked = {each.kernel for each in (*CONVS, *POOLS, *NARROW)} | {"pool_global", "unpool", "separable_64"}
    others = {
        "aten", "bias_sum",  # PyTorch's, and a sum
        "direct_128x64", "igemm_128x128", "igemm_64x128", "separable_128", "two_launches",  # tiles of what is checked
    }  # fmt: skip
    assert known - checked - others == set(), known - checked - others


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_separable(dtype: str) -> None:
    """Its forward is one launch of 16 bits; backward makes z again and is the convolutions'."""
    shapes = ((2, 16, 6, 5), (16, 1, 3, 3), (24, 16, 1, 1), (2, 24, 6, 5))
    x, dw, pw, g = (
        integer_tensor(shape, DTYPES[dtype], seed=i, high=1, channels_last=True) for i, shape in enumerate(shapes)
    )
    results = []
    for kind in (DTYPES[dtype], torch.float64):
        given = [each.to(kind, copy=True).requires_grad_() for each in (x, dw, pw)]
        if kind == torch.float64:
            y = F.conv2d(F.conv2d(given[0], given[1], padding=1, groups=16), given[2])
        else:
            with fastconv.use_kernel("separable_64"):
                _emulator.reset_counters()
                y = FC.separable_conv2d(*given, padding=1)
                assert "separable" in _emulator.counters()
        results.append((y, *torch.autograd.grad(y, given, g.to(kind))))
    for ours, exact in zip(*results, strict=True):
        assert torch.equal(ours, exact.to(ours.dtype))
