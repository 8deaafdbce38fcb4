"""Runs the `_cpu` module on torch tensors, and torch's answers to compare with: shared by tests/test_cpu_*.py."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from shapes import ConvCase, PoolCase

from fastconv import _cpu

DTYPES = {"float64": torch.float64, "float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
CONVS = (F.conv1d, F.conv2d, F.conv3d)
MAX_POOLS = (F.max_pool1d, F.max_pool2d, F.max_pool3d)
AVG_POOLS = (F.avg_pool1d, F.avg_pool2d, F.avg_pool3d)


def physical(tensor: torch.Tensor, layout: str) -> torch.Tensor:
    """A fresh contiguous copy whose memory order is `layout`: channels moved last for nhwc."""
    return (tensor.movedim(1, -1) if layout == "nhwc" else tensor).clone(memory_format=torch.contiguous_format)


def logical(tensor: torch.Tensor, layout: str) -> torch.Tensor:
    """Undoes `physical`: (N, C, ...) again."""
    return tensor.movedim(-1, 1) if layout == "nhwc" else tensor


def fresh(shape: tuple[int, ...], layout: str, dtype: torch.dtype) -> torch.Tensor:
    """Memory for a result of logical `shape`, full of NaN (or -7), so that an element never written shows."""
    order = (shape[0], *shape[2:], shape[1]) if layout == "nhwc" else shape
    return torch.full(order, float("nan") if dtype.is_floating_point else -7, dtype=dtype)


def address(tensor: torch.Tensor | None) -> int:
    return 0 if tensor is None else tensor.data_ptr()


def workspace_for(plan: Any) -> torch.Tensor:
    return torch.full((max(plan.workspace_bytes, 1),), 255, dtype=torch.uint8)


def conv_shapes(case: ConvCase) -> dict[str, tuple[int, ...]]:
    return {
        "x": (case.n, case.c, *case.input),
        "w": (case.k, case.c // case.groups, *case.filter),
        "y": (case.n, case.k, *case.output),
        "b": (case.k,),
    }


def run_conv(
    case: ConvCase, pass_: str, a: torch.Tensor, b: torch.Tensor | None, bias: torch.Tensor | None = None,
    *, layout: str = "nchw", kernel: str = "direct", threads: int = 2, residual: torch.Tensor | None = None,
    **epilogue: Any,
) -> torch.Tensor:  # fmt: skip
    """One pass of `case` through `kernel`; operands and result are logical (N, C, ...) or (K, C, ...) tensors.

    `epilogue`: activation and slope.
    """
    name = next(name for name, dtype in DTYPES.items() if dtype == a.dtype)
    problem = _cpu.ConvProblem(**case.arguments(name, layout))
    plan = _cpu.conv_plan(problem, pass_, kernel=kernel, threads=threads, bias=bias is not None,
                          residual=residual is not None, **epilogue)  # fmt: skip
    shapes = conv_shapes(case)
    shape = {"fprop": shapes["y"], "dgrad": shapes["x"], "wgrad": shapes["w"]}.get(pass_)
    out = fresh(shape, layout, a.dtype) if shape else torch.full(shapes["b"], float("nan"), dtype=a.dtype)
    a = physical(a, layout)
    b = None if b is None else physical(b, layout)
    residual = None if residual is None else physical(residual, layout)
    workspace = workspace_for(plan)
    plan.run(address(a), address(b), address(bias), address(residual), address(out), address(workspace), 0)
    return logical(out, layout) if shape else out


def torch_conv(
    case: ConvCase, x: torch.Tensor, w: torch.Tensor, bias: torch.Tensor, gy: torch.Tensor
) -> dict[str, torch.Tensor]:
    """Torch's answer to every pass, at the operands' dtype: y (with bias), gx, gw, gb."""
    x, w, bias = (t.detach().clone().requires_grad_() for t in (x, w, bias))
    pads = [p for low, high in zip(case.padding_low, case.padding_high, strict=True) for p in (high, low)][::-1]
    y = CONVS[len(case.input) - 1](F.pad(x, pads), w, bias, case.stride, 0, case.dilation, case.groups)
    gx, gw, gb = torch.autograd.grad(y, (x, w, bias), gy)
    return {"fprop": y.detach(), "dgrad": gx, "wgrad": gw, "bgrad": gb}


def run_pool(
    case: PoolCase, pass_: str, src: torch.Tensor, offsets: torch.Tensor | None = None, *, layout: str = "nchw",
    kernel: str = "direct", threads: int = 2, want_offsets: bool = False, want_indices: bool = False,
) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None]:  # fmt: skip
    """One pass of `case`; returns logical (result, offsets, indices)."""
    name = next(name for name, dtype in DTYPES.items() if dtype == src.dtype)
    problem = _cpu.PoolProblem(**case.arguments(name, layout))
    plan = _cpu.pool_plan(problem, pass_, kernel=kernel, threads=threads, offsets=want_offsets, indices=want_indices)
    small, large = (case.n, case.c, *problem.output), (case.n, case.c, *case.input)
    out = fresh(large if pass_ == "dgrad" else small, layout, src.dtype)
    if want_offsets:
        offsets = fresh(small, layout, torch.uint8 if problem.offset_bytes == 1 else torch.int32)
    elif offsets is not None:
        offsets = physical(offsets, layout)
    indices = fresh(small, layout, torch.int64) if want_indices else None
    src = physical(src, layout)
    workspace = workspace_for(plan)
    plan.run(address(src), address(out), address(offsets), address(indices), address(workspace), 0)
    back = [None if t is None else logical(t, layout) for t in (out, offsets, indices)]
    return back[0], back[1], back[2]


def torch_pool(case: PoolCase, x: torch.Tensor) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
    """Torch's forward at x's dtype: y for average, (y, indices) for max."""
    rank = len(case.input)
    if case.adaptive:
        name = f"adaptive_{'max' if case.kind == 'max' else 'avg'}_pool{rank}d"
        return getattr(F, name)(x, case.adaptive, **({"return_indices": True} if case.kind == "max" else {}))
    if case.kind == "max":
        return MAX_POOLS[rank - 1](
            x, case.window, case.stride, case.padding, case.dilation, case.ceil_mode, return_indices=True
        )
    options: tuple[Any, ...] = (case.window, case.stride, case.padding, case.ceil_mode, case.count_include_pad)
    if rank > 1:
        options = (*options, case.divisor_override)
    if rank == 3 and x.dtype in (torch.float16, torch.bfloat16):  # torch 2.13 has none: float32, rounded once
        return AVG_POOLS[2](x.float(), *options).to(x.dtype)
    return AVG_POOLS[rank - 1](x, *options)
