"""Max-unpooling: torch.nn.functional.max_unpool1d to 3d on fastconv's kernels.

Linear in the input; its derivative picks the gradient at the indices, and that one's derivative is unpooling again. The
kernels run where autograd records at most one derivative; a derivative of a derivative is torch's own operators.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.nn import functional as torch_functional

from . import backends, plans, settings
from .arguments import Rejected, dense, dense_strides, integers, is_channels_last
from .dispatch import elsewhere, is_plain, ordinary
from .launch import unpool_launch
from .routes import _settle


class Unpooling:
    """A planned unpooling of tensors [N, C, *size] to [N, C, *output]."""

    operation = "pool"

    def __init__(
        self, like: tuple[Any, ...], channels_last: bool, output: tuple[int, ...], chosen: settings.Settings
    ) -> None:
        """``like``: the input's shape, dtype and device. Raises RuntimeError if a forced kernel refuses."""
        shape, self.dtype, self.device = like
        self.small, self.large, self.channels_last = tuple(shape), (*shape[:2], *output), channels_last
        self.settings, self._plans = chosen, {}
        self.module, self.refusal = self._choose_module()
        if self.module is not None:
            self.problem = self.module.PoolProblem(
                kind="max",
                n=shape[0],
                c=shape[1],
                input=output,
                adaptive_output=shape[2:],
                dtype=backends.DTYPES[self.dtype],
                layout="nhwc" if channels_last else "nchw",
            )

    def _choose_module(self) -> tuple[Any, str]:
        if self.dtype not in backends.DTYPES:
            return None, f"no kernel takes {self.dtype}"
        if self.device.type not in backends.DEVICE_TYPES:
            return None, f"no backend for {self.device.type} tensors"
        if 0 in self.small or 0 in self.large:
            return None, "a tensor without elements needs no kernel"
        backend, reason = backends.select(self.device)
        return (None, reason) if backend is None else (backend.module, "")

    def plan(self, pass_: str) -> Any:
        """The plan of "fprop", which the module calls unpool, or "dgrad", which it calls pick."""
        names = {"fprop": "unpool", "dgrad": "pick"}
        if pass_ not in names:
            raise ValueError(f"pass_: expected fprop or dgrad for max-unpooling, got {pass_!r}")
        if pass_ not in self._plans:
            if self.module is None:
                operation = f"max_unpool{len(self.small) - 2}d {self.dtype} {list(self.small)}"
                self._plans[pass_] = plans.AtenPlan(operation, pass_, self.refusal)
                plans.note_aten(self._plans[pass_])
            else:
                where = {"threads": plans.threads_for(self.device), "device": self.device.index or 0}
                self._plans[pass_] = plans.make_plan(
                    self.module, self.operation, self.problem, names[pass_], self.settings, **where
                )
        return self._plans[pass_]

    @property
    def is_native(self) -> bool:
        """Whether our kernels run both ways."""
        return not (self.plan("fprop").is_aten or self.plan("dgrad").is_aten)

    def run(self, pass_: str, src: Tensor, indices: Tensor) -> Tensor:
        """A pass by our kernel; operands of any strides."""
        shape = self.large if pass_ == "fprop" else self.small
        strides = dense_strides(shape, self.channels_last)
        launch = unpool_launch(self.plan(pass_), self.device, self.dtype, shape, strides)
        return launch(dense(src, self.channels_last), dense(indices, self.channels_last))


class MaxUnpool(Function):
    """y from x and its indices; keeps the indices."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, indices: Tensor, unpooling: Unpooling) -> Tensor:
        """Operands of any strides."""
        ctx.save_for_backward(indices)
        ctx.unpooling = unpooling
        return unpooling.run("fprop", x, indices)

    @staticmethod
    def backward(ctx: Any, gy: Tensor) -> tuple[Tensor, None, None]:
        """gy at the indices."""
        (indices,) = ctx.saved_tensors
        if torch.is_grad_enabled() or not (ordinary() and is_plain(gy)):
            return gy.flatten(2).gather(2, indices.flatten(2)).reshape(indices.shape), None, None
        return ctx.unpooling.run("dgrad", gy, indices), None, None


@lru_cache(maxsize=1024)
def _planned(*key: Any) -> Unpooling:
    *of, _threads = key
    return Unpooling(*of)


def _checked(
    rank: int, x: Tensor, indices: Tensor, kernel_size: Any, stride: Any, padding: Any, output_size: Any
) -> Unpooling:
    """The unpooling of a call of a batch. Raises Rejected."""
    if x.dim() != rank + 2:
        raise Rejected(f"input: expected {rank + 1} or {rank + 2} dimensions, got {list(x.shape)}")
    if not isinstance(indices, Tensor) or indices.dtype != torch.int64:
        got = indices.dtype if isinstance(indices, Tensor) else type(indices).__name__
        raise Rejected(f"indices: expected an int64 tensor, got {got}")
    if indices.shape != x.shape or indices.device != x.device:
        raise Rejected(f"indices: expected the input's shape {list(x.shape)} and device, got {list(indices.shape)}")
    window = integers(kernel_size, rank, "kernel_size")
    steps = window if stride is None else integers(stride, rank, "stride")
    pad = integers(padding, rank, "padding")
    if isinstance(output_size, (list, tuple)) and len(output_size) not in (rank, rank + 2):
        raise Rejected(f"output_size: expected {rank} sizes, or those of the batch and channels too, got {output_size}")
    try:
        # torch's own rule, so that there is one
        size = torch_functional._unpool_output_size(x, window, steps, pad, output_size)
        output = integers(list(size), rank, "output_size")
    except (ValueError, TypeError, RuntimeError) as error:
        raise Rejected(f"output_size: {error}") from None
    if rank == 3 and min(steps) <= 0:
        raise Rejected(f"stride: expected positive, got {steps}")
    if min(output) < 0 or (0 in x.shape[1:]):
        raise Rejected(f"output_size: expected positive, got {output}, from an input of {list(x.shape)}")
    like = (tuple(x.shape), x.dtype, x.device)
    return _planned(like, is_channels_last(x.shape, x.stride()), output, settings.current, plans.threads_for(x.device))


def _unpool(rank: int) -> Callable[..., Tensor]:
    torchs = getattr(torch_functional, f"max_unpool{rank}d")

    def max_unpool(
        input: Tensor,
        indices: Tensor,
        kernel_size: Any,
        stride: Any = None,
        padding: Any = 0,
        output_size: Any = None,
    ) -> Tensor:
        if not (is_plain(input) and is_plain(indices) and ordinary()):
            if not (hasattr(input, "size") and hasattr(indices, "size")):  # torch asks for it, and names no argument
                wrong, it = ("input", input) if not hasattr(input, "size") else ("indices", indices)
                raise (AttributeError if wrong == "input" else TypeError)(
                    f"{wrong}: expected a Tensor, got {type(it).__name__}"
                )
            return elsewhere(max_unpool, torchs, input, indices, kernel_size, stride, padding, output_size)
        if input.dim() == rank + 1 and indices.dim() == rank + 1:
            batch = input.unsqueeze(0), indices.unsqueeze(0)
            return max_unpool(*batch, kernel_size, stride, padding, output_size).squeeze(0)
        given = (kernel_size, stride, padding, output_size)
        x = _autocast(input)
        try:
            unpooling = _checked(rank, x, indices, *given)
        except Rejected as refusal:
            return _settle(refusal, f"max_unpool{rank}d", lambda x: torchs(x, indices, *given), x).forward(x)
        if not unpooling.is_native:
            return torchs(x, indices, *given)
        if torch.is_grad_enabled() and x.requires_grad:
            return MaxUnpool.apply(x, indices, unpooling)
        return unpooling.run("fprop", x, indices)

    size = {1: "L", 2: "H, W", 3: "D, H, W"}[rank]
    name = f"max_unpool{rank}d"
    max_unpool.__name__ = max_unpool.__qualname__ = name
    max_unpool.__module__ = "fastconv.functional"
    max_unpool.__doc__ = f"""torch.nn.functional.{name}: each input goes to its index in its channel, the rest is 0.

    Deterministic. Where indices repeat in a channel, the last of them in the order of memory wins, on every backend;
    torch leaves open which. (After max-pooling, equal indices come with equal values.) The gradient reads the result's
    gradient at every index.

    Args:
        input: [N, C, {size}] or [C, {size}].
        indices: int64, of the input's shape: places in a channel of the output, as ``max_pool{rank}d`` returns them.
        kernel_size, stride, padding: of the max-pooling; stride None means kernel_size.
        output_size: the result's spatial sizes (or its whole shape), within a stride of
            ``(input - 1) * stride + kernel_size - 2 * padding``, the default.

    Returns:
        [N, C, *output_size] (or [C, *output_size]), channels last if the input is.

    Raises:
        What torch.nn.functional.{name} raises, with a message that names the argument. An index outside the channel:
        RuntimeError on the CPU; on a GPU, where nobody waits for it, it is left out.
    """
    return max_unpool


def _autocast(x: Tensor) -> Tensor:
    """The input as autocast on the CPU has it: in float32."""
    if x.device.type == "cpu" and x.dtype in (torch.float16, torch.bfloat16) and torch.is_autocast_enabled("cpu"):
        return x.float()
    return x


max_unpool1d, max_unpool2d, max_unpool3d = (_unpool(rank) for rank in (1, 2, 3))


def route(rank: int) -> Callable[..., Unpooling]:
    """For fastconv.plan: the unpooling of a call that is not run."""

    def of(input: Tensor, indices: Tensor, *given: Any, **named: Any) -> Unpooling:
        names = ("kernel_size", "stride", "padding", "output_size")
        call = {"stride": None, "padding": 0, "output_size": None, **dict(zip(names, given, strict=False)), **named}
        batched = input.dim() == rank + 1
        x, places = (input.unsqueeze(0), indices.unsqueeze(0)) if batched else (input, indices)
        try:
            return _checked(rank, _autocast(x), places, *(call[name] for name in names))
        except Rejected as refusal:
            raise RuntimeError(f"max_unpool{rank}d: {refusal}") from None

    return of
