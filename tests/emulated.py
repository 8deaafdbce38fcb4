"""Runs plans of the ``_emulator`` module on torch tensors: the kernels' tests go through no other layer of fastconv."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from shapes import ConvCase, PoolCase

from fastconv import _emulator

DTYPES = {
    "float64": torch.float64,
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
}
LAYOUTS = ("nchw", "nhwc")
CONV_KERNELS = [name for name, _ in _emulator.conv_kernels() if name.startswith("direct")]


def dense(tensor: torch.Tensor, layout: str, offset: int = 0) -> torch.Tensor:
    """The tensor's values, stored in the layout's order, after ``offset`` elements; shape as before."""
    order = tensor.movedim(1, -1) if layout == "nhwc" else tensor
    storage = torch.empty(offset + order.numel(), dtype=tensor.dtype)
    stored = storage[offset:].view(order.shape).copy_(order)
    return stored.movedim(-1, 1) if layout == "nhwc" else stored


def empty(shape: tuple[int, ...], dtype: torch.dtype, layout: str, offset: int = 0) -> torch.Tensor:
    """Uninitialised memory of a logical shape in the layout; floating tensors hold NaN, to see what is not written."""
    fill = float("nan") if dtype.is_floating_point else 77
    return dense(torch.full(shape, fill, dtype=dtype), layout, offset)


def operands(case: ConvCase, dtype: str, integers: bool = False, seed: int = 0) -> tuple[torch.Tensor, ...]:
    """x, w, bias, gy of a case. ``integers``: small ones, whose sums of products every dtype represents exactly."""
    generator = torch.Generator().manual_seed(seed)
    spatial = case.output
    shapes = (
        (case.n, case.c, *case.input),
        (case.k, case.c // case.groups, *case.filter),
        (case.k,),
        (case.n, case.k, *spatial),
    )
    if integers:
        return tuple(torch.randint(-2, 3, s, generator=generator).to(DTYPES[dtype]) for s in shapes)
    return tuple(torch.randn(s, generator=generator, dtype=torch.float64).to(DTYPES[dtype]) for s in shapes)


def oracle(case: ConvCase, pass_: str, x: torch.Tensor, w: torch.Tensor, bias: torch.Tensor | None, gy: torch.Tensor):
    """The pass by torch, in the operands' dtype: pass float64 for the reference."""
    rank = len(case.input)
    if pass_ == "bgrad":
        return gy.sum(dim=[0, *range(2, 2 + rank)])
    pads = [p for pair in zip(case.padding_low, case.padding_high, strict=True) for p in pair]
    pads = [p for axis in reversed(range(rank)) for p in pads[2 * axis : 2 * axis + 2]]
    x, w = x.detach().requires_grad_(), w.detach().requires_grad_()
    conv = (F.conv1d, F.conv2d, F.conv3d)[rank - 1]
    y = conv(F.pad(x, pads), w, bias, case.stride, 0, case.dilation, case.groups)
    if pass_ == "fprop":
        return y.detach()
    (gradient,) = torch.autograd.grad(y, x if pass_ == "dgrad" else w, gy)
    return gradient


def run_conv(
    case: ConvCase,
    pass_: str,
    dtype: str,
    layout: str,
    x: torch.Tensor,
    w: torch.Tensor,
    bias: torch.Tensor | None,
    gy: torch.Tensor,
    kernel: str = "",
    workspace_limit: int = -1,
    offset: int = 0,
) -> torch.Tensor:
    """One pass of the case by an emulated kernel; ``offset`` misaligns every tensor by that many elements."""
    problem = _emulator.ConvProblem(**case.arguments(dtype, layout))
    bias = bias if pass_ == "fprop" else None
    plan = _emulator.conv_plan(problem, pass_, kernel=kernel, workspace_limit=workspace_limit, bias=bias is not None)
    assert not plan.is_aten, plan.explain()
    x, w, gy = (dense(t, layout, offset) for t in (x, w, gy))
    a, b, like = {"fprop": (x, w, gy), "dgrad": (gy, w, x), "wgrad": (x, gy, w), "bgrad": (gy, None, None)}[pass_]
    shape = (case.k,) if like is None else tuple(like.shape)
    out = torch.full(shape, float("nan"), dtype=DTYPES[dtype])
    out = out if like is None else empty(shape, DTYPES[dtype], layout, offset)
    workspace = torch.full((plan.workspace_bytes // 8 + 1,), float("nan"), dtype=torch.float64)
    plan.run(
        a.data_ptr(),
        0 if b is None else b.data_ptr(),
        0 if bias is None else bias.data_ptr(),
        out.data_ptr(),
        workspace.data_ptr() if plan.workspace_bytes else 0,
        0,
    )
    return out


def pool_operands(case: PoolCase, dtype: str, seed: int = 0) -> torch.Tensor:
    """x of a pooling, with ties, infinities and NaNs among its values for max."""
    generator = torch.Generator().manual_seed(seed)
    shape = (case.n, case.c, *case.input)
    x = torch.randn(shape, generator=generator, dtype=torch.float64)
    return x.to(DTYPES[dtype])
