"""Gradients of every order.

Convolution is bilinear, and its three maps are closed under differentiation::

    y  = fprop(x, w)      gx = dgrad(gy, w)      gw = wgrad(x, gy)

    d fprop: dgrad, wgrad     d dgrad: fprop, wgrad     d wgrad: dgrad, fprop

so three autograd Functions whose backwards are made of each other give gradients of any order. The same holds for
pooling: max-pool's backward scatters along the winning taps, which is linear, with a gather as its adjoint; average
pool and its adjoint are each other's backward.

The Functions are called through the C-level ``apply``: torch's Python ``Function.apply`` exists to serve functorch
transforms, which never get here (dispatch.py), and costs a third of a small convolution.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from .convolution import Convolution
from .dispatch import PLAIN, is_plain, ordinary
from .pooling import Pooling

PLAIN_OR_NONE = PLAIN | {type(None)}


def _c_apply(function: type[Function]) -> Callable[..., Any]:
    return super(Function, function).apply  # type: ignore[misc]


def _records(*tensors: Tensor) -> bool:
    return torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)


def _readable(*tensors: Tensor) -> bool:
    """Whether a kernel may read these: false in a batched or transformed backward, where torch's operators go on."""
    if not ordinary():
        return False
    for tensor in tensors:  # noqa: SIM110  (all() would cost a generator)
        if not is_plain(tensor):
            return False
    return True


# ---- the maps, differentiable, on tensors of any kind and strides ----
def conv_fprop(conv: Convolution, x: Tensor, w: Tensor) -> Tensor:
    """y = fprop(x, w), without bias."""
    if not _readable(x, w):
        return conv.aten_fprop(x, w)
    return apply_fprop(x, w, None, conv, lambda x, w, _: conv.fprop(x, w)) if _records(x, w) else conv.fprop(x, w)


def conv_dgrad(conv: Convolution, gy: Tensor, w: Tensor) -> Tensor:
    """gx = dgrad(gy, w)."""
    if not _readable(gy, w):
        return conv.aten_dgrad(gy, w)
    return apply_dgrad(gy, w, None, conv, lambda gy, w, _: conv.dgrad(gy, w)) if _records(gy, w) else conv.dgrad(gy, w)


def conv_wgrad(conv: Convolution, x: Tensor, gy: Tensor) -> Tensor:
    """gw = wgrad(x, gy)."""
    if not _readable(x, gy):
        return conv.aten_wgrad(x, gy)
    return _apply_wgrad(x, gy, conv) if _records(x, gy) else conv.wgrad(x, gy)


def conv_bgrad(conv: Convolution, gy: Tensor) -> Tensor:
    """gb: the gradient gy of the call's result, summed over batch and space."""
    if not _readable(gy):
        return conv.aten_bgrad(gy)
    return _apply_bgrad(gy, conv) if _records(gy) else conv.bgrad(gy)


def _gradients(
    conv: Convolution, gy: Tensor, x: Tensor | None, w: Tensor | None, need: tuple[bool, ...]
) -> tuple[Tensor | None, ...]:
    """(gx, gw, gb), each only if needed, when nothing records or transforms the backward: the usual case, kept lean."""
    if need[0] and need[1] and conv.backward_is_aten:
        gx, gw = conv.aten_backward(gy, x, w, (True, True))  # spares aten a second look at the operands
    else:
        gx = conv.dgrad(gy, w) if need[0] else None
        gw = conv.wgrad(x, gy) if need[1] else None
    return gx, gw, conv.bgrad(gy) if need[2] else None


class ConvFprop(Function):
    """y = fprop(x, w) + bias; ``run(x, w, bias)`` is the conv's ``forward`` or something that takes other strides."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, w: Tensor, bias: Tensor | None, conv: Convolution, run: Callable[..., Tensor]
    ) -> Tensor:
        """Keeps an operand only if the other's gradient will be asked for."""
        need = ctx.needs_input_grad
        ctx.save_for_backward(x if need[1] else None, w if need[0] else None)
        ctx.conv = conv
        return run(x, w, bias)

    @staticmethod
    def backward(ctx: Any, gy: Tensor) -> tuple[Tensor | None, ...]:
        """Only what is asked for."""
        conv, (x, w) = ctx.conv, ctx.saved_tensors
        need = ctx.needs_input_grad
        if not torch.is_grad_enabled() and _readable(gy) and type(x) in PLAIN_OR_NONE and type(w) in PLAIN_OR_NONE:
            return *_gradients(conv, gy, x, w, need), None, None
        return (
            conv_dgrad(conv, gy, w) if need[0] else None,
            conv_wgrad(conv, x, gy) if need[1] else None,
            conv_bgrad(conv, gy) if need[2] else None,
            None,
            None,
        )


class ConvDgrad(Function):
    """gx = dgrad(gy, w) + bias, which is also what a transposed convolution is; ``run`` as in :class:`ConvFprop`."""

    @staticmethod
    def forward(
        ctx: Any, gy: Tensor, w: Tensor, bias: Tensor | None, conv: Convolution, run: Callable[..., Tensor]
    ) -> Tensor:
        """Keeps an operand only if the other's gradient will be asked for."""
        need = ctx.needs_input_grad
        ctx.save_for_backward(gy if need[1] else None, w if need[0] else None)
        ctx.conv = conv
        return run(gy, w, bias)

    @staticmethod
    def backward(ctx: Any, ggx: Tensor) -> tuple[Tensor | None, ...]:
        """Given the gradient ggx of gx: fprop(ggx, w), wgrad(ggx, gy) and ggx's own sums."""
        conv, (gy, w) = ctx.conv, ctx.saved_tensors
        need = ctx.needs_input_grad
        return (
            conv_fprop(conv, ggx, w) if need[0] else None,
            conv_wgrad(conv, ggx, gy) if need[1] else None,
            conv_bgrad(conv, ggx) if need[2] else None,
            None,
            None,
        )


class ConvWgrad(Function):
    """gw = wgrad(x, gy)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, gy: Tensor, conv: Convolution) -> Tensor:
        """Operands of any strides."""
        need_x, need_gy, _ = ctx.needs_input_grad
        ctx.save_for_backward(x if need_gy else None, gy if need_x else None)
        ctx.conv = conv
        return conv.wgrad(x, gy)

    @staticmethod
    def backward(ctx: Any, ggw: Tensor) -> tuple[Tensor | None, ...]:
        """Given the gradient ggw of gw: dgrad(gy, ggw) and fprop(x, ggw)."""
        conv, (x, gy) = ctx.conv, ctx.saved_tensors
        need_x, need_gy, _ = ctx.needs_input_grad
        return (
            conv_dgrad(conv, gy, ggw) if need_x else None,
            conv_fprop(conv, x, ggw) if need_gy else None,
            None,
        )


class ConvBgrad(Function):
    """gb[k] = sum of gy[:, k], gy as large as the call's result; its adjoint spreads a value over its channel."""

    @staticmethod
    def forward(ctx: Any, gy: Tensor, conv: Convolution) -> Tensor:
        """gy of any strides."""
        ctx.conv = conv
        return conv.bgrad(gy)

    @staticmethod
    def backward(ctx: Any, ggb: Tensor) -> tuple[Tensor, None]:
        """The adjoint."""
        conv = ctx.conv
        return ggb.reshape(-1, *[1] * conv.rank).expand(conv.result_shape), None


# ---- pooling ----
def max_scatter(pool: Pooling, gy: Tensor, offsets: Tensor) -> Tensor:
    """gx of max-pooling: each gy goes to the tap that won its window."""
    if not _readable(gy, offsets):
        return pool.aten_scatter(gy, offsets)
    return _apply_scatter(gy, offsets, pool) if _records(gy) else pool.dgrad(gy, offsets)


def max_gather(pool: Pooling, ggx: Tensor, offsets: Tensor) -> Tensor:
    """The adjoint of :func:`max_scatter`: each output position reads the tap that won its window."""
    if not _readable(ggx, offsets):
        return pool.aten_gather(ggx, offsets)
    return _apply_gather(ggx, offsets, pool) if _records(ggx) else pool.gather(ggx, offsets)


def average(pool: Pooling, x: Tensor) -> Tensor:
    """y of average pooling."""
    if not _readable(x):
        return pool.aten_average(x)
    return apply_average(x, pool, pool.fprop) if _records(x) else pool.fprop(x)


def average_adjoint(pool: Pooling, gy: Tensor) -> Tensor:
    """gx of average pooling: linear in gy, with :func:`average` as its own adjoint."""
    if not _readable(gy):
        return pool.aten_average_backward(gy)
    return _apply_average_adjoint(gy, pool) if _records(gy) else pool.dgrad(gy)


class MaxPool(Function):
    """Max-pooling; keeps one byte an output (which tap won) and not its input."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, pool: Pooling, indices: bool) -> Any:
        """y, or (y, indices)."""
        y, offsets, plane_indices = pool.forward_max(x, True, indices)
        ctx.save_for_backward(offsets)
        ctx.pool = pool
        if not indices:
            return y
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(plane_indices)
        return y, plane_indices

    @staticmethod
    def backward(ctx: Any, gy: Tensor | None, *_: Any) -> tuple[Tensor | None, None, None]:
        """Scatter."""
        return None if gy is None else max_scatter(ctx.pool, gy, ctx.saved_tensors[0]), None, None


class MaxScatter(Function):
    """gx from gy and the winning taps."""

    @staticmethod
    def forward(ctx: Any, gy: Tensor, offsets: Tensor, pool: Pooling) -> Tensor:
        """gy of any strides."""
        ctx.save_for_backward(offsets)
        ctx.pool = pool
        return pool.dgrad(gy, offsets)

    @staticmethod
    def backward(ctx: Any, ggx: Tensor) -> tuple[Tensor, None, None]:
        """Gather."""
        return max_gather(ctx.pool, ggx, ctx.saved_tensors[0]), None, None


class MaxGather(Function):
    """ggy from ggx and the winning taps."""

    @staticmethod
    def forward(ctx: Any, ggx: Tensor, offsets: Tensor, pool: Pooling) -> Tensor:
        """ggx of any strides."""
        ctx.save_for_backward(offsets)
        ctx.pool = pool
        return pool.gather(ggx, offsets)

    @staticmethod
    def backward(ctx: Any, gggy: Tensor) -> tuple[Tensor, None, None]:
        """Scatter again."""
        return max_scatter(ctx.pool, gggy, ctx.saved_tensors[0]), None, None


class AveragePool(Function):
    """Average pooling: linear, so nothing is kept."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, pool: Pooling, run: Callable[[Tensor], Tensor]) -> Tensor:
        """``run`` is the pool's ``forward`` or, for an input of other strides, its ``fprop``."""
        ctx.pool = pool
        return run(x)

    @staticmethod
    def backward(ctx: Any, gy: Tensor) -> tuple[Tensor, None, None]:
        """The adjoint."""
        return average_adjoint(ctx.pool, gy), None, None


class AveragePoolAdjoint(Function):
    """The adjoint of average pooling."""

    @staticmethod
    def forward(ctx: Any, gy: Tensor, pool: Pooling) -> Tensor:
        """gy of any strides."""
        ctx.pool = pool
        return pool.dgrad(gy)

    @staticmethod
    def backward(ctx: Any, ggx: Tensor) -> tuple[Tensor, None]:
        """Average pooling itself."""
        return average(ctx.pool, ggx), None


apply_fprop = _c_apply(ConvFprop)
apply_dgrad = _c_apply(ConvDgrad)
_apply_wgrad = _c_apply(ConvWgrad)
_apply_bgrad = _c_apply(ConvBgrad)
apply_max = _c_apply(MaxPool)
_apply_scatter = _c_apply(MaxScatter)
_apply_gather = _c_apply(MaxGather)
apply_average = _c_apply(AveragePool)
_apply_average_adjoint = _c_apply(AveragePoolAdjoint)
