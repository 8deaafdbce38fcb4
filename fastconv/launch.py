"""From a plan to a function on dense tensors: allocate the output, pass addresses, run on the current stream."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .arguments import Ints


def workspace(plan: Any, like: Tensor) -> Tensor | None:
    """The plan's scratch memory, from the caller's allocator; None where it needs none."""
    size = plan.workspace_bytes
    return like.new_empty(size, dtype=torch.uint8) if size else None


def runner(plan: Any, device: torch.device) -> Callable[..., None]:
    """``run(like, *addresses)``: the plan on the device's current stream, with its workspace allocated beside ``like``.

    Nothing synchronises. On the CPU without workspace this is the plan's own ``run`` and two zeros.
    """
    run = plan.run
    if device.type == "cuda":

        def on_stream(like: Tensor, *addresses: int) -> None:
            scratch = workspace(plan, like)
            with torch.cuda.device(device):
                stream = torch.cuda.current_stream().cuda_stream
                run(*addresses, 0 if scratch is None else scratch.data_ptr(), stream)

        return on_stream

    if plan.workspace_bytes:

        def with_workspace(like: Tensor, *addresses: int) -> None:
            scratch = workspace(plan, like)
            run(*addresses, scratch.data_ptr(), 0)

        return with_workspace

    return lambda like, *addresses: run(*addresses, 0, 0)


def is_lean(plan: Any, device: torch.device) -> bool:
    """Whether the plan's ``run`` may be called with nothing but addresses: no stream, no workspace."""
    return device.type == "cpu" and not plan.workspace_bytes


def conv_launch(plan: Any, device: torch.device, shape: Ints, strides: Ints) -> Callable[..., Tensor]:
    """``launch(a, b, bias) -> out`` for dense operands (b, bias may be None); ``out`` gets this shape and strides."""
    if is_lean(plan, device):
        run = plan.run

        def lean(a: Tensor, b: Tensor | None, bias: Tensor | None) -> Tensor:
            out = a.new_empty_strided(shape, strides)
            run(
                a.data_ptr(),
                0 if b is None else b.data_ptr(),
                0 if bias is None else bias.data_ptr(),
                out.data_ptr(),
                0,
                0,
            )
            return out

        return lean

    run = runner(plan, device)

    def launch(a: Tensor, b: Tensor | None, bias: Tensor | None) -> Tensor:
        out = a.new_empty_strided(shape, strides)
        run(
            a,
            a.data_ptr(),
            0 if b is None else b.data_ptr(),
            0 if bias is None else bias.data_ptr(),
            out.data_ptr(),
        )
        return out

    return launch


def pool_launch(
    plan: Any, device: torch.device, shape: Ints, strides: Ints
) -> Callable[[Tensor, Tensor | None, Tensor | None], Tensor]:
    """``launch(src, offsets, indices) -> dst`` for dense operands; offsets and indices (or None) as the plan says."""
    if is_lean(plan, device):
        run = plan.run

        def lean(src: Tensor, offsets: Tensor | None = None, indices: Tensor | None = None) -> Tensor:
            dst = src.new_empty_strided(shape, strides)
            run(
                src.data_ptr(),
                dst.data_ptr(),
                0 if offsets is None else offsets.data_ptr(),
                0 if indices is None else indices.data_ptr(),
                0,
                0,
            )
            return dst

        return lean

    run = runner(plan, device)

    def launch(src: Tensor, offsets: Tensor | None = None, indices: Tensor | None = None) -> Tensor:
        dst = src.new_empty_strided(shape, strides)
        run(
            src,
            src.data_ptr(),
            dst.data_ptr(),
            0 if offsets is None else offsets.data_ptr(),
            0 if indices is None else indices.data_ptr(),
        )
        return dst

    return launch
