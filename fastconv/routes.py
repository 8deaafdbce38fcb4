"""The long way of a call: is it plain eager execution, are its arguments good, which plan serves it.

A *route* is a :class:`Convolution` or :class:`Pooling`: everything known about calls with these shapes, strides, dtype,
device, arguments and settings. Routes are kept, and what runs a call is remembered for calls like it (repeats.py). Bad
arguments never become a route.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as torch_functional

from . import plans, settings
from .arguments import Rejected
from .autograd import apply_average, apply_dgrad, apply_fprop, apply_max
from .convolution import Convolution
from .dispatch import elsewhere, is_plain, ordinary
from .pooling import Pooling
from .precision import torchs_switch
from .repeats import remember
from .transposed import TransposedConvolution

#: A dynamic shape makes a new route each time; beyond this many the routes start over.
MAX_ROUTES = 4096

routes: dict[Any, Any] = {}


def convolve(
    function: Callable[..., Any],
    kind: type[Convolution],
    rank: int,
    repeat: Any,
    x: Any,
    w: Any,
    bias: Any,
    *arguments: Any,
) -> Tensor:
    """A call ``function(x, w, bias, *arguments)`` of a convolution; ``repeat`` is its key among the repeats."""
    tensors = (x, w) if bias is None else (x, w, bias)
    if not (all(is_plain(each) for each in tensors) and ordinary()):
        return elsewhere(function, kind.torchs(rank), x, w, bias, *arguments)
    operands = _autocast(x, w, bias)
    if x.dim() == rank + 1:
        return function(x.unsqueeze(0), w, bias, *arguments).squeeze(0)
    conv = conv_route(kind, rank, *operands, *arguments)
    run = conv.forward
    if torch.is_grad_enabled() and any(each.requires_grad for each in tensors):
        run = _recorded_conv(conv) if conv.is_native else conv.torch
    result = run(*operands)
    is_cast = any(a is not b for a, b in zip(operands, (x, w, bias), strict=True))
    if not is_cast and isinstance(conv, Convolution) and _are_constant(arguments):
        remember(repeat, arguments, run, *tensors)
    return result


def _recorded_conv(conv: Convolution) -> Callable[..., Tensor]:
    apply = apply_fprop if conv.forward_pass == "fprop" else apply_dgrad
    return lambda x, w, bias: apply(x, w, bias, conv, conv.forward)


def pool(
    function: Callable[..., Any],
    rank: int,
    kind: str,
    repeat: Any,
    x: Any,
    arguments: tuple[Any, ...],
    return_indices: bool = False,
    of: type[Pooling] = Pooling,
) -> Any:
    """A call ``function(x, *arguments)`` of a pooling ``of`` this class; ``repeat`` is its key among the repeats."""
    rest = (return_indices,) if kind == "max" else ()
    if not (is_plain(x) and ordinary()):
        if of.prefix and rank > 1 and not hasattr(x, "size"):  # torch asks for it in Python, and names no argument
            raise AttributeError(f"input: expected a Tensor, got {type(x).__name__}")
        return elsewhere(function, getattr(torch_functional, function.__name__), x, *arguments, *rest)
    if x.dim() == rank + 1:
        result = function(x.unsqueeze(0), *arguments, *rest)
        return tuple(each.squeeze(0) for each in result) if isinstance(result, tuple) else result.squeeze(0)
    given, x = x, _pool_autocast(x, rank)
    pooling = pool_route(of, rank, kind, x, *arguments)
    recorded = torch.is_grad_enabled() and x.requires_grad
    run = (_max_runner if kind == "max" else _average_runner)(pooling, recorded, bool(return_indices))
    result = run(x)
    if x is given and isinstance(pooling, Pooling) and _are_constant(arguments):
        remember(repeat, (arguments, return_indices), run, x)
    return result


def _average_runner(pooling: Pooling, recorded: bool, _: bool) -> Callable[[Tensor], Tensor]:
    if not recorded:
        return pooling.forward
    return (lambda x: apply_average(x, pooling, pooling.forward)) if pooling.is_native else pooling.torch


def _max_runner(pooling: Pooling, recorded: bool, indices: bool) -> Callable[[Tensor], Any]:
    if recorded:
        if pooling.is_native:
            return lambda x: apply_max(x, pooling, indices)
        return partial(pooling.torch_max, indices=indices)
    if not indices:
        return pooling.forward
    if not isinstance(pooling, Pooling) or pooling.plan("fprop", indices=True).is_aten:
        return partial(pooling.torch_max, indices=True)
    return lambda x: pooling.forward_max(x, False, True)[::2]


def _autocast(*tensors: Tensor | None) -> tuple[Tensor | None, ...]:
    """The operands as autocast has them for a convolution: floating tensors on its device are cast, except float64."""
    if not torch._C._is_any_autocast_enabled():
        return tensors
    cast = []
    for tensor in tensors:
        if tensor is not None and tensor.is_floating_point() and tensor.dtype != torch.float64:
            device = tensor.device.type
            if torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device):
                tensor = tensor.to(torch.get_autocast_dtype(device))
        cast.append(tensor)
    return tuple(cast)


def _pool_autocast(x: Tensor, rank: int) -> Tensor:
    """The input as autocast has it for pooling: on the CPU, and in three dimensions alone, in float32."""
    if rank == 3 and x.device.type == "cpu" and x.dtype in (torch.float16, torch.bfloat16):
        return x.float() if torch.is_autocast_enabled("cpu") else x
    return x


# ---- routes ----
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


def _look(tensor: Tensor | None) -> Any:
    return None if tensor is None else (tensor.shape, tensor.stride(), tensor.dtype, tensor.device, tensor.is_neg())


def _are_constant(arguments: tuple[Any, ...]) -> bool:
    """Whether each argument will always have the value it has now: not so of a list or of a tensor."""
    plain = (int, str, type(None))
    return all(
        isinstance(each, plain) or (type(each) in (tuple, torch.Size) and all(type(one) is int for one in each))
        for each in arguments
    )


def _typed(arguments: Any) -> tuple[Any, ...]:
    """Arguments as part of a dict key in which 1, True and 1.0 differ, and a tensor is the number it holds."""
    return tuple((type(each), _typed(each) if isinstance(each, (tuple, list)) else _value(each)) for each in arguments)


def _value(argument: Any) -> Any:
    return tuple(argument.reshape(-1).tolist()) if isinstance(argument, Tensor) else argument


def _frozen(arguments: Any) -> Any:
    """The same arguments in objects that nobody can change: what a kept route refers to."""
    if isinstance(arguments, (tuple, list)):
        return tuple(_frozen(each) for each in arguments)
    return arguments.tolist() if isinstance(arguments, Tensor) else arguments


def _find(key: tuple[Any, ...], make: Callable[[], Any]) -> Any:
    """The kept route of this key, or a new one."""
    try:
        route = routes.get(key)
    except TypeError:  # something unhashable among the arguments: an error, or an array
        return make()
    if route is None:
        route = make()
        if len(routes) >= MAX_ROUTES:
            routes.clear()
        routes[key] = route
    return route


def conv_route(kind: type[Convolution], rank: int, x: Any, w: Any, bias: Any, *arguments: Any) -> Any:
    """The route of a call. Raises what torch raises for bad arguments."""
    threads = plans.threads_for(x.device)
    key = (kind, rank, _look(x), _look(w), _look(bias), _typed(arguments), settings.current, torchs_switch(), threads)
    try:
        return _find(key, lambda: kind(x, w, bias, _frozen(arguments), rank))
    except Rejected as refusal:
        name = f"{kind.kind}{rank}d"
        torchs = kind.torchs(rank)
        return _settle(refusal, name, lambda x, w, bias: torchs(x, w, bias, *arguments), x, w, bias)


def pool_route(of: type[Pooling], rank: int, kind: str, x: Any, *arguments: Any) -> Any:
    """The route of a call. Raises what torch raises for bad arguments."""
    key = (of, kind, rank, _look(x), _typed(arguments), settings.current, plans.threads_for(x.device))
    try:
        return _find(key, lambda: of(x, of.Arguments.of(kind, _frozen(arguments)), rank, kind))
    except Rejected as refusal:
        name = f"{of.prefix}{'max' if kind == 'max' else 'avg'}_pool{rank}d"
        given = of.Arguments.of(kind, arguments).for_torch(kind, rank)
        return _settle(refusal, name, partial(getattr(torch_functional, name), **given), x)


# ---- for fastconv.plan: the route of a call that is not run, by the function's own signature ----
def _batched(x: Tensor, rank: int) -> Tensor:
    if not isinstance(x, Tensor):
        raise TypeError(f"input: expected a Tensor, got {type(x).__name__}")
    return x.unsqueeze(0) if x.dim() == rank + 1 else x


def _arguments(name: str, args: Any, kwargs: Any) -> list[Any]:
    """Those of a call of functional's function of this name, in its order, defaults included."""
    from . import functional

    call = inspect.signature(getattr(functional, name)).bind(*args, **kwargs)
    call.apply_defaults()
    return list(call.arguments.values())


def _conv(kind: type[Convolution], rank: int, name: str = "") -> Callable[..., Any]:
    def route(*args: Any, **kwargs: Any) -> Any:
        x, w, bias, *rest = _arguments(name or f"{kind.kind}{rank}d", args, kwargs)
        return conv_route(kind, rank, *_autocast(_batched(x, rank), w, bias), *rest)

    return route


def _max_pool(rank: int, adaptive: bool = False) -> Callable[..., Any]:
    def route(*args: Any, **kwargs: Any) -> Any:
        of = _pooling(adaptive)
        x, *rest, _ = _arguments(f"{of.prefix}max_pool{rank}d", args, kwargs)
        return pool_route(of, rank, "max", _pool_autocast(_batched(x, rank), rank), *rest)

    return route


def _avg_pool(rank: int, adaptive: bool = False) -> Callable[..., Any]:
    def route(*args: Any, **kwargs: Any) -> Any:
        of = _pooling(adaptive)
        x, *rest = _arguments(f"{of.prefix}avg_pool{rank}d", args, kwargs)
        return pool_route(of, rank, "average", _pool_autocast(_batched(x, rank), rank), *rest)

    return route


def _pooling(adaptive: bool) -> type[Pooling]:
    from .adaptive import AdaptivePooling

    return AdaptivePooling if adaptive else Pooling


def _max_unpool(rank: int) -> Callable[..., Any]:
    def route(*args: Any, **kwargs: Any) -> Any:
        from . import unpooling

        return unpooling.route(rank)(*args, **kwargs)

    return route


BY_NAME: dict[str, Callable[..., Any]] = {
    **{f"conv{rank}d": _conv(Convolution, rank) for rank in (1, 2, 3)},
    **{f"conv_transpose{rank}d": _conv(TransposedConvolution, rank) for rank in (1, 2, 3)},
    **{f"max_pool{rank}d": _max_pool(rank) for rank in (1, 2, 3)},
    **{f"avg_pool{rank}d": _avg_pool(rank) for rank in (1, 2, 3)},
    **{f"adaptive_max_pool{rank}d": _max_pool(rank, adaptive=True) for rank in (1, 2, 3)},
    **{f"adaptive_avg_pool{rank}d": _avg_pool(rank, adaptive=True) for rank in (1, 2, 3)},
    **{f"max_unpool{rank}d": _max_unpool(rank) for rank in (1, 2, 3)},
}
