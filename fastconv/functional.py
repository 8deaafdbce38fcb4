"""torch.nn.functional's convolution and pooling, with its signatures and semantics, on fastconv's kernels.

A call costs about as much as the address arithmetic around it: look whether anything unusual is going on, look the
call's shapes and arguments up among those met before, run. All checking and planning happens on the first call of a
kind (a *route*); bad arguments never become one.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as torch_functional

from . import plans, settings
from .arguments import Rejected
from .autograd import apply_average, apply_fprop, apply_max
from .convolution import ConvArguments, Convolution
from .dispatch import PLAIN, elsewhere, is_compiling, ordinary
from .pooling import PoolArguments, Pooling

#: A dynamic shape makes a new route each time; beyond this many the routes start over.
MAX_ROUTES = 4096

_routes: dict[Any, Any] = {}
_autocasting = torch._C._is_any_autocast_enabled
_is_grad_enabled = torch.is_grad_enabled
_threads = torch.get_num_threads


def conv2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Tensor:
    """torch.nn.functional.conv2d.

    Args:
        input: [N, C, H, W] or [C, H, W].
        weight: [K, C/groups, R, S].
        bias: [K] or None.
        stride, dilation: an int or a pair.
        padding: an int, a pair, "valid" or "same".
        groups: divides C and K.

    Returns:
        [N, K, P, Q] (or [K, P, Q]), channels_last if input or weight is.

    Raises:
        What torch.nn.functional.conv2d raises, with a message that names the argument.
    """
    if is_compiling() or not (
        type(input) in PLAIN
        and type(weight) in PLAIN
        and (bias is None or type(bias) in PLAIN)
        and not input.is_mkldnn
        and ordinary()
    ):
        return elsewhere(conv2d, torch_functional.conv2d, input, weight, bias, stride, padding, dilation, groups)
    if _autocasting():
        input, weight, bias = _autocast(input, weight, bias)
    try:
        dtype = input.dtype
        key = (
            input.shape,
            input.stride(),
            dtype,
            input.is_cpu or input.device,  # a device costs more to hash than all the rest
            weight.shape,
            weight.stride(),
            weight.dtype is dtype,
            weight.is_cpu or weight.device,
            None if bias is None else (bias.shape, bias.stride(), bias.dtype is dtype, bias.is_cpu or bias.device),
            stride,
            padding,
            dilation,
            groups,
            type(stride),
            type(padding),
            type(dilation),
            settings.current,
            _threads(),
        )
        conv = _routes.get(key)
    except (TypeError, RuntimeError):  # a list among the arguments; a tensor without strides
        key = conv = None
    if conv is None:
        if type(input) in PLAIN and input.dim() == 3:
            return _unbatched(conv2d, input, weight, bias, stride, padding, dilation, groups)
        conv = _conv_route(2, key, input, weight, bias, stride, padding, dilation, groups)
    if _is_grad_enabled() and (
        input.requires_grad or weight.requires_grad or (bias is not None and bias.requires_grad)
    ):
        if conv.is_native:
            return apply_fprop(input, weight, bias, conv, conv.forward)
        return conv.torch(input, weight, bias)
    return conv.forward(input, weight, bias)


def max_pool2d(
    input: Tensor,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Any:
    """torch.nn.functional.max_pool2d; for the gradient it keeps one byte an output, and not its input.

    Args:
        input: [N, C, H, W] or [C, H, W].
        kernel_size, stride, padding, dilation: an int or a pair; stride None means kernel_size.
        ceil_mode: let a last window hang over the edge.
        return_indices: also return each maximum's index in its H*W plane, int64.

    Returns:
        y, or (y, indices) with ``return_indices``.

    Raises:
        What torch.nn.functional.max_pool2d raises, with a message that names the argument.
    """
    arguments = (kernel_size, stride, padding, dilation, ceil_mode)
    if is_compiling() or not (type(input) in PLAIN and not input.is_mkldnn and ordinary()):
        return elsewhere(max_pool2d, torch_functional.max_pool2d, input, *arguments, return_indices)
    try:
        key = (
            "max",
            input.shape,
            input.stride(),
            input.dtype,
            input.is_cpu or input.device,
            arguments,
            type(kernel_size),
            type(stride),
            type(padding),
            settings.current,
            _threads(),
        )
        pool = _routes.get(key)
    except (TypeError, RuntimeError):
        key = pool = None
    if pool is None:
        if input.dim() == 3:
            return _unbatched(max_pool2d, input, *arguments, return_indices)
        pool = _pool_route(2, "max", key, input, PoolArguments(*arguments))
    if _is_grad_enabled() and input.requires_grad:
        if pool.is_native:
            return apply_max(input, pool, bool(return_indices))
        return pool.torch_max(input, return_indices)
    if not return_indices:
        return pool.forward(input)
    if pool.plan("fprop", indices=True).is_aten:
        return pool.torch_max(input, True)
    y, _, indices = pool.forward_max(input, False, True)
    return y, indices


def max_pool2d_with_indices(
    input: Tensor,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    return_indices: bool = True,
) -> tuple[Tensor, Tensor]:
    """:func:`max_pool2d` with indices: always (y, indices), whatever ``return_indices`` says, as in torch."""
    return max_pool2d(input, kernel_size, stride, padding, dilation, ceil_mode, True)


def avg_pool2d(
    input: Tensor,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Tensor:
    """torch.nn.functional.avg_pool2d.

    Args:
        input: [N, C, H, W] or [C, H, W].
        kernel_size, stride, padding: an int or a pair; stride None means kernel_size.
        ceil_mode: let a last window hang over the edge.
        count_include_pad: whether padding counts in the divisor.
        divisor_override: the divisor, instead of the window's size.

    Returns:
        [N, C, P, Q] (or [C, P, Q]).

    Raises:
        What torch.nn.functional.avg_pool2d raises, with a message that names the argument.
    """
    arguments = (kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override)
    if is_compiling() or not (type(input) in PLAIN and not input.is_mkldnn and ordinary()):
        return elsewhere(avg_pool2d, torch_functional.avg_pool2d, input, *arguments)
    try:
        key = (
            "avg",
            input.shape,
            input.stride(),
            input.dtype,
            input.is_cpu or input.device,
            arguments,
            type(kernel_size),
            type(stride),
            type(padding),
            settings.current,
            _threads(),
        )
        pool = _routes.get(key)
    except (TypeError, RuntimeError):
        key = pool = None
    if pool is None:
        if input.dim() == 3:
            return _unbatched(avg_pool2d, input, *arguments)
        pool = _pool_route(2, "average", key, input, _average_arguments(*arguments))
    if _is_grad_enabled() and input.requires_grad:
        return apply_average(input, pool, pool.forward) if pool.is_native else pool.torch(input)
    return pool.forward(input)


# ---- the first call of a kind ----
class _TorchRoute:
    """A call that our checks would refuse but torch accepts: torch's function runs it."""

    is_native = False

    def __init__(self, call: Callable[..., Any], reason: str) -> None:
        self.call, self.reason = call, reason
        self.forward = self.torch = call

    def torch_max(self, x: Tensor, indices: bool) -> Any:
        return self.call(x, return_indices=indices)

    def plan(self, pass_: str, **_: bool) -> Any:
        return plans.AtenPlan("a call that only PyTorch accepts", pass_, self.reason)


def _settle(refusal: Rejected, name: str, call: Callable[..., Any], *tensors: Any) -> Any:
    """Torch decides what is an error, and of which type; the words are ours, for they name the argument."""
    if refusal.certain is not None:
        raise refusal.certain(f"{name}: {refusal}")
    try:
        call(*tensors)
    except (RuntimeError, TypeError, ValueError, IndexError) as error:
        if type(error) not in (RuntimeError, TypeError, ValueError, IndexError, NotImplementedError):
            raise
        raise type(error)(f"{name}: {refusal}") from error
    route = _TorchRoute(call, str(refusal))
    plans.note_aten(route.plan("fprop"))
    return route


def _keep(key: Any, route: Any) -> Any:
    if key is not None:
        if len(_routes) >= MAX_ROUTES:
            _routes.clear()
        _routes[key] = route
    return route


def _conv_route(rank: int, key: Any, x: Any, w: Any, bias: Any, *arguments: Any) -> Any:
    name = f"conv{rank}d"
    try:
        return _keep(key, Convolution(x, w, bias, ConvArguments(*arguments), rank))
    except Rejected as refusal:
        torch_function = getattr(torch_functional, name)
        return _settle(refusal, name, lambda x, w, bias: torch_function(x, w, bias, *arguments), x, w, bias)


def _pool_route(rank: int, kind: str, key: Any, x: Any, given: PoolArguments) -> Any:
    name = f"{'max' if kind == 'max' else 'avg'}_pool{rank}d"
    try:
        return _keep(key, Pooling(x, given, rank, kind))
    except Rejected as refusal:
        call = partial(getattr(torch_functional, name), **given.for_torch(kind))
        return _settle(refusal, name, call, x)


def _average_arguments(
    kernel_size: Any, stride: Any, padding: Any, ceil_mode: Any, count_include_pad: Any, divisor_override: Any
) -> PoolArguments:
    return PoolArguments(kernel_size, stride, padding, 1, ceil_mode, count_include_pad, divisor_override)


def _unbatched(function: Callable[..., Any], x: Tensor, *arguments: Any) -> Any:
    """A batch of one, without the batch."""
    result = function(x.unsqueeze(0), *arguments)
    return tuple(each.squeeze(0) for each in result) if isinstance(result, tuple) else result.squeeze(0)


def _autocast(*tensors: Tensor | None) -> tuple[Tensor | None, ...]:
    """Cast as autocast casts a convolution's operands: floating tensors on its device, except float64."""
    cast = []
    for tensor in tensors:
        if tensor is not None and tensor.is_floating_point() and tensor.dtype != torch.float64:
            device = tensor.device.type
            if torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device):
                tensor = tensor.to(torch.get_autocast_dtype(device))
        cast.append(tensor)
    return tuple(cast)


# ---- for fastconv.plan: the route of a call, without running it ----
def _batched(x: Tensor, rank: int) -> Tensor:
    return x.unsqueeze(0) if x.dim() == rank + 1 else x


def _plan_conv2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Any:
    if _autocasting():
        input, weight, bias = _autocast(input, weight, bias)
    return _conv_route(2, None, _batched(input, 2), weight, bias, stride, padding, dilation, groups)


def _plan_max_pool2d(
    input: Tensor,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Any:
    given = PoolArguments(kernel_size, stride, padding, dilation, ceil_mode)
    return _pool_route(2, "max", None, _batched(input, 2), given)


def _plan_avg_pool2d(
    input: Tensor,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Any:
    given = _average_arguments(kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override)
    return _pool_route(2, "average", None, _batched(input, 2), given)


#: function name -> what makes the route of a call, with the function's own signature
ROUTES: dict[str, Callable[..., Any]] = {
    "conv2d": _plan_conv2d,
    "max_pool2d": _plan_max_pool2d,
    "avg_pool2d": _plan_avg_pool2d,
}


def _teach_torchscript() -> None:
    """torch.jit.script compiles a call of these as the ATen operator of the same name; it cannot look inside them."""
    from torch.jit import _builtins

    for function in (conv2d, max_pool2d, max_pool2d_with_indices, avg_pool2d):
        _builtins._register_builtin(function, f"aten::{function.__name__}")


_teach_torchscript()
