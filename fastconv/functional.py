"""torch.nn.functional's convolution and pooling, with its signatures and semantics, on fastconv's kernels.

Each function recognises a call like one before (repeats.py) and runs what served that; whatever it does not recognise
goes the long way (routes.py), where everything is checked and planned.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.nn import functional as torch_functional

from . import settings
from .adaptive import adaptive_avg_pool1d as adaptive_avg_pool1d
from .adaptive import adaptive_avg_pool2d as adaptive_avg_pool2d
from .adaptive import adaptive_avg_pool3d as adaptive_avg_pool3d
from .adaptive import adaptive_max_pool1d as adaptive_max_pool1d
from .adaptive import adaptive_max_pool1d_with_indices as adaptive_max_pool1d_with_indices
from .adaptive import adaptive_max_pool2d as adaptive_max_pool2d
from .adaptive import adaptive_max_pool2d_with_indices as adaptive_max_pool2d_with_indices
from .adaptive import adaptive_max_pool3d as adaptive_max_pool3d
from .adaptive import adaptive_max_pool3d_with_indices as adaptive_max_pool3d_with_indices
from .convolution import Convolution
from .dispatch import elsewhere, is_watched
from .fused import conv2d_bias_act as conv2d_bias_act
from .padded import padded_conv1d as padded_conv1d
from .padded import padded_conv2d as padded_conv2d
from .padded import padded_conv3d as padded_conv3d
from .precision import torchs_switch
from .repeats import known
from .routes import convolve, pool
from .separable import separable_conv2d as separable_conv2d
from .transposed import TransposedConvolution
from .unpooling import max_unpool1d as max_unpool1d
from .unpooling import max_unpool2d as max_unpool2d
from .unpooling import max_unpool3d as max_unpool3d

_is_grad_enabled = torch.is_grad_enabled
_threads = torch.get_num_threads


# What the docstrings call the axes of the input, of the filter and of the output.
_AXES = {1: ("L", "S", "Q"), 2: ("H, W", "R, S", "P, Q"), 3: ("D, H, W", "T, R, S", "O, P, Q")}
_SIZES = {1: "an int or one in a tuple", 2: "an int or a pair", 3: "an int or three"}
_LAST = {1: "contiguous", 2: "channels_last if input or weight is", 3: "channels_last_3d if input or weight is"}


Function = TypeVar("Function", bound=Callable[..., Any])


def _named(function: Function, name: str, doc: str) -> Function:
    """``function`` as if it had been defined by that name at the top of this module."""
    function.__name__ = function.__qualname__ = name
    function.__doc__ = doc
    return function


# One body for three ranks, made three times over rather than called: a call more is felt in a small convolution. What
# these return is left to be inferred, with the names of its arguments.
def _conv(rank: int):
    torchs = getattr(torch_functional, f"conv{rank}d")

    def conv(
        input: Tensor,
        weight: Tensor,
        bias: Tensor | None = None,
        stride: Any = 1,
        padding: Any = 0,
        dilation: Any = 1,
        groups: int = 1,
    ) -> Tensor:
        if is_watched():
            return elsewhere(conv, torchs, input, weight, bias, stride, padding, dilation, groups)
        key = (
            conv,
            id(weight),
            id(stride),
            id(padding),
            id(dilation),
            id(groups),
            bias is None,
            _is_grad_enabled(),
            settings.current,
            torchs_switch(),
            _threads(),
        )
        for check, run, _ in known.get(key, ()):
            if check(input, weight) if bias is None else check(input, weight, bias):
                return run(input, weight, bias)
        return convolve(conv, Convolution, rank, key, input, weight, bias, stride, padding, dilation, groups)

    size, window, out = _AXES[rank]
    doc = f"""torch.nn.functional.conv{rank}d.

    Args:
        input: [N, C, {size}] or [C, {size}].
        weight: [K, C/groups, {window}].
        bias: [K] or None.
        stride, dilation: {_SIZES[rank]}.
        padding: {_SIZES[rank]}, "valid" or "same".
        groups: divides C and K.

    Returns:
        [N, K, {out}] (or [K, {out}]), {_LAST[rank]}.

    Raises:
        What torch.nn.functional.conv{rank}d raises, with a message that names the argument.
    """
    return _named(conv, f"conv{rank}d", doc)


def _conv_transpose(rank: int):
    torchs = getattr(torch_functional, f"conv_transpose{rank}d")

    def conv_transpose(
        input: Tensor,
        weight: Tensor,
        bias: Tensor | None = None,
        stride: Any = 1,
        padding: Any = 0,
        output_padding: Any = 0,
        groups: int = 1,
        dilation: Any = 1,
    ) -> Tensor:
        arguments = (stride, padding, output_padding, groups, dilation)
        if is_watched():
            return elsewhere(conv_transpose, torchs, input, weight, bias, *arguments)
        key = (
            conv_transpose,
            id(weight),
            id(stride),
            id(padding),
            id(output_padding),
            id(groups),
            id(dilation),
            bias is None,
            _is_grad_enabled(),
            settings.current,
            torchs_switch(),
            _threads(),
        )
        for check, run, _ in known.get(key, ()):
            if check(input, weight) if bias is None else check(input, weight, bias):
                return run(input, weight, bias)
        return convolve(conv_transpose, TransposedConvolution, rank, key, input, weight, bias, *arguments)

    size, window, out = _AXES[rank]
    doc = f"""torch.nn.functional.conv_transpose{rank}d: what conv{rank}d's input receives from a gradient ``input``.

    Args:
        input: [N, C, {size}] or [C, {size}].
        weight: [C, K/groups, {window}].
        bias: [K] or None; the kernel adds it before it stores.
        stride, padding, dilation: {_SIZES[rank]}, of the convolution.
        output_padding: {_SIZES[rank]}: how much larger than the least the output is, less than stride or dilation.
        groups: divides C and K.

    Returns:
        [N, K, {out}] (or [K, {out}]), {_LAST[rank]}. An output has
        ``(input - 1) * stride - 2 * padding + dilation * (kernel - 1) + output_padding + 1`` positions an axis.

    Raises:
        What torch.nn.functional.conv_transpose{rank}d raises, with a message that names the argument.
    """
    return _named(conv_transpose, f"conv_transpose{rank}d", doc)


conv1d, conv2d, conv3d = (_conv(rank) for rank in (1, 2, 3))
conv_transpose1d, conv_transpose2d, conv_transpose3d = (_conv_transpose(rank) for rank in (1, 2, 3))


def _max_pool(rank: int):
    torchs = getattr(torch_functional, f"max_pool{rank}d")

    def max_pool(
        input: Tensor,
        kernel_size: Any,
        stride: Any = None,
        padding: Any = 0,
        dilation: Any = 1,
        ceil_mode: bool = False,
        return_indices: bool = False,
    ) -> Any:
        arguments = (kernel_size, stride, padding, dilation, ceil_mode)
        if is_watched():
            return elsewhere(max_pool, torchs, input, *arguments, return_indices)
        key = (
            max_pool,
            id(kernel_size),
            id(stride),
            id(padding),
            id(dilation),
            id(ceil_mode),
            id(return_indices),
            _is_grad_enabled(),
            settings.current,
            _threads(),
        )
        for check, run, _ in known.get(key, ()):
            if check(input):
                return run(input)
        return pool(max_pool, rank, "max", key, input, arguments, return_indices)

    size, _, out = _AXES[rank]
    doc = f"""torch.nn.functional.max_pool{rank}d; for the gradient it keeps one byte an output, and not its input.

    Args:
        input: [N, C, {size}] or [C, {size}].
        kernel_size, stride, padding, dilation: {_SIZES[rank]}; stride None means kernel_size.
        ceil_mode: let a last window hang over the edge.
        return_indices: also return each maximum's index in its channel's [{size}], int64.

    Returns:
        y [N, C, {out}] (or [C, {out}]), or (y, indices) with ``return_indices``.

    Raises:
        What torch.nn.functional.max_pool{rank}d raises, with a message that names the argument.
    """
    return _named(max_pool, f"max_pool{rank}d", doc)


def _max_pool_with_indices(max_pool: Callable[..., Any], rank: int):
    def with_indices(
        input: Tensor,
        kernel_size: Any,
        stride: Any = None,
        padding: Any = 0,
        dilation: Any = 1,
        ceil_mode: bool = False,
        return_indices: bool = True,
    ) -> tuple[Tensor, Tensor]:
        return max_pool(input, kernel_size, stride, padding, dilation, ceil_mode, True)

    doc = f":func:`max_pool{rank}d` with indices: always (y, indices), whatever ``return_indices`` says, as in torch."
    return _named(with_indices, f"max_pool{rank}d_with_indices", doc)


def _avg_pool(rank: int):
    torchs = getattr(torch_functional, f"avg_pool{rank}d")

    def avg_pool(
        input: Tensor,
        kernel_size: Any,
        stride: Any = None,
        padding: Any = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
        divisor_override: int | None = None,
    ) -> Tensor:
        arguments = (kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override)
        if is_watched():
            return elsewhere(avg_pool, torchs, input, *arguments)
        key = (
            avg_pool,
            id(kernel_size),
            id(stride),
            id(padding),
            id(divisor_override),
            id(ceil_mode),
            id(count_include_pad),
            _is_grad_enabled(),
            settings.current,
            _threads(),
        )
        for check, run, _ in known.get(key, ()):
            if check(input):
                return run(input)
        return pool(avg_pool, rank, "average", key, input, arguments)

    size, _, out = _AXES[rank]
    doc = f"""torch.nn.functional.avg_pool{rank}d.

    Args:
        input: [N, C, {size}] or [C, {size}].
        kernel_size, stride, padding: {_SIZES[rank]}; stride None means kernel_size.
        ceil_mode: let a last window hang over the edge.
        count_include_pad: whether padding counts in the divisor.
        divisor_override: the divisor, instead of the window's size.

    Returns:
        [N, C, {out}] (or [C, {out}]).

    Raises:
        What torch.nn.functional.avg_pool{rank}d raises, with a message that names the argument.
    """
    return _named(avg_pool, f"avg_pool{rank}d", doc)


def avg_pool1d(
    input: Tensor,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
) -> Tensor:
    """torch.nn.functional.avg_pool1d, which has no divisor_override: else as :func:`avg_pool2d`.

    Args:
        input: [N, C, L] or [C, L].
        kernel_size, stride, padding: an int or one in a tuple; stride None means kernel_size.
        ceil_mode: let a last window hang over the edge.
        count_include_pad: whether padding counts in the divisor.

    Returns:
        [N, C, Q] (or [C, Q]).

    Raises:
        What torch.nn.functional.avg_pool1d raises, with a message that names the argument.
    """
    arguments = (kernel_size, stride, padding, ceil_mode, count_include_pad)
    if is_watched():
        return elsewhere(avg_pool1d, torch_functional.avg_pool1d, input, *arguments)
    key = (avg_pool1d, *map(id, arguments), _is_grad_enabled(), settings.current, _threads())
    for check, run, _ in known.get(key, ()):
        if check(input):
            return run(input)
    return pool(avg_pool1d, 1, "average", key, input, arguments)


max_pool1d, max_pool2d, max_pool3d = (_max_pool(rank) for rank in (1, 2, 3))
max_pool1d_with_indices = _max_pool_with_indices(max_pool1d, 1)
max_pool2d_with_indices = _max_pool_with_indices(max_pool2d, 2)
max_pool3d_with_indices = _max_pool_with_indices(max_pool3d, 3)
avg_pool2d, avg_pool3d = _avg_pool(2), _avg_pool(3)


def _teach_torchscript() -> None:
    """torch.jit.script compiles a call of these as the ATen operator of the same name; it cannot look inside them."""
    try:
        from torch.jit import _builtins
    except ImportError:  # a torch without TorchScript, which is deprecated: nothing to teach
        return
    convs = (conv1d, conv2d, conv3d, conv_transpose1d, conv_transpose2d, conv_transpose3d)
    with_indices = (max_pool1d_with_indices, max_pool2d_with_indices, max_pool3d_with_indices)
    pools = (max_pool1d, max_pool2d, max_pool3d, *with_indices, avg_pool1d, avg_pool2d, avg_pool3d)
    for function in (*convs, *pools):
        _builtins._register_builtin(function, f"aten::{function.__name__}")


_teach_torchscript()
