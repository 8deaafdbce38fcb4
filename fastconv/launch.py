"""From a plan to a function on dense tensors: allocate the result, pass addresses, run on the current stream."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from . import results
from .arguments import Ints

# The allocation is a third of what a small call costs, so on the CPU it goes past the dispatcher, by the entry point
# that torch.compile's generated code uses.
_empty_strided_cpu = getattr(torch._C._dynamo.guards, "_empty_strided_cpu", None)


def _allocator(shape: Ints, strides: Ints, dtype: torch.dtype, device: torch.device) -> Callable[[], Tensor]:
    """A function that makes an uninitialised tensor."""
    if device.type == "cpu":
        if results.is_kept(shape, dtype):
            return results.allocator(shape, strides, dtype)
        if _empty_strided_cpu is not None:
            return lambda: _empty_strided_cpu(shape, strides, dtype)
    return lambda: torch.empty_strided(shape, strides, dtype=dtype, device=device)


def _runner(plan: Any, device: torch.device) -> Callable[..., None]:
    """``run(*addresses)``: the plan on the device's current stream, with its workspace. Nothing synchronises."""
    run, size = plan.run, plan.workspace_bytes
    if device.type == "cuda":
        index = device.index
        # What torch.cuda.current_device and current_stream call, less the Python around it (some 2 us).
        current_device, current_stream = torch._C._cuda_getDevice, torch._C._cuda_getCurrentRawStream

        def on_stream(*addresses: int) -> None:
            if current_device() != index:
                with torch.cuda.device(index):
                    return on_stream(*addresses)
            # The caching allocator orders the workspace's reuse by stream: it may be let go before the kernel ends.
            scratch = torch.empty(size, dtype=torch.uint8, device=device) if size else None
            run(*addresses, 0 if scratch is None else scratch.data_ptr(), current_stream(index))

        return on_stream

    if not size:
        return lambda *addresses: run(*addresses, 0, 0)

    allocate = _allocator((size,), (1,), torch.uint8, device)

    def with_workspace(*addresses: int) -> None:
        scratch = allocate()
        run(*addresses, scratch.data_ptr(), 0)

    return with_workspace


def _is_lean(plan: Any, device: torch.device, shape: Ints, dtype: torch.dtype) -> bool:
    """Whether the plan's ``run`` needs nothing but addresses (no stream, no workspace) and a small result."""
    plain = device.type == "cpu" and not plan.workspace_bytes and _empty_strided_cpu is not None
    return plain and not results.is_kept(shape, dtype)


def conv_launch(
    plan: Any, device: torch.device, dtype: torch.dtype, shape: Ints, strides: Ints
) -> Callable[..., Tensor]:
    """``launch(a, b, bias, residual=None) -> out`` for dense operands (b and bias may be None); ``out`` has this shape
    and strides, and so has ``residual``, for a plan that adds one.
    """
    if _is_lean(plan, device, shape, dtype):
        run, empty = plan.run, _empty_strided_cpu

        def lean(a: Tensor, b: Tensor | None, bias: Tensor | None, residual: Tensor | None = None) -> Tensor:
            out = empty(shape, strides, dtype)
            run(
                a.data_ptr(),
                0 if b is None else b.data_ptr(),
                0 if bias is None else bias.data_ptr(),
                0 if residual is None else residual.data_ptr(),
                out.data_ptr(),
                0,
                0,
            )
            return out

        return lean

    run, allocate = _runner(plan, device), _allocator(shape, strides, dtype, device)

    def launch(a: Tensor, b: Tensor | None, bias: Tensor | None, residual: Tensor | None = None) -> Tensor:
        out = allocate()
        run(
            a.data_ptr(),
            0 if b is None else b.data_ptr(),
            0 if bias is None else bias.data_ptr(),
            0 if residual is None else residual.data_ptr(),
            out.data_ptr(),
        )
        return out

    return launch


def separable_launch(
    plan: Any, device: torch.device, dtype: torch.dtype, shape: Ints, strides: Ints
) -> Callable[..., Tensor]:
    """``launch(x, depthwise_weight, depthwise_bias, pointwise_weight, bias, residual) -> out`` for dense operands;
    those that the plan does without are None.
    """
    run, allocate = _runner(plan, device), _allocator(shape, strides, dtype, device)

    def launch(*operands: Tensor | None) -> Tensor:
        out = allocate()
        run(*(0 if each is None else each.data_ptr() for each in operands), out.data_ptr())
        return out

    return launch


def pool_launch(
    plan: Any, device: torch.device, dtype: torch.dtype, shape: Ints, strides: Ints
) -> Callable[..., Tensor]:
    """``launch(src, offsets=None) -> dst`` for dense operands; ``offsets`` are read, as the plan says."""
    if _is_lean(plan, device, shape, dtype):
        run, empty = plan.run, _empty_strided_cpu

        def lean(src: Tensor, offsets: Tensor | None = None) -> Tensor:
            dst = empty(shape, strides, dtype)
            run(src.data_ptr(), dst.data_ptr(), 0 if offsets is None else offsets.data_ptr(), 0, 0, 0)
            return dst

        return lean

    run, allocate = _runner(plan, device), _allocator(shape, strides, dtype, device)

    def launch(src: Tensor, offsets: Tensor | None = None) -> Tensor:
        dst = allocate()
        run(src.data_ptr(), dst.data_ptr(), 0 if offsets is None else offsets.data_ptr(), 0)
        return dst

    return launch


def unpool_launch(
    plan: Any, device: torch.device, dtype: torch.dtype, shape: Ints, strides: Ints
) -> Callable[[Tensor, Tensor], Tensor]:
    """``launch(src, indices) -> dst`` for dense operands."""
    run, allocate = _runner(plan, device), _allocator(shape, strides, dtype, device)

    def launch(src: Tensor, indices: Tensor) -> Tensor:
        dst = allocate()
        run(src.data_ptr(), dst.data_ptr(), 0, indices.data_ptr())
        return dst

    return launch


def max_launch(
    plan: Any,
    device: torch.device,
    dtype: torch.dtype,
    shape: Ints,
    strides: Ints,
    extra: tuple[torch.dtype | None, ...],
) -> Callable[[Tensor], tuple[Tensor | None, ...]]:
    """``launch(x) -> (y, offsets, indices)`` for dense x; ``extra`` has the dtype of the offsets and that of the
    indices, None for what is not wanted.
    """
    run = _runner(plan, device)
    y_of, *extra_of = (None if each is None else _allocator(shape, strides, each, device) for each in (dtype, *extra))
    offsets_of, indices_of = extra_of

    def launch(x: Tensor) -> tuple[Tensor | None, ...]:
        y = y_of()
        offsets = None if offsets_of is None else offsets_of()
        indices = None if indices_of is None else indices_of()
        run(
            x.data_ptr(),
            y.data_ptr(),
            0 if offsets is None else offsets.data_ptr(),
            0 if indices is None else indices.data_ptr(),
        )
        return y, offsets, indices

    return launch
